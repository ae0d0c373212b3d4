"""Natural clients: who was imaged in one place, or in one way."""

from typing import Literal

import pandas as pd

from fedmed.core.errors import ConfigError
from fedmed.partition.patients import UNKNOWN
from fedmed.partition.rule import Rule, Seed, ValFraction, parts


class Natural(Rule):
    """A client is a site of the dataset, or a view, a maker of scanners, a sex.

    A patient belongs where most of their images do. Those of whom nothing is known share a
    client, "unknown". Clients are in the order of the values.

    Args:
        by: the column that tells clients apart.
        val_fraction, seed: see Rule.
    """

    def __init__(
        self,
        by: Literal["site", "view", "scanner", "sex"],
        val_fraction: ValFraction,
        seed: Seed,
    ) -> None:
        super().__init__(val_fraction, seed)
        self.by = by

    def divide(self, patients: pd.DataFrame) -> list[list[str]]:  # noqa: D102
        from flwr_datasets.partitioner import NaturalIdPartitioner  # slow

        values = patients[self.by]
        if values.isna().all():
            raise ConfigError(f"partition.by: {self.by} is known of no patient; choose another")
        known = patients[["patient"]].assign(value=values.fillna(UNKNOWN))
        return parts(NaturalIdPartitioner("value"), known)
