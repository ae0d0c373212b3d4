"""The hospital's policy, held against every message before anything that it names is opened."""

import math
from dataclasses import replace
from pathlib import Path

from flwr.app import Context, Message

from fedmed.client.shielding import refusing, told_of_sum
from fedmed.config import DPSGD, Task, wire
from fedmed.deployment import node_data
from fedmed.deployment.home import Home
from fedmed.deployment.policy import Promise, Refused
from fedmed.federation.messages import (
    AGGREGATE,
    CONFIG,
    DESCRIBE,
    NOISE,
    RunContext,
    TaskSpec,
)
from fedmed.flower.node_config import HOME, is_simulated
from fedmed.flower.private import ClientAppCallable
from fedmed.privacy.budget import planned
from fedmed.privacy.disclosure import Disclosure
from fedmed.privacy.events import Event


def enforce(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Let through what the hospital's policy allows, once it is paid for: a Flower mod.

    Raises:
        Refused: naming the part of the policy that stands against it.
        FedmedError: if the node has no policy, or its ledger is damaged.
    """
    if is_simulated(context):
        return call_next(message, context)
    run = RunContext.of(message, context)  # which refuses a node without a home
    home = Home.opened(Path(str(context.node_config[HOME])))
    try:
        _check(home, run, message, context)
        return call_next(message, context)
    except Refused as refused:  # of a sum, only its own secrets tell what does not fit
        home.note(refused)
        raise


def _check(home: Home, run: RunContext, message: Message, context: Context) -> None:
    task = wire.parsed(run.config, run.config_sha256)
    home.policy.check(task)
    home.policy.check_peers(home.signer.public, task)
    kind = message.metadata.message_type
    if kind == DESCRIBE:
        return
    spec = TaskSpec.of(message, context)
    if spec.client != home.policy.client:
        raise Refused("client", f"meant for {spec.client}, this is {home.policy.client}")
    if not 1 <= spec.round <= task.rounds:
        raise Refused("round", f"round {spec.round} asked, of {task.rounds}")
    if kind == "train":
        with refusing(context):  # before it is paid for, and patients are opened
            told_of_sum(message, spec, task)
        _pay(home, task, spec, message)
    elif kind != AGGREGATE and not Disclosure.of(task).validation:
        raise Refused("metrics", "scores asked of a task that withholds them")


def _pay(home: Home, task: Task, spec: TaskSpec, message: Message) -> None:
    """Have the ledger authorise a training, by the noise that this hospital will add itself."""
    promise = home.policy.privacy if isinstance(home.policy.privacy, Promise) else None
    patients = node_data.trained_on(home.data)
    event: Event | None = None
    if isinstance(task.privacy, DPSGD) and task.unit.extent == "patient":
        (own,) = planned(task, [len(patients)])
        event = replace(own, round=spec.round, client=None)
        _check_noise(event, promise, spec, message)
    home.lifetime.authorise(spec.run.config_sha256, spec.round, patients, event, promise)


def _check_noise(event: Event, promise: Promise | None, spec: TaskSpec, message: Message) -> None:
    """Refuse noise that is not what the task and this hospital's own numbers come to."""
    z = event.noise_multiplier
    if promise and z < promise.noise_multiplier:
        raise Refused("privacy.noise_multiplier", f"{z:g}, {promise.noise_multiplier:g} the least")
    records = message.content.config_records
    told = records[CONFIG].get(NOISE) if CONFIG in records else None
    said = told[spec.client] if isinstance(told, list) and spec.client < len(told) else None
    if not (isinstance(said, float) and math.isclose(said, z, rel_tol=1e-9)):
        raise Refused("noise", f"{said!r} told, {z:g} is what the task comes to here")
