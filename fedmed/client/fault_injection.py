"""Faults injected on purpose (``faults.inject``): a Flower mod around the client app's training.

Who fails and when is listed, or drawn from a stream of its own for each client and round, so that
it is the same on every engine and changes nothing else that is random.
"""

import os
import signal
import time

import numpy as np
from flwr.app import Context, Message
from numpy.typing import NDArray

from fedmed.client.context import context_of
from fedmed.config import Injection, Task
from fedmed.core.seeding import generator
from fedmed.federation.messages import DroppedOut, TaskSpec
from fedmed.flower.arrays import record_of
from fedmed.flower.private import ClientAppCallable

HUGE = 1e30  # squared it overflows single precision
_POISON = {"nans": np.nan, "infinities": np.inf}


class Injected(Exception):
    """The exception of a client that is made to raise."""


def inject(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Let a fault strike a client's training, if one is meant for it."""
    if not message.metadata.message_type.startswith("train"):
        return call_next(message, context)
    spec = TaskSpec.of(message, context)
    fault = injected(context_of(spec.run).config, spec.round, spec.client)
    if fault is None:
        return call_next(message, context)
    strike_before(fault)
    reply = call_next(message, context)
    strike_after(fault, reply)
    return reply


def injected(config: Task, round_: int, client: int) -> Injection | None:
    """Return the first of the configured faults that strikes a client in a round, if any does."""
    for i, fault in enumerate(config.faults.inject):
        if fault.clients is not None and client not in fault.clients:
            continue
        if fault.rounds is not None and round_ not in fault.rounds:
            continue
        if generator(config.seed, "fault", i, round_, client).random() < fault.rate:
            return fault
    return None


def strike_before(fault: Injection) -> None:
    """Have a client fail, or be slow, before it trains."""
    if fault.kind == "raise":
        raise Injected("a fault that faults.inject asks for")
    if fault.kind == "dropout":
        raise DroppedOut
    if fault.kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault.kind == "slow":
        time.sleep(fault.seconds)


def strike_after(fault: Injection, reply: Message) -> None:
    """Spoil the arrays of a reply, in place."""
    for key, record in list(reply.content.array_records.items()):
        spoilt = {name: _spoilt(fault, array.numpy()) for name, array in record.items()}
        reply.content[key] = record_of(spoilt)


def _spoilt(fault: Injection, values: NDArray[np.float32]) -> NDArray[np.float32]:
    if fault.kind in _POISON:
        return np.full_like(values, _POISON[fault.kind])
    if fault.kind == "huge":
        return np.full_like(values, HUGE)
    if fault.kind == "shape":
        return np.zeros((*values.shape, 2), values.dtype)
    return values
