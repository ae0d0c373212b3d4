"""Label files: tables of text whose faults are named by file, row and column."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedmed.core.errors import DataError
from fedmed.core.spelling import MAY_CHANGE, alike, clean, each, says_nothing, trim
from fedmed.data import spreadsheet
from fedmed.data.pixels.dicom import YEARS
from fedmed.data.table import OLDEST

T = TypeVar("T")
SHOWN = 20  # columns that are named in the place of one that is missing
MARKS = {";": "semicolons", "\t": "tabs"}


@dataclass(frozen=True)
class LabelFile:
    """A table of labels, its cells as text, and errors that name the file, the row and the column.

    Attributes:
        path: the file.
        cells: its cells, without what cannot be seen at their ends; None where empty.
        rows: the number that each row has in the file, whose header is row 1.
    """

    path: Path
    cells: pd.DataFrame
    rows: NDArray[np.int64]

    @classmethod
    def read(
        cls, path: Path, columns: Collection[str], optional: Collection[str] | None = ()
    ) -> "LabelFile":
        """Read a CSV file, compressed or not, the first sheet of an XLSX file, or a Parquet file.

        Args:
            path: the file.
            columns: the names that its header must hold.
            optional: those that it may hold, None for all; what else it holds is not kept.

        Raises:
            DataError: if it is absent, not of its kind, empty, without a column, or with one that
                stands in it twice; or if a cell is no text, number, TRUE, FALSE or nothing.
        """
        source = spreadsheet.rows(path)
        with _named(path):
            _, header = next(source, (0, []))
            names = [clean(name) for name in header]
            optional = dict.fromkeys(filter(None, names)) if optional is None else optional
            at = {name: names.index(name) for name in (*columns, *optional) if name in names}
            _check_header(path, header, columns, optional)
            trimmed, numbers, kept = _Trimmed(), [], []
            for number, cells in source:
                numbers.append(number)
                kept.append([trimmed[cells[i]] for i in at.values()])
        if not numbers:
            raise DataError(f"{path}: has no rows")
        filled = dict(zip(at, map(list, zip(*kept, strict=True)), strict=True))
        for name, column in filled.items():
            for number, cell in zip(numbers, column, strict=True):
                if isinstance(cell, spreadsheet.Odd):
                    raise DataError(f"{path}: row {number}, column {name!r}: holds {cell}")
        return cls(path, pd.DataFrame(filled), np.array(numbers))

    def text(self, column: str) -> "pd.Series[str]":
        """Return a column in which no cell may be empty, as it is written."""
        values = self.cells[column]
        self.refuse(values.isna(), column, "a value")
        return values

    def words(self, column: str) -> "pd.Series[str]":
        """Return a column of words in their clean form; None where empty."""
        return each(self.cells[column], lambda cell: clean(cell) or None)

    def names(self, column: str, distinct: bool = False, unless: str = "") -> "pd.Series[str]":
        """Return a column of what tells groups apart, sites or devices; None where empty.

        Args:
            column: which.
            distinct: whether names that are :func:`fedmed.core.spelling.alike` are not one.
            unless: how the user may say so.

        Raises:
            DataError: if a name says nothing, as nan does; or if two names differ only by what a
                spreadsheet may change, naming the first row of each.
        """
        values = self.words(column)
        known = values.dropna().unique()
        nothing = values.isin([name for name in known if says_nothing(name)])
        self.refuse(nothing, column, "a name, or an empty cell where there is none")
        if not distinct and (same := alike(known)):
            one, other = (self.rows[np.flatnonzero(values == name)[0]] for name in same)
            raise DataError(
                f"{self.path}: rows {one} and {other}, column {column!r}: {same[0]!r} and "
                f"{same[1]!r} differ only by {MAY_CHANGE}; write them alike if they are one{unless}"
            )
        return values

    def ids(self, column: str, distinct: bool = False, unless: str = "") -> "pd.Series[str]":
        """Return a column of ids: names that no cell may lack.

        Raises:
            DataError: as :meth:`names`; or if a spreadsheet has rounded a number, 8.4E+35, which
                others may share.
        """
        values = self.names(column, distinct, unless)
        self.refuse(values.isna(), column, "a value")
        rounded = values.str.fullmatch(r"\d+([.,]\d+)?[eE]\+\d+").astype(bool)
        self.refuse(rounded, column, "an id, not a number that a spreadsheet has rounded")
        return values

    def numbers(
        self, column: str, low: float = -np.inf, high: float = np.inf
    ) -> "pd.Series[float]":
        """Return a column of numbers within bounds; NaN where empty."""
        values = pd.to_numeric(self.words(column), errors="coerce")
        wrong = self.cells[column].notna() & ~(values.between(low, high) & np.isfinite(values))
        takes = "a number" if np.isinf(low) else f"a number from {low:g} to {high:g}"
        self.refuse(wrong, column, takes)
        return values

    def ages(self, column: str, oldest: float = OLDEST) -> "pd.Series[float]":
        """Return a column of ages in years, numbers or as DICOM writes them, 058Y and 006M."""
        words = self.words(column)
        values = each(words, years).astype(float)
        wrong = words.notna() & ~values.between(0, oldest)
        self.refuse(wrong, column, f"an age of at most {oldest:g} years, as in 58, 058Y or 006M")
        return values

    def codes(self, column: str, meaning: Mapping[str, T]) -> "pd.Series[Any]":
        """Return what each cell means; None where empty, unless "" has a meaning."""
        values = self.words(column)
        takes = ", ".join(list(map(repr, meaning))[:8])
        self.refuse(values.notna() & ~values.isin(list(meaning)), column, takes)
        return values.fillna("").map({"": None, **meaning})

    def refuse(self, wrong: "pd.Series[bool]", column: str, takes: str) -> None:
        """Raise DataError with the first row that is wrong, if any is."""
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            cell = self.cells[column].iloc[row]
            got = "nothing" if pd.isna(cell) else repr(cell)
            raise DataError(
                f"{self.path}: row {self.rows[row]}, column {column!r}: takes {takes}, got {got} "
                f"({int(wrong.sum())} such rows)"
            )


class _Trimmed(dict[str, str | None]):
    """What becomes of a cell, worked out once for each word: None where nothing is to be seen."""

    def __missing__(self, cell: str) -> str | None:
        self[cell] = cell if isinstance(cell, spreadsheet.Odd) else trim(cell) or None
        return self[cell]


def check_header(path: Path, columns: Collection[str]) -> None:
    """Look at no more than the header of a label file, before what is slow.

    Args:
        path: see :meth:`LabelFile.read`.
        columns: the names that it must hold.

    Raises:
        DataError: if the file is absent, not of its kind or without a column, or holds one twice.
    """
    with _named(path):
        _, header = next(spreadsheet.rows(path), (0, []))
        _check_header(path, header, columns, ())


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Name the file in whatever is raised while it is read."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path.name} is missing in {path.parent}") from None
    except DataError:
        raise
    except Exception as error:  # whatever openpyxl and decompressors raise on a broken file
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise DataError(f"{path}: is not a readable {path.suffix} file: {reason}") from None


def _check_header(
    path: Path, header: Sequence[str], columns: Collection[str], optional: Collection[str]
) -> None:
    names = [clean(name) for name in header]
    for column in columns:
        if column not in names:
            apart = next((what for mark, what in MARKS.items() if mark in "".join(header)), None)
            parted = f"; its cells are parted by {apart}, not by commas" if apart else ""
            raise DataError(
                f"{path}: the column {column!r} is missing; has it been edited? It has "
                f"{', '.join(map(repr, names[:SHOWN]))}{', …' if len(names) > SHOWN else ''}"
                + (parted if len(names) == 1 else "")
            )
    for column in (*columns, *optional):
        if names.count(column) > 1:
            raise DataError(f"{path}: the column {column!r} stands {names.count(column)} times")


def years(age: str) -> float:
    """Return an age in years, a number or as DICOM writes it, 058Y or 006M; NaN if it is neither.

    The units are those of a DICOM age string (PS3.5, table 6.2-1).
    """
    match = re.fullmatch(r"(\d{1,4}(?:\.\d+)?)([YMWD]?)", age.upper(), re.ASCII)
    return float(match[1]) / YEARS[match[2] or "Y"] if match else np.nan
