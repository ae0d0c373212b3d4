"""RSNA Pneumonia Detection Challenge (Shih et al. 2019), stage 2, in the layout of its download.

The root holds ``stage_2_train_images/`` (DICOM) and ``stage_2_train_labels.csv`` (one row a box,
or one for an image without); without the latter torchxrayvision's copy is used. Views, sexes and
ages are from its copy of the files' headers.

The images are NIH ChestX-ray14's under new names. The challenge's home page has the old ones, and
so whose images they are: put ``pneumonia-challenge-dataset-mappings_2018.json`` into the root.
"""

import json
from pathlib import Path

import pandas as pd
from torchxrayvision.datasets import datapath as package_tables

from fedmed.core.errors import DataError
from fedmed.data.card import Card
from fedmed.data.image_files import NamedFiles
from fedmed.data.label_files import LabelFile
from fedmed.data.table import split_by_patient

LABEL_FILE = "stage_2_train_labels.csv"
HEADERS = "kaggle_stage_2_train_images_dicom_headers.csv.gz"
MAPPING = "pneumonia-challenge-dataset-mappings_2018.json"
OLDEST = 110  # a few ages are mistyped, up to 155


class RSNA(NamedFiles):
    """RSNA Pneumonia: 26,684 frontal radiographs of NIH ChestX-ray14, read by radiologists.

    Pneumonia is the challenge's target: an image with an opacity that made a reader suspect it.
    Other opacities are absent from the target, so that it is not called Lung Opacity here.
    A fifth of the patients test. With the mapping in the root, patients are NIH's own and carry the
    ids they have there, ``nih:1``; else each image is taken for a patient.
    """

    card = Card.load("rsna")

    def table(self) -> pd.DataFrame:
        """Return one row an image of the label file, in its order."""
        source = self.root / LABEL_FILE
        if not source.is_file():
            source = Path(package_tables) / "kaggle_stage_2_train_labels.csv.zip"
        labels = LabelFile.read(source, ["patientId", "Target"])
        target = labels.codes("Target", {"0": 0.0, "1": 1.0})
        labels.refuse(target.isna(), "Target", "0 or 1")
        several = target.groupby(labels.ids("patientId")).transform("nunique") > 1
        labels.refuse(several, "Target", "the same for each row of an image")
        pneumonia = target.groupby(labels.ids("patientId"), sort=False).max()
        names = pneumonia.index.to_series()
        columns = ["PatientID", "ViewPosition", "PatientSex", "PatientAge"]
        headers = LabelFile.read(Path(package_tables) / HEADERS, columns)
        known = headers.cells.set_index("PatientID").reindex(names)
        age = known["PatientAge"].astype(float)
        patients = self._patients(names)
        return pd.DataFrame(
            {
                "image": names + ".dcm",
                "patient": patients,
                "site": "NIH Clinical Center",
                "view": known["ViewPosition"],
                "sex": known["PatientSex"],
                "age": age.where(age <= OLDEST),
                "scanner": None,
                "split": split_by_patient(patients),
                "Pneumonia": pneumonia,
            }
        ).reset_index(drop=True)

    def caveats(self) -> list[str]:
        """Return none if the root tells whose images they are."""
        return [] if (self.root / MAPPING).is_file() else super().caveats()

    def _patients(self, names: "pd.Series[str]") -> "pd.Series[str]":
        path = self.root / MAPPING
        if not path.is_file():
            return "rsna:" + names
        try:
            entries = json.loads(path.read_bytes())
            # An NIH image is called 00000001_000.png after its patient, whose id there is 1.
            old = {e["subset_img_id"]: f"nih:{int(e['img_id'].split('_')[0])}" for e in entries}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = f"{type(error).__name__} {error}"
            raise DataError(f"{path}: is not the mapping of the challenge: {reason}") from None
        patients = names.map(old)
        if patients.isna().any():
            raise DataError(
                f"{path}: lacks {int(patients.isna().sum())} images of the label file, such as "
                f"{names[patients.isna()].iloc[0]}"
            )
        return patients
