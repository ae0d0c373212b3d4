"""Any partitioner of flwr-datasets."""

import inspect
from typing import Any

import pandas as pd
from hydra.utils import get_object

from fedmed.core.errors import ConfigError
from fedmed.core.seeding import seed_of, seeded_globals
from fedmed.partition.rule import Rule, Seed, ValFraction, parts

_KEY = "partition.partitioner"


class Flower(Rule):
    """What one of flwr-datasets' partitioners makes of the shuffled table of patients.

    Args:
        partitioner: its ``_target_`` and arguments; ``partition_by`` may be any column of
            ``patients_of``. Where it takes a seed and none is given, ours is.
        val_fraction, seed: see Rule.

    Raises:
        ConfigError: if it refuses its arguments.
    """

    def __init__(self, partitioner: dict[str, Any], val_fraction: ValFraction, seed: Seed) -> None:
        super().__init__(val_fraction, seed)
        if "_target_" not in partitioner:
            raise ConfigError(f"{_KEY}: lacks its _target_, a class of flwr_datasets.partitioner")
        self.target = get_object(partitioner["_target_"])
        self.arguments = {k: v for k, v in partitioner.items() if k != "_target_"}
        if "seed" in inspect.signature(self.target).parameters:
            self.arguments.setdefault("seed", seed_of(seed, "flower") % 2**32)
        try:
            self.target(**self.arguments)
        except Exception as error:
            raise ConfigError(f"{_KEY}: {_first_line(error)}") from None

    def divide(self, patients: pd.DataFrame) -> list[list[str]]:  # noqa: D102
        try:
            with seeded_globals(self.seed, "flower"):
                divided = parts(self.target(**self.arguments), patients)
        except Exception as error:  # each class has its own ways to refuse a table
            raise ConfigError(f"{_KEY}: {_first_line(error)}") from None
        if left := len(patients) - sum(map(len, divided)):
            raise ConfigError(
                f"{_KEY}: each patient needs one client; it leaves {left} of {len(patients)} to "
                "nobody"
                if left > 0
                else f"{_KEY}: each patient needs one client; it gives {-left} patients several"
            )
        return divided


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"{type(error).__name__}: {lines[0]}" if isinstance(error, KeyError) else lines[0]
