"""NIH ChestX-ray14 (Wang et al. 2017), in the layout of its download.

The root holds the label file, the official lists and the images, in ``images/`` or spread over
``images_001/images/`` and so on. Without a label file the full one of torchxrayvision is used.
"""

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torchxrayvision.datasets import NIH_Dataset
from torchxrayvision.datasets import datapath as package_tables

from fedmed.errors import ConfigError, DataError
from fedmed.pixels import read_grey
from fedmed.seeding import seeded_globals
from fedmed.table import Card, Dataset

LABELS = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
LISTS = {"train": "train_val_list.txt", "test": "test_list.txt"}
COLUMNS = ("Image Index", "Finding Labels", "Patient ID", "Patient Age", "View Position")
OLDEST = 110  # a few ages in the table are in days or mistyped, up to 414


class NIH(Dataset):
    """NIH ChestX-ray14: 112,120 frontal radiographs of 30,805 patients of one hospital.

    Args:
        targets: the columns to learn: findings of the card, or ``view`` and ``sex``.
        size: height and width, in pixels, of what the network sees.
        root: the folder of the download.
        split: ``official``: 86,524 images to train and 25,596 to test.
    """

    card = Card(
        title="NIH ChestX-ray14",
        findings=(
            "Atelectasis",
            "Cardiomegaly",
            "Consolidation",
            "Edema",
            "Effusion",
            "Emphysema",
            "Fibrosis",
            "Hernia",
            "Infiltration",
            "Mass",
            "Nodule",
            "Pleural_Thickening",
            "Pneumonia",
            "Pneumothorax",
        ),
        licence="no restriction on use; acknowledge the NIH Clinical Center and cite the paper",
        citation="Wang et al., ChestX-ray8, CVPR 2017, doi:10.1109/CVPR.2017.369",
        homepage="https://nihcc.app.box.com/v/ChestXray-NIHCC",
        how_to_get="download images/, Data_Entry_2017_v2020.csv and both lists from the home page",
    )

    def __init__(
        self, targets: list[str], size: int, root: Path, split: Literal["official"]
    ) -> None:
        super().__init__(targets, size)
        self.root = Path(root).expanduser()
        self.split = split
        if not self.root.is_dir():
            raise ConfigError(f"dataset.root: there is no folder {self.root}")
        self._files: dict[str, Path] | None = None

    def table(self) -> pd.DataFrame:
        """Return one row an image of the label file, in its order."""
        source = self._label_file()
        header = pd.read_csv(source, nrows=0).columns
        absent = [c for c in COLUMNS if c not in header]
        if not {"Patient Gender", "Patient Sex"} & set(header):
            absent.append("Patient Sex")
        if absent:
            raise DataError(f"{source}: the column {absent[0]!r} is missing; has it been edited?")
        with seeded_globals(0, "nih"):  # the class seeds NumPy's global generator
            parsed = NIH_Dataset(
                imgpath=str(self.root),
                csvpath=str(source),
                views=["PA", "AP"],
                unique_patients=False,
            )
        rows = parsed.csv
        age = pd.to_numeric(rows["Patient Age"].astype(str).str.rstrip("Y"), errors="coerce")
        table = pd.DataFrame(
            {
                "image": rows["Image Index"],
                "patient": "nih:" + rows["Patient ID"].astype(str),
                "site": "NIH Clinical Center",
                "view": rows["View Position"],
                "sex": rows["Patient Gender"],
                "age": age.where(age <= OLDEST),
                "split": self._splits(rows["Image Index"]),
            }
        )
        findings = pd.DataFrame(parsed.labels, columns=parsed.pathologies)
        return table.join(findings[list(self.card.findings)])

    def read(self, image: str) -> NDArray[np.uint8]:
        """Return the pixels as stored: 1024², 64² or any other size, grey or RGBA."""
        return read_grey(self.files().get(image, self.root / "images" / image))

    def recipe(self) -> dict[str, Any]:
        """Return the size of every image file, so that other copies of the set are told apart."""
        sizes = {name: path.stat().st_size for name, path in sorted(self.files().items())}
        return {"dataset": "nih", "files": sizes}

    def files(self) -> dict[str, Path]:
        """Return where each image lies."""
        if self._files is None:
            folders = [self.root / "images", *sorted(self.root.glob("images_*/images"))]
            found = [Path(e.path) for f in folders if f.is_dir() for e in os.scandir(f)]
            self._files = {path.name: path for path in found if path.suffix == ".png"}
            if not self._files:
                raise DataError(f"dataset.root: no images/*.png below {self.root}")
        return self._files

    def _label_file(self) -> Path:
        for name in LABELS:
            if (self.root / name).is_file():
                return self.root / name
        return Path(package_tables) / f"{LABELS[0]}.gz"

    def _splits(self, images: "pd.Series[str]") -> "pd.Series[str]":
        split_of: dict[str, str] = {}
        for split, name in LISTS.items():
            path = self.root / name
            if not path.is_file():
                raise DataError(
                    f"dataset.root: {name} is missing in {self.root}; {self.card.how_to_get}"
                )
            split_of |= dict.fromkeys(path.read_text().split(), split)
        splits = images.map(split_of)
        if splits.isna().any():
            raise DataError(
                f"{self.root}: {int(splits.isna().sum())} images of the label file, such as "
                f"{images[splits.isna()].iloc[0]}, are in neither {' nor '.join(LISTS.values())}"
            )
        return splits
