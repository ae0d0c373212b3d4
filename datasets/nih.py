"""NIH ChestX-ray14 (Wang et al. 2017), in the layout of its download.

The root holds the label file, the lists of a split and the images, in ``images/`` or spread over
``images_001/images/`` and so on. Without a label file torchxrayvision's copy is used.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from torchxrayvision.datasets import datapath as package_tables

from fedmed.core.errors import DataError
from fedmed.core.spelling import clean
from fedmed.data.card import Card
from fedmed.data.image_files import NamedFiles
from fedmed.data.label_files import LabelFile
from fedmed.data.table import NO_FINDING, Aspect
from fedmed.data.vocabulary import common

LABELS = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
#: The files of each split, and the images that they list in the whole set.
SPLITS = {
    "official": {
        "train": ("train_val_list.txt", 86_524),
        "test": ("test_list.txt", 25_596),
    },
    "chexnet": {
        "train": ("train_list.txt", 78_468),
        "val": ("val_list.txt", 11_219),
        "test": ("test_list.txt", 22_433),
    },
}
SEX = ("Patient Sex", "Patient Gender")  # as in v2020, and before
OLDEST = 110  # a few ages in the table are in days or mistyped, up to 414


class NIH(NamedFiles):
    """NIH ChestX-ray14: 112,120 frontal radiographs of 30,805 patients of one hospital.

    Args:
        targets, size, root, aspect: see ImageFiles.
        split: ``official``: 86,524 images to train and 25,596 to test; ``chexnet``: 78,468,
            11,219 to validate and 22,433. Some official test patients train in the other.
        lists: the folder of the split's lists: the publishers' text files, or ``SPLIT.csv`` with
            the columns patient and split; None for the root.
    """

    card = Card.load("nih")

    def __init__(
        self,
        targets: Sequence[str],
        size: int,
        root: Path,
        split: Literal["official", "chexnet"],
        lists: Path | None = None,
        aspect: Aspect = "squash",
    ) -> None:
        super().__init__(targets, size, root, aspect)
        self.split = split
        self.lists = Path(lists).expanduser() if lists else self.root

    def table(self) -> pd.DataFrame:
        """Return one row an image of the label file, in its order."""
        found = [self.root / name for name in LABELS if (self.root / name).is_file()]
        source = found[0] if found else Path(package_tables) / f"{LABELS[0]}.gz"
        columns = ("Image Index", "Finding Labels", "Patient ID", "Patient Age", "View Position")
        labels = LabelFile.read(source, columns, optional=SEX)
        sex = next((name for name in SEX if name in labels.cells), None)
        if sex is None:
            raise DataError(f"{source}: the column {SEX[0]!r} is missing; has it been edited?")
        views = labels.codes("View Position", {"PA": "PA", "AP": "AP"})
        labels.refuse(views.isna(), "View Position", "PA, AP")
        labels.numbers("Patient ID")
        age = labels.ages("Patient Age", np.inf)
        table = pd.DataFrame(
            {
                "image": labels.text("Image Index"),
                "patient": "nih:" + labels.ids("Patient ID"),
                "site": "NIH Clinical Center",
                "view": views,
                "sex": labels.codes(sex, {"F": "F", "M": "M"}),
                "age": age.where(age <= OLDEST),
                "scanner": None,
                "split": self._splits(labels),
            }
        )
        return table.join(self._findings(labels))

    def _findings(self, labels: LabelFile) -> pd.DataFrame:
        """Return 1 where a finding is among an image's words, parted by ``|``, and 0 elsewhere."""
        written = labels.text("Finding Labels")
        known = {*self.card.findings, NO_FINDING}
        words = {cell: {common(clean(word)) for word in cell.split("|")} for cell in set(written)}
        wrong = [cell for cell, found in words.items() if not found <= known]
        takes = f"{NO_FINDING} or, parted by |, {', '.join(self.card.findings)}"
        labels.refuse(written.isin(wrong), "Finding Labels", takes)
        both = [cell for cell, found in words.items() if NO_FINDING in found and len(found) > 1]
        labels.refuse(written.isin(both), "Finding Labels", f"{NO_FINDING} or findings, not both")
        return pd.DataFrame(
            {
                finding: written.map({cell: finding in found for cell, found in words.items()})
                for finding in self.card.findings
            },
            dtype=float,
        )

    def _splits(self, labels: LabelFile) -> "pd.Series[str]":
        """Return each image's split; every image has one, and the lists are of this split."""
        by_patient = self.lists / f"{self.split}.csv"
        if by_patient.is_file():
            listed = LabelFile.read(by_patient, ["patient", "split"])
            meaning = {"train_val": "train", "train": "train", "val": "val", "test": "test"}
            patients, parts = listed.ids("patient"), listed.codes("split", meaning)
            several = parts.groupby(patients).transform("nunique") != 1
            listed.refuse(several, "split", "one split a patient")
            of_patient = dict(zip(patients, parts, strict=True))
            splits = labels.ids("Patient ID").map(of_patient)
            source = by_patient.name
        else:
            splits = labels.cells["Image Index"].map(self._listed())
            source = ", ".join(name for name, _ in SPLITS[self.split].values())
        if splits.isna().any():
            raise DataError(
                f"{self.lists}: {int(splits.isna().sum())} images of the label file, such as "
                f"{labels.cells['Image Index'][splits.isna()].iloc[0]}, are in none of {source}"
            )
        counts = splits.value_counts()
        if len(splits) == self.card.images:
            for split, (_, published) in SPLITS[self.split].items():
                if counts.get(split, 0) != published:
                    raise DataError(
                        f"{self.lists}: {source} give {counts.get(split, 0):,} images to {split}; "
                        f"dataset.split={self.split} has {published:,}"
                    )
        return splits

    def _listed(self) -> dict[str, str]:
        split_of: dict[str, str] = {}
        for split, (name, _) in SPLITS[self.split].items():
            path = self.lists / name
            if not path.is_file():
                raise DataError(f"dataset.lists: {name} is missing in {self.lists}")
            try:
                lines = map(clean, path.read_text("utf-8-sig").splitlines())
            except UnicodeDecodeError:
                raise DataError(f"{path}: is not in UTF-8; save it as plain text, UTF-8") from None
            names = {Path(line.split()[0]).name for line in lines if line}
            if twice := names & split_of.keys():
                raise DataError(
                    f"{path}: {len(twice)} of its images, such as {min(twice)}, are listed for "
                    f"{split_of[min(twice)]} too: lists of two splits are mixed; give those of "
                    f"{self.split} a folder of their own, dataset.lists"
                )
            split_of |= dict.fromkeys(names, split)
        return split_of
