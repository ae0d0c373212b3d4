"""CheXpert (Irvin et al. 2019), in the layout of its download.

``CheXpert-v1.0-small/`` or ``CheXpert-v1.0/`` holds ``train.csv``, ``valid.csv`` and
``train/patient00001/study1/view1_frontal.jpg`` and so on; the root is that folder or the one around
it. The test set came later and separately: put ``test.csv`` (or ``test_labels.csv``) and ``test/``
beside the others. Without ``train.csv`` torchxrayvision's copy is used.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import pandas as pd
from torchxrayvision.datasets import datapath as package_tables

from fedmed.core.errors import DataError
from fedmed.data.card import Card
from fedmed.data.chexpert_labels import LABELS, Blank, CheXpertLabelled, Uncertain
from fedmed.data.image_files import below
from fedmed.data.label_files import LabelFile
from fedmed.data.table import NO_FINDING, Aspect, split_by_patient
from fedmed.data.views import Views, keep

FOLDERS = ("CheXpert-v1.0-small", "CheXpert-v1.0")
#: What each of the publishers' three parts is used for.
SPLITS = {
    "valid": {"train": "train", "valid": "test"},
    "official": {"train": "train", "valid": "val", "test": "test"},
    "patients": {"train": "train"},
}
PATH = (
    r"(?:CheXpert-v1\.0[^/]*/)?"
    r"(?P<image>\w+/(?P<patient>patient\d+)/study\d+/view\d+_(?P<shown>frontal|lateral)\.jpg)"
)
OLDEST = 110
#: What the publishers' test set comes without, wholly or in part.
OPTIONAL = ("AP/PA", "Age", "Sex", NO_FINDING)


class CheXpert(CheXpertLabelled):
    """CheXpert: 224,316 radiographs of 65,240 patients of Stanford Hospital.

    Args:
        targets, size, root, uncertain, blank, views, aspect: see CheXpertLabelled. Frontal images
            for which PA or AP is not told are kept with either.
        split: ``valid``: train.csv to train, valid.csv (200 patients, read by radiologists) to
            test; ``official``: valid.csv to validate and test.csv (500 patients) to test;
            ``patients``: train.csv alone, a fifth of its patients to test.
    """

    card = Card.load("chexpert")

    def __init__(
        self,
        targets: Sequence[str],
        size: int,
        root: Path,
        split: Literal["valid", "official", "patients"],
        uncertain: Uncertain,
        blank: Blank,
        views: Views,
        aspect: Aspect = "squash",
    ) -> None:
        super().__init__(targets, size, root, uncertain, blank, views, aspect)
        self.split = split

    @cached_property
    def _home(self) -> Path:
        found = [self.root / folder for folder in FOLDERS if (self.root / folder).is_dir()]
        if len(found) > 1:
            raise DataError(f"{self.root}: holds {' and '.join(FOLDERS)}; name one, dataset.root")
        return found[0] if found else self.root

    def path(self, image: str) -> Path:
        """Return where an image lies, or would."""
        return below(self._home, image)

    def table(self) -> pd.DataFrame:
        """Return one row an image of the label files, in their order."""
        parts = [self._part(part, split) for part, split in SPLITS[self.split].items()]
        table = pd.concat(parts, ignore_index=True)
        if self.split == "patients":
            table["split"] = split_by_patient(table["patient"])
        return table

    def _part(self, part: str, split: str) -> pd.DataFrame:
        labels = self._labels(part)
        told = labels.text("Path").str.extract(f"^{PATH}$")
        labels.refuse(told["image"].isna(), "Path", "…/patient00001/study1/view1_frontal.jpg")
        frontal = told["shown"] == "frontal"
        # Seventeen images that are called frontal have a lateral position: their view is unknown.
        position = labels.codes("AP/PA", {"AP": "AP", "PA": "PA", "LL": None, "RL": None})
        age = labels.ages("Age", OLDEST)
        table = pd.DataFrame(
            {
                "image": told["image"],
                "patient": "chexpert:" + told["patient"],
                "site": "Stanford Hospital",
                "view": position.where(frontal, "LATERAL"),
                "sex": labels.codes("Sex", {"Female": "F", "Male": "M", "Unknown": None}),
                "age": age.where(age > 0),  # 0 is written where it is not known
                "scanner": None,
                "split": split,
            }
        ).join(self.findings(labels))
        return keep(table, self.views, frontal)

    def _labels(self, part: str) -> LabelFile:
        if part == "test":  # published without view, age and sex, and not always with No Finding
            found = [self._home / name for name in ("test.csv", "test_labels.csv")]
            source = next((path for path in found if path.is_file()), found[0])
            labels = LabelFile.read(
                source, ["Path", *(la for la in LABELS if la != NO_FINDING)], optional=OPTIONAL
            )
            known = [*labels.cells, *({*OPTIONAL} - {NO_FINDING} - {*labels.cells})]
            return replace(labels, cells=labels.cells.reindex(columns=known))
        source = self._home / f"{part}.csv"
        if part == "train" and not source.is_file():
            source = Path(package_tables) / "chexpert_train.csv.gz"
        return LabelFile.read(source, ["Path", "Sex", "Age", "AP/PA", *LABELS])
