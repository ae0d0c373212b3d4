"""UCI Heart Disease (Janosi et al. 1989) as FLamby's Fed-Heart-Disease: a table of measurements.

The root holds the four files ``processed.CENTRE.data`` as downloaded: comma-separated, without a
header, ``?`` where a value is missing. What is learnt from and who is tested follows FLamby
(du Terrail et al., NeurIPS 2022): the columns slope, ca and thal are dropped, then each row that
lacks a value; chest pain and resting ECG become indicators; two thirds of each centre train, by a
stratified draw of seed 43; a centre's features are standardised by its own training rows.

Cleveland's file has a widespread copy (``heart.csv``) with other codes, other rows first and the
label turned round: 1 is healthy. It is known by a chest pain of 0, and its codes are translated.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from fedmed.core.errors import DataError
from fedmed.data import spreadsheet
from fedmed.data.card import Card
from fedmed.data.inputs import InputSpec
from fedmed.data.table import Dataset

CENTRES = ("cleveland", "hungarian", "switzerland", "va")
COLUMNS = (
    "age",
    "sex",
    "chest_pain",
    "blood_pressure",
    "cholesterol",
    "fasting_sugar",
    "resting_ecg",
    "heart_rate",
    "angina",
    "st_depression",
    "slope",
    "vessels",
    "thal",
    "disease",
)
DROPPED = ["slope", "vessels", "thal"]  # hardly known outside Cleveland
BINARY = ("sex", "fasting_sugar", "angina")
CODES = {"chest_pain": (1, 2, 3, 4), "resting_ecg": (0, 1, 2)}
#: The codes of the widespread copy, and what they mean.
RECODED = {
    "chest_pain": {0: 4, 1: 2, 2: 3, 3: 1},
    "resting_ecg": {0: 2, 1: 0, 2: 1},
    "disease": {0: 1, 1: 0},
}
TRAIN = 0.66
FEWEST = 3  # rows of a centre, for some to train and some to test
FINDING = "Heart Disease"
Table = pd.DataFrame


class HeartDisease(Dataset):
    """Heart disease or none, from 13 features of 740 patients at four centres.

    Args:
        targets: what is learnt.
        root: the folder of the four files.
        features: how many a row has.
    """

    card = Card.load("heart_disease")

    def __init__(self, targets: Sequence[str], root: Path, features: Literal[13]) -> None:
        super().__init__(targets, features)
        self.root = Path(root)

    @property
    def input(self) -> InputSpec:
        """A row's features."""
        return InputSpec((self.size,), "float32")

    def table(self) -> Table:
        """Return one row a patient, centre by centre; ``image`` is ``CENTRE/row``."""
        return self._rows[0]

    def read(self, image: str) -> NDArray[np.float32]:
        """Return a patient's features."""
        return self._features[image]

    def caveats(self) -> list[str]:
        """Return the card's, and which centres' files are the widespread copy."""
        copies = [name for name in CENTRES if _is_recoded(_complete(_path(self.root, name)))]
        return super().caveats() + [
            f"processed.{name}.data is the copy with other codes and the label turned round: they "
            f"are translated; its rows are in another order, so FLamby's draw trains on others"
            for name in copies
        ]

    def recipe(self, images: Sequence[str]) -> dict[str, Any]:
        """Return the features themselves: they are few."""
        return {image: self._features[image].tolist() for image in images}

    @cached_property
    def _features(self) -> dict[str, NDArray[np.float32]]:
        table, values = self._rows
        return dict(zip(table["image"], values, strict=True))

    @cached_property
    def _rows(self) -> tuple[Table, NDArray[np.float32]]:
        centres = [_centre(self.root, name) for name in CENTRES]
        tables, values = zip(*centres, strict=True)
        return pd.concat(tables, ignore_index=True), np.concatenate(values)


def _centre(root: Path, name: str) -> tuple[Table, NDArray[np.float32]]:
    """Return a centre's table and its features, n×13."""
    rows = _read(_path(root, name))
    disease = (rows["disease"] > 0).to_numpy().astype(np.int64)
    train = _trained(disease)
    images = [f"{name}/{row}" for row in rows.index]
    table = pd.DataFrame(
        {
            "image": images,
            "patient": [f"heart_disease:{image}" for image in images],
            "site": name,
            "view": None,
            "sex": np.where(rows["sex"] == 1, "M", "F"),
            "age": rows["age"].to_numpy(),
            "scanner": None,
            "split": np.where(train, "train", "test"),
            FINDING: disease.astype(np.float32),
        }
    )
    return table, _standardised(_indicators(rows), train)


def _path(root: Path, name: str) -> Path:
    return root / f"processed.{name}.data"


def _read(path: Path) -> Table:
    """Return the complete rows, by their line, in the codes of UCI."""
    given = rows = _complete(path)
    if _is_recoded(rows):
        rows = rows.assign(**{name: rows[name].map(codes) for name, codes in RECODED.items()})
    known = CODES | dict.fromkeys(BINARY, (0, 1)) | {"disease": (0, 1, 2, 3, 4)}
    for column, codes in known.items():
        for line in rows.index[~rows[column].isin(codes)]:
            raise DataError(
                f"{path}, line {line + 1}: {column} takes {', '.join(map(str, codes))}, "
                f"got {given[column][line]:g}"
            )
    return rows


def _is_recoded(rows: Table) -> bool:
    return bool((rows["chest_pain"] == 0).any())


def _complete(path: Path) -> Table:
    """Return the rows that lack nothing once some columns are dropped, by their line."""
    if not path.is_file():
        raise DataError(f"{path.name} is missing in {path.parent}")
    try:
        lines = [(line - 1, list(map(_number, cells))) for line, cells in spreadsheet.rows(path)]
        index, values = zip(*lines, strict=True) if lines else ((), np.empty((0, len(COLUMNS))))
        rows = pd.DataFrame(values, index, list(COLUMNS), np.float64)
    except ValueError as error:
        raise DataError(f"{path}: takes {len(COLUMNS)} numbers a line, or ?: {error}") from None
    complete = rows.drop(columns=DROPPED).dropna()
    if len(complete) < FEWEST:
        raise DataError(f"{path}: has {len(complete)} complete rows; is it whole?")
    return complete


def _number(cell: str) -> float:
    if cell.strip() == "?":
        return np.nan
    if not np.isfinite(number := float(cell)):
        raise ValueError(f"got {cell}")
    return number


def _trained(disease: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return who trains: FLamby's draw, stratified where each class has more than two."""
    counts = np.bincount(disease, minlength=2)
    stratify = disease if counts.min() > 2 else None
    drawn = train_test_split(
        np.arange(len(disease)),
        train_size=TRAIN,
        test_size=1 - TRAIN,
        random_state=43,
        stratify=stratify,
    )
    return np.isin(np.arange(len(disease)), drawn[0])


def _indicators(rows: Table) -> NDArray[np.float64]:
    """Return the features, n×13: a code becomes one indicator a value but its first."""
    plain = rows.drop(columns=[*CODES, "disease"])
    columns = [
        (rows[column] == code).to_numpy()[:, None]
        for column, codes in CODES.items()
        for code in codes[1:]
    ]
    return np.hstack([plain.to_numpy(), *columns])


def _standardised(values: NDArray[np.float64], train: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return values by the mean and deviation of those that train; 0 where they are all alike."""
    mean, deviation = values[train].mean(axis=0), values[train].std(axis=0, ddof=1)
    scaled: NDArray[np.float64] = (values - mean) / np.where(deviation > 0, deviation, np.inf)
    return scaled.astype(np.float32)
