"""The checkpoint: all that a round leaves for the next, in one file replaced in one step."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from flwr.serverapp.strategy import Strategy

from fedmed import trees
from fedmed.models import Arrays

Row = tuple[int, str, int, str, float]  # round, scope, client (-1: all together), metric, value


@dataclass
class Checkpoint:
    """The state of a run between two rounds.

    Attributes:
        data: hashes of data, partition and configuration, which a resumed run must share.
        arrays: the global arrays.
        round: rounds done.
        strategy: what the strategy remembers on the server.
        clients: the round of each client's state file.
        metrics: rows of ``metrics.csv``.
        bytes_down, bytes_up: array bytes moved so far.
        seconds: spent in each round so far.
        surroundings: all that the rounds so far were run on; see ``identity.surroundings``.
    """

    data: dict[str, str]
    arrays: Arrays
    round: int = 0
    strategy: dict[str, Any] = field(default_factory=dict)
    clients: dict[int, int] = field(default_factory=dict)
    metrics: list[Row] = field(default_factory=list)
    bytes_down: int = 0
    bytes_up: int = 0
    seconds: list[float] = field(default_factory=list)
    surroundings: list[dict[str, str]] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write the checkpoint. Raises FedmedError if the disk does not take it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        trees.save(vars(self), path)

    @classmethod
    def load(cls, path: Path) -> "Checkpoint | None":
        """Return the checkpoint at ``path``, None if there is none.

        Raises:
            FedmedError: if it is damaged, or another version of fedmed left it.
        """
        if not path.exists():
            return None
        kept = trees.load(path)
        if not isinstance(kept, dict) or kept.keys() != {f.name for f in fields(cls)}:
            raise trees.damaged(path, "it is no checkpoint of this version")
        return cls(**kept)


def remember(strategy: Strategy) -> dict[str, Any]:
    """Return a strategy's attributes, as a tree; its functions are part of its configuration."""
    return {
        name: remember(value) if isinstance(value, Strategy) else value
        for name, value in vars(strategy).items()
        if not callable(value) or isinstance(value, Strategy)
    }


def remind(strategy: Strategy, attributes: Mapping[str, Any]) -> None:
    """Set a strategy's attributes to what :func:`remember` returned, in place."""
    for name, value in attributes.items():
        own = getattr(strategy, name)
        if isinstance(own, Strategy):
            remind(own, value)
        else:
            setattr(strategy, name, value)
