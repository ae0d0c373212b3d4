"""The client's end of a sum of updates: its part before training, in it, and after it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, cast

from flwr.app import Context, Message

from fedmed.aggregation.base import FEWEST, Fields, IntegerSum, Party, Session
from fedmed.aggregation.codec import OffGrid
from fedmed.client.context import context_of
from fedmed.client.vault import Vault
from fedmed.config import Task, identity, wire
from fedmed.core.errors import FedmedError
from fedmed.core.records import EXAMPLES
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
from fedmed.federation.summation import ATTEMPT, ATTEMPT_BYTES, MEMBERS, TOGETHER
from fedmed.flower.arrays import record_of
from fedmed.flower.node_config import HOME, is_simulated
from fedmed.flower.private import ClientAppCallable

MOST = 1 << 20  # members of a cohort
MOST_EXAMPLES = 1 << 53  # of all members: what a double counts exactly
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
    aggregation, session, told = of_sum
    sent, arrays = message.content, reply.content.array_records[ARRAYS]
    if error := unfit(arrays, sent.array_records[ARRAYS], task.faults.max_norm):
        raise Unfit(error.kind, error.what)
    plan = plan_of(task, aggregation, sent, len(session.members))
    seed = seed_of(
        task.seed, "sum", spec.round, spec.client, json.dumps(identity.drawn(task), sort_keys=True)
    )
    (metrics,) = reply.content.metric_records.values()
    weight = session.weight(int(cast(int, metrics[EXAMPLES])))
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
        told: what the aggregation itself tells.
    """

    aggregation: IntegerSum
    session: Session
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
    if (session.examples > 0) != (task.strategy.weighting == "examples"):
        raise FedmedError("aggregation: weights are told where all weigh the same, or none")
    return OfSum(aggregation, session, _own(told))


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
    return {key: value for key, value in told.items() if key not in (ATTEMPT, MEMBERS, TOGETHER)}


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
    examples = told.get(TOGETHER)
    if not (type(examples) is int and 0 <= examples < MOST_EXAMPLES):
        raise FedmedError("aggregation: a message came that does not tell how clients weigh")
    return Session(spec.run.config_sha256, spec.round, attempt, tuple(members), examples)


def _are_clients(members: list[object]) -> bool:
    if any(type(client) is not int or client < 0 for client in members):
        return False
    return all(a < b for a, b in pairwise(members))  # type: ignore[operator]


def _party(spec: TaskSpec, context: Context) -> Party:
    vault = Vault(Path(spec.run.states) / f"secret-{spec.client:05d}.bin")
    if is_simulated(context):
        return Party(spec.client, vault)
    home = Home.opened(Path(str(context.node_config[HOME])))
    fewest = max(FEWEST, home.policy.cohort)
    return Party(spec.client, vault, home.signer, home.policy.peers, fewest)
