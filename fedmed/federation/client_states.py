"""Which round's file is each client's state; the files are the clients' own."""

from collections.abc import Mapping


class ClientStates:
    """The round of each client's state, as of now and as of the last checkpoint."""

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
