"""The common table: one row an image. Every dataset ends here, and everything else starts here.

Columns ``image patient site view sex age scanner split`` and one column a finding, where 1 is
present, 0 is absent and NaN is not known. ``view`` is PA, AP or LATERAL, ``sex`` is M or F, ``age``
is in years, ``scanner`` is the maker of the equipment, ``split`` is train, val or test; view, sex,
age and scanner may be missing, the others may not.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedmed.core.errors import ConfigError, DataError
from fedmed.core.seeding import generator
from fedmed.core.spelling import MAY_CHANGE, alike, clean, each, key, says_nothing
from fedmed.data.card import Card
from fedmed.data.inputs import InputSpec

COLUMNS = ("image", "patient", "site", "view", "sex", "age", "scanner", "split")
VALUES = {
    "view": {"PA", "AP", "LATERAL"},
    "sex": {"M", "F"},
    "split": {"train", "val", "test"},
}
OLDEST = 130  # years
SMALLEST = 2  # pixels to a side: of one nothing can be seen
NO_FINDING = "No Finding"
Aspect = Literal["squash", "keep"]


def _binary(column: str, positive: str) -> Callable[[pd.DataFrame], NDArray[np.float32]]:
    def read(table: pd.DataFrame) -> NDArray[np.float32]:
        known = table[column].notna()
        return np.where(known, table[column] == positive, np.nan).astype(np.float32)

    return read


#: Attributes that can be learnt like findings, and are easier: good smoke targets.
ATTRIBUTES = {"view": _binary("view", "AP"), "sex": _binary("sex", "M")}


@dataclass(frozen=True)
class Hidden:
    """What noise in an image's pixels hides of what the image shows.

    Attributes:
        unit: ``content``: all that it shows; ``detail``: whatever lies in ``pixels`` pixels of it.
        epsilon: of the image's release, by pure differential privacy.
        pixels: in how many pixels two images that must look alike may differ.
    """

    unit: Literal["content", "detail"]
    epsilon: float
    pixels: int


@dataclass(frozen=True)
class Origin:
    """The file that an image is read from.

    Attributes:
        path: the file.
        part: which of the images that it holds; empty where it is one image.
    """

    path: Path
    part: str = ""


class Dataset(ABC):
    """A source of radiographs: a table, and the pixels of each of its images.

    Args:
        targets: the columns to learn: findings of the card, or ``view`` and ``sex``.
        size: height and width, in pixels, of what the network sees.
        aspect: whether an image that is not square is squashed, or kept and padded with black.

    Attributes:
        card: what it is.
        distinct_ids: whether ids that :func:`~fedmed.core.spelling.alike` finds are of several
            people, because the user says so.
    """

    card: Card
    distinct_ids: bool = False

    def __init__(self, targets: Sequence[str], size: int, aspect: Aspect = "squash") -> None:
        self.targets = tuple(targets)
        self.size = size
        self.aspect = aspect
        known = (*self.card.findings, *ATTRIBUTES)
        unknown = [name for name in self.targets if name not in known]
        if unknown:
            raise ConfigError(
                f"dataset.targets: {self.card.title} has no {', '.join(unknown)}; "
                f"it has {', '.join(known)}"
            )
        if size < SMALLEST:
            raise ConfigError(f"dataset.size: takes {SMALLEST} pixels or more, got {size}")
        if not self.targets or len(set(self.targets)) < len(self.targets):
            raise ConfigError("dataset.targets: name at least one target, and each once")

    @abstractmethod
    def table(self) -> pd.DataFrame:
        """Return the table, in a fixed order. Raises DataError when label files are broken."""

    @abstractmethod
    def read(self, image: str) -> NDArray[Any]:
        """Return one image's pixels, H×W uint8, dark is air. Raises UnreadableImage.

        A table of measurements has a row's features instead, F float32.
        """

    @abstractmethod
    def recipe(self, images: Sequence[str]) -> dict[str, Any]:
        """Return all that pixels depend on besides the images' files, size and aspect."""

    @property
    def input(self) -> InputSpec:
        """What the store holds of a row: an image of ``size``×``size``, if nothing else is said."""
        return InputSpec((self.size, self.size), "uint8")

    def has(self, image: str) -> bool:
        """Say whether an image's file is there; always so where images are no files."""
        return True

    def origin(self, image: str) -> Origin | None:
        """Return the file that an image is read from, there or not; None where none is."""
        return None

    def hidden(self, image: str) -> Hidden | None:
        """Return what noise hides of an image; None where the image itself is seen."""
        return None

    def caveats(self) -> list[str]:
        """Return what a user must know before believing a result on it."""
        return [f"{self.card.title}: {self.card.caveat}"] if self.card.caveat else []


def validate(table: pd.DataFrame, dataset: Dataset) -> pd.DataFrame:
    """Return ``table`` after checking it against the schema above.

    Patients, sites and scanners get one spelling, so that nobody is two people by a blank.

    Raises:
        DataError: naming the column, the first offending image and what is allowed.
    """
    findings = list(dataset.card.findings)
    missing = [name for name in (*COLUMNS, *findings) if name not in table]
    if missing:
        raise DataError(f"{dataset.card.title}: the table lacks the columns {', '.join(missing)}")
    for column in ("image", "patient", "site", "split"):
        _reject(table, table[column].isna(), column, "a value", dataset)
    table = table.assign(**{column: _spelt(table[column]) for column in ("patient", "site")})
    table["scanner"] = _spelt(table["scanner"], by=key)
    for column in ("patient", "site"):
        nothing = table[column].map(lambda name: says_nothing(name.rpartition(":")[2]))
        _reject(table, nothing, column, "a name", dataset)
        if not dataset.distinct_ids:
            _refuse_alike(table, column, dataset)
    _reject(table, _no_age(table["age"]), "age", f"0 to {OLDEST} years or nothing", dataset)
    for column, allowed in VALUES.items():
        wrong = table[column].notna() & ~table[column].isin(allowed)
        _reject(table, wrong, column, " or ".join(sorted(allowed)), dataset)
    _reject(table, table["image"].duplicated(), "image", "each image once", dataset)
    for column in findings:
        _reject(
            table,
            table[column].notna() & ~table[column].isin([0, 1]),
            column,
            "0, 1 or nothing",
            dataset,
        )
    spread = table.groupby("patient")["split"].transform("nunique")
    _reject(table, spread > 1, "split", "one split a patient", dataset)
    return table.reset_index(drop=True)


def _spelt(words: "pd.Series[str]", by: Callable[[str], str] = clean) -> "pd.Series[Any]":
    """Return words in their clean form, those that are the same by a rule as the first of them."""
    first: dict[str, str] = {}
    return each(words, lambda word: first.setdefault(by(word), clean(word)))


def _refuse_alike(table: pd.DataFrame, column: str, dataset: Dataset) -> None:
    if same := alike(table[column]):
        one, other = (table["image"][table[column] == word].iloc[0] for word in same)
        raise DataError(
            f"{dataset.card.title}: column {column}: {same[0]!r} (image {one}) and {same[1]!r} "
            f"(image {other}) differ only by {MAY_CHANGE}; write them alike if they are one"
        )


def _no_age(ages: "pd.Series[Any]") -> "pd.Series[bool]":
    numbers = pd.to_numeric(ages, errors="coerce")
    return ages.notna() & ~numbers.between(0, OLDEST)


def _reject(
    table: pd.DataFrame, wrong: "pd.Series[bool]", column: str, allowed: str, dataset: Dataset
) -> None:
    if wrong.any():
        row = table[wrong].iloc[0]
        raise DataError(
            f"{dataset.card.title}: column {column} takes {allowed}; "
            f"image {row['image']} has {row[column]!r} ({int(wrong.sum())} such rows)"
        )


def labels(table: pd.DataFrame, targets: Sequence[str]) -> NDArray[np.float32]:
    """Return the labels to learn, N×T float32 of 0, 1 and NaN."""
    columns = [
        ATTRIBUTES[name](table) if name in ATTRIBUTES else table[name].to_numpy(np.float32)
        for name in targets
    ]
    return np.stack(columns, axis=1)


def split_by_patient(patients: "pd.Series[str]", test: float = 0.2) -> "pd.Series[str]":
    """Return train or test for each row: the split of datasets that come without one.

    A patient's place follows from a hash of the id alone, so that it never moves when others join.

    Args:
        patients: the id of each row's patient.
        test: the expected share of the patients who are tested.
    """
    place = {
        p: "test" if generator(0, "split", p).random() < test else "train" for p in set(patients)
    }
    return patients.map(place)


def table_sha256(table: pd.DataFrame) -> str:
    """Return a hash of every cell, whatever machine or pandas wrote the table."""
    return hashlib.sha256(table.to_csv(index=False, float_format="%.9g").encode()).hexdigest()
