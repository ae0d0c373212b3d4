"""MIMIC-CXR-JPG 2 (Johnson et al. 2019), in the layout of its download.

The root holds ``files/p10/p10000032/s50414267/DICOM_ID.jpg`` and so on, and, compressed or not,
``mimic-cxr-2.0.0-split.csv`` (one row an image), ``…-metadata.csv`` (one row an image) and
``…-chexpert.csv`` or ``…-negbio.csv`` (one row a study). Sex and age are MIMIC-IV's: they are known
where its ``patients.csv`` is put into the root.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from fedmed.data.card import Card
from fedmed.data.chexpert_labels import LABELS, Blank, CheXpertLabelled, Uncertain
from fedmed.data.label_files import LabelFile
from fedmed.data.table import Aspect
from fedmed.data.views import Views, keep

STEM = "mimic-cxr-2.0.0"  # in every version 2 of the set
VIEWS = {"PA": "PA", "AP": "AP", "LATERAL": "LATERAL", "LL": "LATERAL"}
SPLITS = {"train": "train", "validate": "val", "test": "test"}
OLDEST = 110


class MIMICCXR(CheXpertLabelled):
    """MIMIC-CXR-JPG: 377,110 radiographs of 65,379 patients of one hospital, the official split.

    Args:
        targets, size, root, uncertain, blank, views, aspect: see CheXpertLabelled.
        labeler: the tool that read the reports, ``chexpert`` or ``negbio``. The few studies that
            it has no row for have no known findings.
    """

    card = Card.load("mimic_cxr")

    def __init__(
        self,
        targets: Sequence[str],
        size: int,
        root: Path,
        labeler: Literal["chexpert", "negbio"],
        uncertain: Uncertain,
        blank: Blank,
        views: Views,
        aspect: Aspect = "squash",
    ) -> None:
        super().__init__(targets, size, root, uncertain, blank, views, aspect)
        self.labeler = labeler

    def table(self) -> pd.DataFrame:
        """Return one row an image of the split's file, in its order."""
        images = self._read(f"{STEM}-split", "dicom_id", ["study_id", "subject_id", "split"])
        metadata = self._read(f"{STEM}-metadata", "dicom_id", ["ViewPosition", "StudyDate"])
        reports = self._read(f"{STEM}-{self.labeler}", "study_id", LABELS)
        dicom, study, subject = map(images.ids, ("dicom_id", "study_id", "subject_id"))
        images.refuse(~dicom.isin(metadata.ids("dicom_id")), "dicom_id", "one of the metadata's")
        of_image = pd.DataFrame(
            {
                "view": metadata.words("ViewPosition").str.upper().map(VIEWS),  # others: oblique, …
                "year": metadata.numbers("StudyDate") // 10_000,
            }
        ).set_axis(metadata.ids("dicom_id"))
        of_image, people = of_image.reindex(dicom), self._people().reindex(subject)
        age = of_image["year"].to_numpy() - people["born"].to_numpy()
        folder = "files/p" + subject.str[:2] + "/p" + subject
        table = pd.DataFrame(
            {
                "image": folder + "/s" + study + "/" + dicom + ".jpg",
                "patient": "mimic_cxr:" + subject,
                "site": "Beth Israel Deaconess Medical Center",
                "view": of_image["view"].to_numpy(),
                "sex": people["sex"].to_numpy(),
                "age": np.where((age >= 0) & (age <= OLDEST), age, np.nan),
                "scanner": None,
                "split": images.codes("split", SPLITS),
            }
        )
        findings = self.findings(reports).set_axis(reports.ids("study_id")).reindex(study)
        return keep(table.join(findings.set_axis(table.index)), self.views)

    def _people(self) -> pd.DataFrame:
        """Return sex and year of birth, in the years of the study dates, by subject_id."""
        if not self._source("patients").is_file():
            return pd.DataFrame({"sex": [], "born": []})
        people = self._read("patients", "subject_id", ["gender", "anchor_age", "anchor_year"])
        born = people.numbers("anchor_year") - people.numbers("anchor_age", 0, OLDEST)
        sex = people.codes("gender", {"F": "F", "M": "M"})
        return pd.DataFrame({"sex": sex, "born": born}).set_axis(people.ids("subject_id"))

    def _read(self, name: str, key: str, columns: Sequence[str]) -> LabelFile:
        """Return one of the set's files, of which each row has another key."""
        labels = LabelFile.read(self._source(name), [key, *columns])
        labels.refuse(labels.ids(key).duplicated(), key, "each value once")
        return labels

    def _source(self, name: str) -> Path:
        packed = self.root / f"{name}.csv.gz"
        return packed if packed.is_file() else self.root / f"{name}.csv"
