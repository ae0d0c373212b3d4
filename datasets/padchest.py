"""PadChest (Bustos et al. 2020), in the layout of its download.

The root holds the label file and the PNG files (16 bits), in the folders ``0`` to ``54`` or in one.
Without a label file torchxrayvision's copy is used.
"""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from torchxrayvision.datasets import PC_Dataset
from torchxrayvision.datasets import datapath as package_tables

from fedmed.data.card import Card
from fedmed.data.image_files import NamedFiles, through_xrv
from fedmed.data.label_files import LabelFile
from fedmed.data.padchest_labels import ABSENT, words
from fedmed.data.table import Aspect, split_by_patient
from fedmed.data.views import Views, keep

LABEL_FILE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
COLUMNS = (
    "ImageID",
    "StudyDate_DICOM",
    "PatientID",
    "PatientBirth",
    "PatientSex_DICOM",
    "Projection",
    "Manufacturer_DICOM",
    "Labels",
)
SEXES = {"F": "F", "M": "M", "O": None, ABSENT: None}
OLDEST = 110
VIEWS = {
    "PA": "PA",
    "AP": "AP",
    "AP_horizontal": "AP",
    "L": "LATERAL",
    "COSTAL": None,
    "EXCLUDE": None,
    "UNK": None,
}


class PadChest(NamedFiles):
    """PadChest: 160,861 radiographs of 67,625 patients of one hospital.

    Labels and the choice of images are torchxrayvision's. It leaves out images without labels, a
    dozen broken files, and patients born in 2009 or later or in no known year. A finding is present
    where a label holds its name, so that mass takes in *mediastinal mass*, nodule *pseudonodule*,
    effusion *pericardial effusion*, emphysema *subcutaneous emphysema* and tuberculosis
    *tuberculosis sequelae*; Consolidation is *air bronchogram* as well, and Infiltration is that,
    consolidation and the interstitial, reticular, alveolar and ground glass patterns.

    The paper counts 160,868 images, the label file that was published lists 160,861.

    Args:
        targets, size, root, aspect: see ImageFiles. A fifth of the patients test.
        views: the views to keep; see :data:`fedmed.data.views.Views`.
    """

    card = Card.load("padchest")

    def __init__(
        self,
        targets: Sequence[str],
        size: int,
        root: Path,
        views: Views,
        aspect: Aspect = "squash",
    ) -> None:
        super().__init__(targets, size, root, aspect)
        self.views = views

    def table(self) -> pd.DataFrame:
        """Return one row an image that torchxrayvision keeps, in the order of the label file."""
        found = [
            path
            for name in (LABEL_FILE, f"{LABEL_FILE}.gz")
            if (path := self.root / name).is_file()
        ]
        source = found[0] if found else Path(package_tables) / f"{LABEL_FILE}.gz"
        labels = LabelFile.read(source, COLUMNS)
        image, patient = labels.ids("ImageID"), "padchest:" + labels.ids("PatientID")
        labels.refuse(image.duplicated(), "ImageID", "each image once")
        studied = labels.numbers("StudyDate_DICOM", 19_000_101, 20_991_231) // 10_000
        age = studied - labels.numbers("PatientBirth", 1880, 2099)
        table = pd.DataFrame(
            {
                "image": image,
                "patient": patient,
                "site": "Hospital San Juan, Alicante",
                "view": labels.codes("Projection", VIEWS),
                "sex": labels.codes("PatientSex_DICOM", SEXES),
                "age": age.where(age.between(0, OLDEST)),
                "scanner": labels.names("Manufacturer_DICOM", distinct=True),
                "split": split_by_patient(patient),
            }
        )
        findings = self._findings(labels.cells.assign(Labels=_written(labels)), source)
        return keep(
            table.join(findings, on="image", how="inner").reset_index(drop=True), self.views
        )

    def _findings(self, cells: pd.DataFrame, source: Path) -> pd.DataFrame:
        """Return the findings of the images that torchxrayvision keeps, by their names."""
        with TemporaryDirectory() as folder:
            plain = Path(folder) / "labels.csv"
            cells.to_csv(plain, index=False)
            parsed = through_xrv(
                PC_Dataset,
                source,
                imgpath=str(self.root),
                csvpath=str(plain),
                views=["*"],
                unique_patients=False,
            )
        findings = pd.DataFrame(parsed.labels, parsed.csv["ImageID"], parsed.pathologies)
        return findings[list(self.card.findings)]


def _written(labels: LabelFile) -> "pd.Series[Any]":
    """Return the cells of labels as the publisher writes them; None where there are none."""
    cells = labels.cells["Labels"]
    written: dict[str, str | None] = {ABSENT: None}
    for cell in cells.dropna().unique():
        if cell not in written:
            try:
                written[cell] = repr(words(cell))
            except ValueError as error:
                labels.refuse(cells == cell, "Labels", str(error))
    return cells.map(written)
