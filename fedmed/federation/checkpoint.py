"""The checkpoint: all that a round leaves for the next, in one file replaced in one step."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from fedmed.core.files import damaged
from fedmed.core.records import MetricRow
from fedmed.flower import serialization
from fedmed.models import Arrays


@dataclass
class Checkpoint:
    """The state of a run between two rounds; other fields are another ``serialization.FORMAT``.

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
        head: of the run's record, as ``SIZE:ROOT``.
    """

    data: dict[str, str]
    arrays: Arrays
    round: int = 0
    strategy: dict[str, Any] = field(default_factory=dict)
    clients: dict[int, int] = field(default_factory=dict)
    metrics: list[MetricRow] = field(default_factory=list)
    bytes_down: int = 0
    bytes_up: int = 0
    seconds: list[float] = field(default_factory=list)
    surroundings: list[dict[str, str]] = field(default_factory=list)
    head: str = ""

    def save(self, path: Path) -> None:
        """Write the checkpoint. Raises FedmedError if the disk does not take it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        serialization.save(vars(self) | {"metrics": list(map(tuple, self.metrics))}, path)

    @classmethod
    def load(cls, path: Path) -> "Checkpoint | None":
        """Return the checkpoint at ``path``, None if there is none.

        Raises:
            FedmedError: if it is damaged, of a newer format, or another version of fedmed left it.
        """
        if not path.exists():
            return None
        kept = serialization.load(path)
        if not isinstance(kept, dict) or kept.keys() != {f.name for f in fields(cls)}:
            raise damaged(path, "it is no checkpoint of this version")
        rows = [MetricRow(*row) for row in kept.pop("metrics")]
        return cls(**kept, metrics=rows)
