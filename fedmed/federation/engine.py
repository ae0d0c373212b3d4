"""What every engine is: a Flower Grid whose clients have an order, and a place for test scores."""

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Self

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from fedmed.evaluation.metrics import Floats
from fedmed.federation.messages import STATE, Brief
from fedmed.flower.arrays import size_of
from fedmed.flower.private import ExchangeGrid

log = logging.getLogger(__name__)


class ClientStates:
    """Which round's file is each client's state; the files are the clients' own."""

    def __init__(self) -> None:
        self._current: dict[int, int] = {}
        self._before: dict[int, int] = {}
        self._kept: dict[int, int] = {}

    def resume(self, rounds: Mapping[int, int]) -> None:
        """Begin with what a checkpoint names."""
        self._current, self._kept = dict(rounds), dict(rounds)

    def adopt(self, client: int, round_: int) -> None:
        """Take the state that the client left for a round."""
        if client in self._current:
            self._before[client] = self._current[client]
        self._current[client] = round_

    def undo(self, client: int) -> None:
        """Give a client back the state that it had before the last one was adopted."""
        self._current.pop(client, None)
        if client in self._before:
            self._current[client] = self._before[client]

    def rounds(self) -> dict[int, int]:
        """Return client → round, for a checkpoint."""
        return dict(self._current)

    def commit(self) -> None:
        """Note that the checkpoint names the current ones: those before need not be kept."""
        self._kept = dict(self._current)

    def of(self, client: int) -> tuple[int, int]:
        """Return the client's current round and the last checkpoint's, -1 for none."""
        return self._current.get(client, -1), self._kept.get(client, -1)


class Engine(ExchangeGrid):
    """A Grid that a run can be driven over. Its nodes are the clients in order, from 1.

    Attributes:
        states: which round's state each client has.
        round: the current round, set by who drives the rounds.
        say: called with a line for a person who waits; set likewise.
        bytes_down, bytes_up: array bytes sent to and received from clients so far.

    Args:
        clients: how many there are.
        run_config: what each client is told about the run: a brief's overrides and files.
    """

    def __init__(self, clients: int, run_config: Mapping[str, str]) -> None:
        self.states = ClientStates()
        self.round = 0
        self.say: Callable[[str], None] = log.warning
        self.bytes_down = self.bytes_up = 0
        self._clients = clients
        self._run_config = run_config

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Free what the engine holds."""

    @abstractmethod
    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Deliver the messages and yield the replies one by one, in the order of the clients.

        Who fails is answered for by an error reply; who takes longer than ``timeout`` seconds by
        one too, or not at all. Consume them all: what is not taken may not have been done.
        """

    @abstractmethod
    def score(self, arrays: ArrayRecord) -> Floats:
        """Return the probabilities, N×T, of the test images under ``arrays``."""

    def get_node_ids(self) -> list[int]:
        """Return the nodes in the order of their clients."""
        return [client + 1 for client in range(self._clients)]

    def client_of(self, node: int) -> int:
        """Return the client behind a node."""
        return node - 1

    def _sent(self, message: Message) -> ConfigRecord:
        """Note that a message leaves, and return the brief that goes with it."""
        self.bytes_down += _array_bytes(message.content)
        client = self.client_of(message.metadata.dst_node_id)
        state, kept = self.states.of(client)
        return Brief(client, self.round, state, kept, **self._run_config).record()

    def _received(self, message: Message, content: RecordDict) -> Message:
        """Note what came back, and return it as the reply to ``message``."""
        if content.pop(STATE, None):
            self.states.adopt(self.client_of(message.metadata.dst_node_id), self.round)
        self.bytes_up += _array_bytes(content)
        return Message(content, reply_to=message)


def _array_bytes(content: RecordDict) -> int:
    return sum(size_of(record) for record in content.array_records.values())
