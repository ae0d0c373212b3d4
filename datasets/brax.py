"""BRAX (Reis et al. 2022), in the layout of its download.

The root holds ``master_spreadsheet_update.csv`` and ``images/``, the tree of its PNG files.
"""

from dataclasses import replace

import numpy as np
import pandas as pd

from fedmed.data.card import Card
from fedmed.data.chexpert_labels import LABELS, CheXpertLabelled
from fedmed.data.label_files import LabelFile
from fedmed.data.table import split_by_patient
from fedmed.data.views import keep

LABEL_FILE = "master_spreadsheet_update.csv"
COLUMNS = (
    "PngPath",
    "PatientID",
    "PatientSex",
    "PatientAge",
    "ViewPosition",
    "Rows",
    "Columns",
    "Manufacturer",
)
VIEWS = {"PA": "PA", "AP": "AP", "L": "LATERAL", "LL": "LATERAL", "RL": "LATERAL"}
OLDEST = 110
#: Twelve files are strips, 19 to 213 times as long as wide, and no radiographs (torchxrayvision).
LONGEST = 10


class BRAX(CheXpertLabelled):
    """BRAX: 40,967 radiographs of 19,351 patients of a hospital in São Paulo.

    Ages are in groups of five years, the last of 85 and more. A fifth of the patients test.
    """

    card = Card.load("brax")

    def table(self) -> pd.DataFrame:
        """Return one row an image of the spreadsheet, in its order, without strips."""
        read = LabelFile.read(self.root / LABEL_FILE, [*COLUMNS, *LABELS])
        ages = read.words("PatientAge").replace("85 or more", "85")
        labels = replace(read, cells=read.cells.assign(PatientAge=ages))
        rows, columns = labels.numbers("Rows", 1), labels.numbers("Columns", 1)
        strip = np.maximum(rows, columns) > LONGEST * np.minimum(rows, columns)
        patients = "brax:" + labels.ids("PatientID")
        table = pd.DataFrame(
            {
                "image": labels.text("PngPath"),
                "patient": patients,
                "site": "Hospital Israelita Albert Einstein",
                "view": labels.words("ViewPosition")
                .str.upper()
                .map(VIEWS),  # others are decubitus, oblique
                "sex": labels.codes("PatientSex", {"F": "F", "M": "M", "O": None}),
                "age": labels.ages("PatientAge", OLDEST),
                "scanner": labels.names("Manufacturer", distinct=True),
                "split": split_by_patient(patients),
            }
        ).join(self.findings(labels))
        return keep(table[~strip], self.views).reset_index(drop=True)
