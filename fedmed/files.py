"""What datasets on disk share: label files whose faults are named, and image files to be found."""

import os
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedmed import pixels
from fedmed.errors import ConfigError, DataError
from fedmed.seeding import seeded_globals
from fedmed.table import Aspect, Dataset

T = TypeVar("T")


@dataclass(frozen=True)
class LabelFile:
    """A table of labels, its cells as text, and errors that name the file, the row and the column.

    Attributes:
        path: the file.
        cells: its cells; None where empty. Row 0 is row 2 of the file, below the header.
    """

    path: Path
    cells: pd.DataFrame

    @classmethod
    def read(cls, path: Path, columns: Collection[str], **options: Any) -> "LabelFile":
        """Read a CSV file, compressed or not, or the first sheet of an XLSX file.

        Args:
            path: the file.
            columns: the names that its header must hold.
            options: more for :func:`pandas.read_csv`.

        Raises:
            DataError: if it is absent, not of its kind, empty, or without a column.
        """
        read: Any = pd.read_excel if path.suffix == ".xlsx" else pd.read_csv
        try:
            cells = read(path, dtype=str, **options)
        except FileNotFoundError:
            raise DataError(f"{path.name} is missing in {path.parent}") from None
        except (
            OSError,
            ValueError,
            EOFError,
            KeyError,
            SyntaxError,
            BadZipFile,
            zlib.error,
        ) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
            raise DataError(f"{path}: is not a readable {path.suffix} file: {reason}") from None
        for column in columns:
            if column not in cells:
                raise DataError(f"{path}: the column {column!r} is missing; has it been edited?")
        if cells.empty:
            raise DataError(f"{path}: has no rows")
        return cls(path, cells.where(cells.notna(), None))

    def text(self, column: str) -> "pd.Series[str]":
        """Return a column in which no cell may be empty."""
        values = self.cells[column]
        self.refuse(values.isna(), column, "a value")
        return values

    def numbers(
        self, column: str, low: float = -np.inf, high: float = np.inf
    ) -> "pd.Series[float]":
        """Return a column of numbers within bounds; NaN where empty."""
        values = pd.to_numeric(self.cells[column], errors="coerce")
        wrong = self.cells[column].notna() & ~values.between(low, high)
        takes = "a number" if np.isinf(low) else f"a number from {low:g} to {high:g}"
        self.refuse(wrong, column, takes)
        return values

    def codes(self, column: str, meaning: Mapping[str, T]) -> "pd.Series[Any]":
        """Return what each cell means; None where empty."""
        values = self.cells[column]
        takes = ", ".join(list(map(repr, meaning))[:8])
        self.refuse(values.notna() & ~values.isin(list(meaning)), column, takes)
        return values.map(meaning)

    def refuse(self, wrong: "pd.Series[bool]", column: str, takes: str) -> None:
        """Raise DataError with the first row that is wrong, if any is."""
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            cell = self.cells[column].iloc[row]
            got = "nothing" if pd.isna(cell) else repr(cell)
            raise DataError(
                f"{self.path}: row {row + 2}, column {column!r}: takes {takes}, got {got} "
                f"({int(wrong.sum())} such rows)"
            )


def through_xrv(dataset: Callable[..., T], source: Path, **arguments: Any) -> T:
    """Return one of torchxrayvision's datasets, for its labels and its table.

    Its classes seed NumPy's global generator; here that is undone.

    Raises:
        DataError: naming ``source``, if the class cannot read it.
    """
    with seeded_globals(0, "torchxrayvision"):
        try:
            return dataset(**arguments)
        except Exception as error:  # whatever pandas raises deep inside on a broken file
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise DataError(f"{source}: torchxrayvision cannot read it: {reason[0]}") from None


class ImageFiles(Dataset):
    """A dataset whose ``image`` is the path of a file below a root.

    Args:
        targets, size, aspect: see Dataset.
        root: the folder of the download.
    """

    def __init__(
        self, targets: Sequence[str], size: int, root: Path, aspect: Aspect = "squash"
    ) -> None:
        super().__init__(targets, size, aspect)
        self.root = Path(root).expanduser()
        if not self.root.is_dir():
            raise ConfigError(f"dataset.root: there is no folder {self.root}")

    def path(self, image: str) -> Path:
        """Return where an image lies, or would."""
        return self.root / image

    def read(self, image: str) -> NDArray[np.uint8]:
        """Return an image's pixels. Raises UnreadableImage."""
        return pixels.read(self.path(image))

    def has(self, image: str) -> bool:
        """Say whether an image's file is there."""
        return self.path(image).is_file()

    def recipe(self, images: Sequence[str]) -> dict[str, Any]:
        """Return the size of every file, so that copies of the set are told apart."""
        return {"dataset": type(self).__name__, "bytes": [_bytes(self.path(i)) for i in images]}


class NamedFiles(ImageFiles):
    """A dataset whose ``image`` is the name of a file in any folder below the root."""

    @cached_property
    def _found(self) -> dict[str, Path]:
        return {
            name: Path(folder) / name for folder, _, names in os.walk(self.root) for name in names
        }

    def path(self, image: str) -> Path:
        """Return where an image lies, or would."""
        return self._found.get(image, self.root / image)


def _bytes(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
