"""What every engine is: a Flower Grid whose clients have an order, and a place for test scores."""

from abc import abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, Message
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedmed.metrics import Floats


class ClientStates:
    """The clients' states, at rest on disk, one file a client and round.

    A round's files only count once the checkpoint names them, so a round that is cut off leaves
    the states as they were.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rounds: dict[int, int] = {}  # client → the round whose file is its state

    def path(self, client: int) -> Path | None:
        """Return where the client's state lies, if it has one."""
        return self._file(client, self.rounds[client]) if client in self.rounds else None

    def path_of(self, client: int, round_: int) -> Path:
        """Return where the client's state of a round goes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return self._file(client, round_)

    def adopt(self, client: int, round_: int) -> None:
        """Take the state that was left for a round, if any was."""
        if self._file(client, round_).exists():
            self.rounds[client] = round_

    def prune(self) -> None:
        """Delete the files that no longer count."""
        current = {self._file(*item) for item in self.rounds.items()}
        for file in self.folder.glob("*.safetensors"):
            if file not in current:
                file.unlink()

    def _file(self, client: int, round_: int) -> Path:
        return self.folder / f"client-{client:05d}-round-{round_:05d}.safetensors"


class Engine(Grid):
    """A Grid that a run can be driven over.

    Attributes:
        states: the clients' states.
        round: the current round, set by who drives the rounds.
        bytes_down, bytes_up: array bytes sent to and received from clients so far.
        on_reply: called with each reply in the order of the clients, while later ones still work.
    """

    def __init__(self, states: ClientStates) -> None:
        self.states = states
        self.round = 0
        self.bytes_down = self.bytes_up = 0
        self.on_reply: Callable[[Message], None] = lambda reply: None

    @abstractmethod
    def client_of(self, node: int) -> int:
        """Return the client behind a node."""

    @abstractmethod
    def score(self, arrays: ArrayRecord) -> Floats:
        """Return the probabilities, N×T, of the test images under ``arrays``."""

    # Flower's strategies only ask for nodes and exchange messages; the rest of the interface is
    # for server apps that drive a SuperLink themselves.

    def set_run(self, run: Run) -> None:  # noqa: D102
        raise NotImplementedError

    @property
    def run(self) -> Run:  # noqa: D102
        raise NotImplementedError

    def create_message(self, *_: Any, **__: Any) -> Message:  # noqa: D102
        raise NotImplementedError

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:  # noqa: D102
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:  # noqa: D102
        raise NotImplementedError
