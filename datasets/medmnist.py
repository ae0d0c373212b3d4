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
from fedmed.data.contents import Look, look
from fedmed.data.image_files import ImageFiles
from fedmed.data.table import Aspect, Card, Origin

CITATION = "Yang et al., MedMNIST v2, Scientific Data 10:41, 2023, doi:10.1038/s41597-022-01721-8"


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
    card = Card(
        title="ChestMNIST",
        findings=labels,
        images=112_120,
        patients=None,
        licence="CC BY 4.0",
        citation=f"{CITATION}; Wang et al., CVPR 2017, doi:10.1109/CVPR.2017.369",
        homepage="https://medmnist.com",
        how_to_get="download chestmnist.npz, or that of another size, from "
        "https://zenodo.org/records/10519652",
        caveat="no patient ids: each image is taken for a patient, and images of one patient may "
        "be in several clients. Its split has the sizes of NIH's chexnet (78,468, 11,219 and "
        "22,433), in which 17,920 images of NIH's official test train",
        overlaps=("nih", "rsna", "siim", "covid19_radiography"),
        md5={
            "chestmnist.npz": "02c8a6516a18b556561a56cbdd36c4a8",
            "chestmnist_64.npz": "9de6cd0b934ebb5b7426cfba5efbae16",
            "chestmnist_128.npz": "db107e5590b27930b62dbaf558aebee3",
            "chestmnist_224.npz": "45bd33e6f06c3e8cdb481c74a89152aa",
        },
    )


class PneumoniaMNIST(MedMNIST):
    """PneumoniaMNIST: the images of Kermany et al., small and without patient ids."""

    name = "pneumoniamnist"
    site = "Guangzhou Women and Children's Medical Center"
    view = "AP"
    labels = ("Pneumonia",)
    card = Card(
        title="PneumoniaMNIST",
        findings=labels,
        images=5_856,
        patients=None,
        licence="CC BY 4.0",
        citation=f"{CITATION}; Kermany et al., Cell 172(5), 2018, doi:10.1016/j.cell.2018.02.010",
        homepage="https://medmnist.com",
        how_to_get="download pneumoniamnist.npz, or that of another size, from "
        "https://zenodo.org/records/10519652",
        caveat="no patient ids: each image is taken for a patient, though many children have "
        "several and may be in several clients; whether children were kept together when a tenth "
        "of the source's training images was set aside to validate is not published",
        overlaps=("kermany", "covid19_radiography"),
        md5={
            "pneumoniamnist.npz": "28209eda62fecd6e6a2d98b1501bb15f",
            "pneumoniamnist_64.npz": "8f4eceb4ccffa70c672198ea285246c6",
            "pneumoniamnist_128.npz": "05b46931834c231683c68f40c47b2971",
            "pneumoniamnist_224.npz": "d6a3c71de1b945ea11211b03746c1fe1",
        },
    )


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
