"""SIIM-ACR Pneumothorax Segmentation (2019), in the layout of its download.

The root holds ``train-rle.csv`` (one row a mask, ``-1`` where there is none) and
``dicom-images-train/STUDY/SERIES/IMAGE.dcm``; or ``stage_2_train.csv`` and ``stage_2_images/`` of
the challenge's second stage. Without a label file torchxrayvision's copy of the first is used.
"""

from pathlib import Path

import pandas as pd
from torchxrayvision.datasets import datapath as package_tables

from fedmed.data.card import Card
from fedmed.data.dicom_metadata import headers
from fedmed.data.image_files import NamedFiles
from fedmed.data.label_files import LabelFile
from fedmed.data.table import split_by_patient

LABEL_FILES = ("train-rle.csv", "stage_2_train.csv")
#: No mask, or one as pairs of a start and a length.
RUNS = r"-1|\d+ \d+(?: \d+ \d+)*"


class SIIM(NamedFiles):
    """SIIM-ACR Pneumothorax: 12,047 frontal radiographs of NIH ChestX-ray14, of one finding.

    A pneumothorax is present where any reader drew one. A fifth of the images test. View, sex and
    age are read from the files' headers.
    """

    card = Card.load("siim")

    def table(self) -> pd.DataFrame:
        """Return one row an image of the label file, in its order."""
        found = [self.root / name for name in LABEL_FILES if (self.root / name).is_file()]
        source = found[0] if found else Path(package_tables) / "siim-pneumothorax-train-rle.csv.gz"
        # The publishers' header has a space before EncodedPixels; copies of it do not.
        masks = LabelFile.read(source, ["ImageId", "EncodedPixels"])
        runs = masks.text("EncodedPixels")
        masks.refuse(~runs.str.fullmatch(RUNS), "EncodedPixels", "-1, or starts and lengths")
        present = (runs != "-1").groupby(masks.ids("ImageId"), sort=False).max()
        names = present.index.to_series()
        patients = "siim:" + names
        table = pd.DataFrame(
            {
                "image": names + ".dcm",
                "patient": patients,
                "site": "NIH Clinical Center",
                "split": split_by_patient(patients),
                "Pneumothorax": present.astype(float),
            }
        ).reset_index(drop=True)
        return table.join(headers(self, table["image"]))
