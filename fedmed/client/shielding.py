"""The client's end of a sum of updates: its part before training, in it, and after it."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from flwr.app import Context, Message

from fedmed.aggregation.base import FEWEST, Fields, IntegerSum, Party, Session
from fedmed.aggregation.codec import OffGrid
from fedmed.client.context import context_of
from fedmed.client.vault import Vault
from fedmed.config import Task, identity, wire
from fedmed.core.errors import FedmedError
from fedmed.core.seeding import seed_of
from fedmed.deployment.home import Home
from fedmed.deployment.policy import Refused
from fedmed.federation.messages import (
    AGGREGATION,
    ARRAYS,
    PAYLOAD,
    STEP,
    TaskSpec,
    Unfit,
    packed,
    unpacked,
)
from fedmed.federation.reply_filter import unfit
from fedmed.federation.summands import plan_of
from fedmed.federation.summation import ATTEMPT, ATTEMPT_BYTES, MEMBERS, RELATIVE
from fedmed.flower.arrays import record_of
from fedmed.flower.node_config import HOME, is_simulated
from fedmed.flower.private import ClientAppCallable

MOST = 1 << 20  # members of a cohort
KIND = "aggregation"  # of what is refused here


def shield(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Put a client's part of a sum in the place of its arrays, where there is one: a Flower mod.

    Raises:
        Unfit: if the update is none that may enter a sum: there the server cannot look at it.
        FedmedError: if what is told of the sum is not what it has to be.
    """
    spec = TaskSpec.of(message, context)
    task = context_of(spec.run).config
    of_sum = told_of_sum(message, spec, task)
    reply = call_next(message, context)
    if of_sum is None:
        return reply
    aggregation, session, weight, told = of_sum
    sent, arrays = message.content, reply.content.array_records[ARRAYS]
    if error := unfit(arrays, sent.array_records[ARRAYS], task.faults.max_norm):
        raise Unfit(error.kind, error.what)
    plan = plan_of(task, aggregation, sent, len(session.members))
    seed = seed_of(
        task.seed, "sum", spec.round, spec.client, json.dumps(identity.drawn(task), sort_keys=True)
    )
    try:
        vector = plan.encode(sent, reply.content, weight, seed)
    except OffGrid as error:
        raise Unfit("saturated", f"returned an update of which {error}") from None
    own = _party(spec, context)
    with refusing(context):
        payload = aggregation.protect(session, vector, plan.width, told, own)
    reply.content[ARRAYS] = record_of({PAYLOAD: payload})
    return reply


def answer(message: Message, context: Context) -> Message:
    """Return a client's part in a step of an aggregation beside training.

    Raises:
        FedmedError: if there is no such step, or what is told does not fit.
    """
    spec = TaskSpec.of(message, context)
    aggregation = wire.loads(spec.run.config, spec.run.config_sha256).aggregation.build()
    if not isinstance(aggregation, IntegerSum):
        raise FedmedError("aggregation: a step was asked for, and this task has none")
    own = _party(spec, context)
    with refusing(context):
        told = unpacked(message.content)
        session = _session(spec, told)
        found = aggregation.answer(session, str(told.pop(STEP, "")), _own(told), own)
    return Message(packed(found), reply_to=message)


class OfSum(NamedTuple):
    """What a client is told of the sum that its update is to be part of.

    Attributes:
        aggregation: which sums.
        session: the attempt.
        weight: the client's, relative to the mean of all members.
        told: what the aggregation itself tells.
    """

    aggregation: IntegerSum
    session: Session
    weight: float
    told: Fields


def told_of_sum(message: Message, spec: TaskSpec, task: Task) -> OfSum | None:
    """Return what an order to train tells of a sum; None if the task has none.

    Args:
        message: the order.
        spec: what it says of whom, and when.
        task: of the run; where there is a policy, it allows it.

    Raises:
        FedmedError: if it is not what it has to be.
    """
    aggregation = task.aggregation.build()
    if not isinstance(aggregation, IntegerSum):
        return None
    told = message.content.config_records.get(AGGREGATION)
    if told is None:
        raise FedmedError("aggregation: this client was told nothing of the sum it is to be in")
    session = _session(spec, told)
    if spec.client not in session.members:
        raise FedmedError("aggregation: this client is asked for its part of a sum of others")
    return OfSum(aggregation, session, _weight(task, told, session), _own(told))


@contextmanager
def refusing(context: Context) -> Iterator[None]:
    """Have a hospital note what it refuses; the server is told no more than that it does."""
    try:
        yield
    except FedmedError as error:
        if is_simulated(context):
            raise
        raise Refused(KIND, str(error)) from None


def _own(told: Fields) -> Fields:
    """Return what the aggregation itself tells, without the heading of each message."""
    return {key: value for key, value in told.items() if key not in (ATTEMPT, MEMBERS, RELATIVE)}


def _session(spec: TaskSpec, told: Fields) -> Session:
    """Return the session that a message belongs to.

    Raises:
        FedmedError: if it tells none.
    """
    attempt, members = told.get(ATTEMPT), told.get(MEMBERS)
    if not (isinstance(attempt, bytes) and len(attempt) == ATTEMPT_BYTES):
        raise FedmedError("aggregation: a message came of no attempt at a sum")
    if not (isinstance(members, list) and len(members) <= MOST and _are_clients(members)):
        raise FedmedError("aggregation: a message came whose members are no list of clients")
    return Session(spec.run.config_sha256, spec.round, attempt, tuple(members))


def _are_clients(members: list[object]) -> bool:
    if any(type(client) is not int or client < 0 for client in members):
        return False
    return all(a < b for a, b in pairwise(members))  # type: ignore[operator]


def _weight(task: Task, told: Fields, session: Session) -> float:
    """Return the client's relative weight; where all weigh the same it is 1, whoever says else.

    Raises:
        FedmedError: if it is none, or not the one that is due.
    """
    weight = told.get(RELATIVE)
    if not (isinstance(weight, float) and 0 < weight <= len(session.members)):
        raise FedmedError(f"aggregation: {weight!r} is told as this client's weight")
    if task.strategy.weighting == "uniform" and not math.isclose(weight, 1.0, rel_tol=0):
        raise FedmedError(f"aggregation: {weight!r} is told as this client's weight, which is 1")
    return weight


def _party(spec: TaskSpec, context: Context) -> Party:
    vault = Vault(Path(spec.run.states) / f"secret-{spec.client:05d}.bin")
    if is_simulated(context):
        return Party(spec.client, vault)
    home = Home.opened(Path(str(context.node_config[HOME])))
    fewest = max(FEWEST, home.policy.cohort)
    return Party(spec.client, vault, home.signer, home.policy.peers, fewest)
