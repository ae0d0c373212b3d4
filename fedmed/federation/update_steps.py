"""What is done to an update on its way from a client to the server, a step at a time.

A client takes the steps in their order: what it has learnt is split into what travels and what it
keeps, then changed by the steps that the strategy names (``strategy.local``). The server undoes
them in reverse, reply by reply, before it aggregates.
"""

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol, cast

from flwr.app import RecordDict

from fedmed.config import Strategy
from fedmed.core.errors import ConfigError
from fedmed.federation.messages import ARRAYS, KEPT
from fedmed.flower.arrays import record_of
from fedmed.training.hooks import LocalHooks


class UpdateStep:
    """One change to an update: made at the client, undone at the server.

    A step is made anew for each message; what a client must remember of it from round to round is
    in ``state``, which never leaves the client and is checkpointed. What leaves has arrays of the
    names, types and shapes that were sent, beside what ``metrics`` and ``records`` announce: the
    server takes nothing else.

    Attributes:
        metrics: the names of the metrics that :meth:`encode` adds.
        records: the config records that it adds, and the names of the finite numbers in each.
    """

    metrics: frozenset[str] = frozenset()
    records: Mapping[str, frozenset[str]] = MappingProxyType({})

    def encode(self, sent: RecordDict, content: RecordDict, state: RecordDict, seed: int) -> None:
        """Change what travels, in place, at the client.

        Args:
            sent: what the server sent: global arrays (``arrays``) and its ``config``.
            content: the reply as the step before has left it: ``arrays`` and ``metrics``.
            state: the client's own, kept from round to round.
            seed: of what is random in it; of this configuration, round and client alone.
        """

    def decode(self, sent: RecordDict, content: RecordDict) -> None:
        """Change what has come, in place, at the server.

        Args:
            sent: what this client was sent.
            content: its reply as the step after has left it, already held against what is due.
        """


class SharedArrays(UpdateStep):
    """Keeps at the client what is not shared (``strategy.state``); the server never has it.

    Args:
        names: of the arrays that travel.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = names

    def encode(self, sent: RecordDict, content: RecordDict, state: RecordDict, seed: int) -> None:
        """Move what stays from the reply into the client's state."""
        arrays = content.array_records[ARRAYS]
        shared = {name: array for name, array in arrays.items() if name in self._names}
        if kept := {name: array for name, array in arrays.items() if name not in self._names}:
            state[KEPT] = record_of(kept)
        content[ARRAYS] = record_of(shared)


class Stepping(Protocol):
    """A strategy that relies on what clients do to their updates, and so says it itself.

    Server and clients each build it, from the same arguments, and ask: no key can have a client do
    something else than what the server accounts for.
    """

    def update_steps(self, others: Sequence[UpdateStep]) -> list[UpdateStep]:
        """Return all steps, in the order in which clients take them.

        Args:
            others: those that ``strategy.local`` names, which belong among them.

        Raises:
            ConfigError: if they do not go with the strategy's own.
        """


def local_of(strategy: Strategy) -> tuple[LocalHooks, list[UpdateStep]]:
    """Return what a strategy changes in local training, and its steps, in order.

    These are the steps that ``strategy.local`` names, and those of the strategy's class, if it has
    any (:class:`Stepping`).

    Raises:
        ConfigError: if ``strategy.local`` names something else, several hooks, or steps that do not
            go with the strategy's own.
    """
    hooks, steps = [], []
    for component in strategy.locals:
        built = component.build()
        if not isinstance(built, LocalHooks | UpdateStep):
            raise ConfigError(f"strategy.local: {component.target} is no LocalHooks or UpdateStep")
        if isinstance(built, LocalHooks):
            hooks.append(built)
        if isinstance(built, UpdateStep):
            steps.append(built)
    if len(hooks) > 1:
        raise ConfigError(f"strategy.local: takes one LocalHooks, got {len(hooks)}")
    if strategy.server.has("update_steps"):
        steps = cast(Stepping, strategy.server.build()).update_steps(steps)
    return (hooks[0] if hooks else LocalHooks()), steps


def encode(
    steps: Sequence[UpdateStep], sent: RecordDict, content: RecordDict, state: RecordDict, seed: int
) -> None:
    """Take all steps at the client, in order; see :meth:`UpdateStep.encode`."""
    for step in steps:
        step.encode(sent, content, state, seed)


def decode(steps: Sequence[UpdateStep], sent: RecordDict, content: RecordDict) -> None:
    """Undo all steps at the server, in reverse; see :meth:`UpdateStep.decode`."""
    for step in reversed(steps):
        step.decode(sent, content)
