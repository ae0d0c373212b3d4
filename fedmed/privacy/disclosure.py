"""What of a run may be seen beside its noisy weights, its test scores and its ledger.

The same answer holds wherever something could leave: at a client, on the wire, on the way to wandb,
in a page of many runs and in what is released afterwards. Server and clients ask what the task
names; a finished run has its answer in its summary.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedmed.config import Task
from fedmed.privacy.events import private_of


@dataclass(frozen=True)
class Disclosure:
    """What may be seen, by name.

    Attributes:
        losses: the clients' training losses.
        validation: the scores on their validation patients.
        counts: who has how many of what: the clients' sizes, labels and their picture.
        cohorts: what tells how many clients joined a round: its size, its losses, the bytes that it
            moved, its faults and the time that it took. Where the strategy says so, who joined is a
            secret that the guarantee rests on (``PrivateStrategy.secret_cohort``).
    """

    losses: bool
    validation: bool
    counts: bool
    cohorts: bool

    @classmethod
    def of(cls, task: Task) -> "Disclosure":
        """Return what a run of this task may show; server and clients come to the same.

        Raises:
            ConfigError: if the strategy does not say all that a private one has to.
        """
        privacy, aggregate = task.privacy, private_of(task.strategy.server)
        told = privacy.mechanism == "none" or privacy.release_metrics
        return cls(
            losses=told,
            validation=told,
            counts=told,
            cohorts=not (aggregate and aggregate.secret_cohort),
        )

    @classmethod
    def recorded(cls, summary: Mapping[str, Any]) -> "Disclosure":
        """Return what a finished run may show, as it was decided when it ran.

        Nothing that a run directory names is imported to find out; what is not recorded, as in an
        earlier version's summary, is not shown.

        Args:
            summary: the content of its ``summary.json``.
        """
        said = summary.get("disclosure", {})
        return cls(*(said.get(name) is True for name in cls.__dataclass_fields__))
