"""What of a run may be seen beside its noisy weights, its test scores and its ledger.

The same answer holds wherever something could leave: at a client, on the wire, on the way to wandb,
in a page of many runs and in what is released afterwards.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedmed.config import Task


@dataclass(frozen=True)
class Disclosure:
    """What may be seen, by name.

    Attributes:
        losses: the clients' training losses.
        validation: the scores on their validation patients.
        counts: who has how many of what: the clients' sizes, labels and their picture.
        cohorts: what tells how many clients joined a round: its size, its losses, the bytes that it
            moved, its faults and the time that it took. Where the server adds the noise, who joined
            is a secret that the guarantee rests on.
    """

    losses: bool
    validation: bool
    counts: bool
    cohorts: bool

    @classmethod
    def of(cls, task: Task) -> "Disclosure":
        """Return what a run of this task may show; server and clients come to the same."""
        return cls.read(task.model_dump(include={"privacy", "strategy"}))

    @classmethod
    def read(cls, resolved: Mapping[str, Any]) -> "Disclosure":
        """Return what a run may show.

        Args:
            resolved: its configuration with its values, as a run directory keeps it.
        """
        privacy, strategy = resolved["privacy"], resolved["strategy"]
        told = bool(privacy["mechanism"] == "none" or privacy["release_metrics"])
        return cls(
            losses=told,
            validation=told,
            counts=told,
            cohorts=strategy.get("noise") != "central",
        )
