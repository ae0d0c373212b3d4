"""VinDr-CXR (Nguyen et al. 2022), in the layout of its download from PhysioNet or from Kaggle.

PhysioNet: ``train/ID.dicom``, ``test/ID.dicom`` and, in ``annotations/``,
``image_labels_train.csv`` (one row a reader of an image) and ``image_labels_test.csv`` (one row an
image). Kaggle: ``train/ID.dicom`` and ``train.csv`` (one row a box, or one for a reader who saw
none); it has no test labels. Without either torchxrayvision's copy of Kaggle's is used.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pandas as pd
from torchxrayvision.datasets import datapath as package_tables

from fedmed.data.card import Card
from fedmed.data.dicom_metadata import headers
from fedmed.data.image_files import NamedFiles
from fedmed.data.label_files import LabelFile
from fedmed.data.table import NO_FINDING, Aspect, split_by_patient
from fedmed.data.vocabulary import common

#: What readers boxed in both downloads.
BOXED = (
    "Aortic enlargement",
    "Atelectasis",
    "Calcification",
    "Cardiomegaly",
    "Consolidation",
    "ILD",
    "Infiltration",
    "Lung Opacity",
    "Nodule/Mass",
    "Pleural effusion",
    "Pleural thickening",
    "Pneumothorax",
    "Pulmonary fibrosis",
)
#: What only PhysioNet tells of: rarer boxes, which Kaggle calls "Other lesion", and diagnoses.
RARER = (
    "Clavicle fracture",
    "Edema",
    "Emphysema",
    "Enlarged PA",
    "Lung cavity",
    "Lung cyst",
    "Mediastinal shift",
    "Rib fracture",
    "COPD",
    "Lung tumor",
    "Pneumonia",
    "Tuberculosis",
)
FINDING = {label: common(label) for label in (*BOXED, "No finding", *RARER)}


class VinDrCXR(NamedFiles):
    """VinDr-CXR: 18,000 PA radiographs of two hospitals in Hanoi, each read by radiologists.

    "Other lesion" and "Other diseases" are left out, as they mean other things in each download.
    Sex, age and scanner are read from the files' headers.

    Args:
        targets, size, root, aspect: see ImageFiles.
        split: ``official``: 15,000 images to train and 3,000 to test, as on PhysioNet;
            ``patients``: of the 15,000 alone a fifth to test.
        vote: when a finding of a training image is present: when a ``majority`` of its three
            readers saw it, or ``any``. Five readers agreed on each test image.
    """

    card = Card.load("vindr_cxr")

    def __init__(
        self,
        targets: Sequence[str],
        size: int,
        root: Path,
        split: Literal["official", "patients"],
        vote: Literal["majority", "any"],
        aspect: Aspect = "squash",
    ) -> None:
        super().__init__(targets, size, root, aspect)
        self.split = split
        self.vote = vote

    def table(self) -> pd.DataFrame:
        """Return one row an image of the label files."""
        train = self._vote(self._training_marks())
        if self.split == "official":
            test = self._vote(_marks(self.root / "annotations" / "image_labels_test.csv"))
            findings = pd.concat([train.assign(split="train"), test.assign(split="test")])
        else:
            findings = train.assign(split=split_by_patient("vindr_cxr:" + train.index.to_series()))
        names = findings.index.to_series()
        table = findings.assign(
            image=names + ".dicom",
            patient="vindr_cxr:" + names,
            site="Hospital 108 and Hanoi Medical University Hospital",
            view="PA",  # the publishers kept no other
        ).reset_index(drop=True)
        return table.join(headers(self, table["image"])[["sex", "age", "scanner"]])

    def _training_marks(self) -> pd.DataFrame:
        official, kaggle = self.root / "annotations/image_labels_train.csv", self.root / "train.csv"
        if official.is_file():
            return _marks(official)
        package = Path(package_tables) / "vinbigdata-train.csv.gz"
        return _boxes(kaggle if kaggle.is_file() else package)

    def _vote(self, marks: pd.DataFrame) -> pd.DataFrame:
        by_image = marks.groupby(level=0, sort=False)
        if self.vote == "any":
            return by_image.max()
        share = by_image.mean()
        return (share > 0.5).astype(float).where(share.notna())


def _marks(path: Path) -> pd.DataFrame:
    """Return what each reader marked, 1 or 0, by image: a row a row of PhysioNet's file."""
    labels = LabelFile.read(path, ["image_id", *FINDING])
    marks = {}
    for label, finding in FINDING.items():
        values = labels.numbers(label)
        labels.refuse(~values.isin([0, 1]), label, "0 or 1")
        marks[finding] = values
    return pd.DataFrame(marks).set_axis(labels.ids("image_id"))


def _boxes(path: Path) -> pd.DataFrame:
    """Return the same from Kaggle's boxes; what is not boxed there is not known."""
    labels = LabelFile.read(path, ["image_id", "class_name", "rad_id"])
    classes = (*BOXED, "No finding", "Other lesion")
    found = labels.codes("class_name", {label: common(label) for label in classes})
    labels.refuse(found.isna(), "class_name", "a class")
    boxes = pd.crosstab([labels.ids("image_id"), labels.ids("rad_id")], found)
    boxed = [*map(common, BOXED), NO_FINDING]
    marks = boxes.reindex(columns=boxed, fill_value=0).clip(upper=1).droplevel("rad_id")
    return marks.reindex(columns=list(FINDING.values()))
