"""BRAX (Reis et al. 2022), in the layout of its download.

The root holds ``master_spreadsheet_update.csv`` and ``images/``, the tree of its PNG files.
"""

from dataclasses import replace

import numpy as np
import pandas as pd

from fedmed.data.chexpert_labels import FINDINGS, LABELS, CheXpertLabelled
from fedmed.data.label_files import LabelFile
from fedmed.data.table import Card, split_by_patient
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

    card = Card(
        title="BRAX",
        findings=FINDINGS,
        images=40_967,
        patients=19_351,
        licence="PhysioNet Credentialed Health Data License 1.5.0",
        citation="Reis et al., BRAX, Scientific Data 9:487, 2022, doi:10.1038/s41597-022-01608-8",
        homepage="https://physionet.org/content/brax/",
        how_to_get="as a credentialed user of PhysioNet, sign the agreement and download "
        f"{LABEL_FILE} and images/",
        caveat="labels were mined from reports in Portuguese; a quarter of the images have no "
        "view and are kept by dataset.views=null alone",
    )

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
