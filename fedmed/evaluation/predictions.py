"""Predictions: the score and the label of each target on test images, and whose images they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedmed.core.errors import FedmedError
from fedmed.core.files import damaged
from fedmed.evaluation.metrics import Floats

#: Of an image's row in the common table, what subgroups are made of.
ATTRIBUTES = ("site", "view", "sex", "age")


@dataclass(frozen=True)
class Predictions:
    """Scores on n images of T targets.

    Attributes:
        targets: their names.
        scores: probabilities, n×T.
        labels: n×T of 1, 0 and NaN.
        images: n columns ``image patient`` and :data:`ATTRIBUTES`, as far as they are known.
    """

    targets: tuple[str, ...]
    scores: Floats
    labels: Floats
    images: pd.DataFrame

    @property
    def patients(self) -> NDArray[np.intp]:
        """The number of each image's patient, 0 … P-1, in the order of their ids."""
        return pd.factorize(self.images["patient"], sort=True)[0]

    def of(self, rows: NDArray[np.bool_]) -> "Predictions":
        """Return the predictions on some of the images."""
        return Predictions(self.targets, self.scores[rows], self.labels[rows], self.images[rows])

    def frame(self) -> pd.DataFrame:
        """Return the table of ``predictions.parquet``: one row an image."""
        kept = [name for name in ("image", "patient", *ATTRIBUTES) if name in self.images]
        columns: dict[str, Any] = {name: self.images[name].to_numpy() for name in kept}
        for i, target in enumerate(self.targets):
            columns[f"{target}/score"] = self.scores[:, i]
            columns[f"{target}/label"] = self.labels[:, i]
        return pd.DataFrame(columns)

    @classmethod
    def read(cls, path: Path) -> "Predictions":
        """Read a run's ``predictions.parquet``.

        Raises:
            FedmedError: if there is none, or it is damaged.
        """
        if not path.exists():
            raise FedmedError(f"{path}: there are no predictions; is the run finished?")
        try:
            frame = pd.read_parquet(path)
            _ = frame[["image", "patient"]]
        except (ValueError, OSError, KeyError):
            raise damaged(path, "it is no table of predictions") from None
        targets = tuple(
            name.removesuffix("/score") for name in map(str, frame) if name.endswith("/score")
        )
        kept = [name for name in ("image", "patient", *ATTRIBUTES) if name in frame]
        return cls(
            targets,
            _stack(frame, targets, "score"),
            _stack(frame, targets, "label"),
            frame[kept],
        )

    def same_test(self, other: "Predictions") -> bool:
        """Say whether both are of the same images, patients and labels, in the same order."""
        ids = ["image", "patient"]
        return (
            self.targets == other.targets
            and self.images[ids]
            .reset_index(drop=True)
            .equals(other.images[ids].reset_index(drop=True))
            and np.array_equal(self.labels, other.labels, equal_nan=True)
        )


def _stack(frame: pd.DataFrame, targets: Sequence[str], what: str) -> Floats:
    columns = [f"{target}/{what}" for target in targets]
    return frame[columns].to_numpy(np.float32)
