"""ChestMNIST and PneumoniaMNIST (MedMNIST, Yang et al. 2023), as downloaded: one file each.

The root holds ``NAME.npz`` (28 pixels), ``NAME_64.npz``, ``NAME_128.npz`` or ``NAME_224.npz``, each
with the arrays ``train_images``, ``train_labels``, ``val_images`` and so on, all uint8.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal
from zipfile import ZipFile

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedmed.core.errors import DataError, UnreadableImage
from fedmed.data.card import Card
from fedmed.data.contents import Look, look
from fedmed.data.image_files import ImageFiles
from fedmed.data.table import Aspect, Origin


class MedMNIST(ImageFiles):
    """A set of MedMNIST with the split of its publishers.

    Args:
        targets, size, root, aspect: see ImageFiles.
        resolution: height and width of the images in the file, which it names.
    """

    name: str
    site: str
    view: str | None
    labels: tuple[str, ...]  #: the findings in the order of the label array

    def __init__(
        self,
        targets: Sequence[str],
        size: int,
        root: Path,
        resolution: Literal[28, 64, 128, 224],
        aspect: Aspect = "squash",
    ) -> None:
        super().__init__(targets, size, root, aspect)
        self.resolution = resolution
        self.file = self.root / f"{self.name}{'' if resolution == 28 else f'_{resolution}'}.npz"

    def path(self, image: str) -> Path:
        """Return the file, which holds every image."""
        return self.file

    def origin(self, image: str) -> Origin | None:
        """Return the file, which holds every image, and the place in it."""
        return Origin(self.file, image)

    def table(self) -> pd.DataFrame:
        """Return one row an image, in the order of the arrays; ``image`` is ``split/row``."""
        if not self.file.is_file():
            raise DataError(f"{self.file.name} is missing in {self.root}")
        parts = [self._part(split) for split in ("train", "val", "test")]
        return pd.concat(parts, ignore_index=True)

    def read(self, image: str) -> NDArray[np.uint8]:
        """Return an image's pixels. Raises UnreadableImage."""
        split, _, row = image.partition("/")
        try:
            return _opened(self.file, f"{split}_images", look(self.file)).row(int(row))
        except Exception as error:  # whatever zipfile and zlib raise on a broken file
            raise UnreadableImage(f"{self.file.name}: {_reason(error)}") from None

    def recipe(self, images: Sequence[str]) -> dict[str, Any]:
        """Return the name of the file; the store hashes it."""
        return {"file": self.file.name}

    def _part(self, split: str) -> pd.DataFrame:
        try:
            shape = _Rows(self.file, f"{split}_images").shape
            labels = _Rows(self.file, f"{split}_labels")
            values = np.array([labels.row(i) for i in range(labels.shape[0])])
        except Exception as error:  # whatever zipfile, zlib and NumPy raise on a broken file
            raise DataError(f"{self.file}: array of {split}: {_reason(error)}") from None
        expected = (len(values), self.resolution, self.resolution)
        if shape != expected or values.shape != (len(values), len(self.labels)):
            raise DataError(
                f"{self.file}: {split}_images is {shape} and {split}_labels {values.shape}; "
                f"takes {expected} and {(len(values), len(self.labels))}"
            )
        for row, column in np.argwhere(values > 1):
            raise DataError(
                f"{self.file}: {split}_labels, row {row}, column {column}: takes 0 or 1, "
                f"got {values[row, column]}"
            )
        images = [f"{split}/{row}" for row in range(len(values))]
        table = pd.DataFrame(
            {
                "image": images,
                "patient": [f"{self.name}:{image}" for image in images],
                "site": self.site,
                "view": self.view,
                "sex": None,
                "age": np.nan,
                "scanner": None,
                "split": split,
            }
        )
        return table.join(pd.DataFrame(values, columns=list(self.labels)))


class ChestMNIST(MedMNIST):
    """ChestMNIST: the images of NIH ChestX-ray14, small and without patient ids."""

    name = "chestmnist"
    site = "NIH Clinical Center"
    view = None
    labels = (
        "Atelectasis",
        "Cardiomegaly",
        "Effusion",
        "Infiltration",
        "Mass",
        "Nodule",
        "Pneumonia",
        "Pneumothorax",
        "Consolidation",
        "Edema",
        "Emphysema",
        "Fibrosis",
        "Pleural_Thickening",
        "Hernia",
    )
    card = Card.load("chestmnist")


class PneumoniaMNIST(MedMNIST):
    """PneumoniaMNIST: the images of Kermany et al., small and without patient ids."""

    name = "pneumoniamnist"
    site = "Guangzhou Women and Children's Medical Center"
    view = "AP"
    labels = ("Pneumonia",)
    card = Card.load("pneumoniamnist")


class _Rows:
    """A uint8 array of an npz file, read row by row: never whole, and never unpickled.

    The images of one file take up to 6 GB. A row behind the one before it costs no more than
    itself; a row before it costs all that stand before that.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.stream = ZipFile(path).open(f"{name}.npy")  # noqa: SIM115  (for the next row)
        np.lib.format.read_magic(self.stream)
        self.shape, by_column, kind = np.lib.format.read_array_header_1_0(self.stream)
        if by_column or kind != np.uint8 or not self.shape:
            raise ValueError(f"{name} holds {kind}, not rows of uint8")
        self.start = self.stream.tell()

    def row(self, index: int) -> NDArray[np.uint8]:
        shape = self.shape[1:]
        size = int(np.prod(shape))
        self.stream.seek(self.start + index * size)
        return np.frombuffer(self.stream.read(size), np.uint8).reshape(shape)


@lru_cache(maxsize=3)  # one a split, in each process that decodes
def _opened(path: Path, name: str, look: Look | None) -> _Rows:
    """Return an array of the file as it looks now: one that was put in its place is another."""
    return _Rows(path, name)


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
