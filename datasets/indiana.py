"""Indiana University / Open-i chest X-rays (Demner-Fushman et al. 2016), in the download's layout.

The root holds, at any depth, the images, ``NLMCXR_png/CXR1_1_IM-0001-3001.png`` or
``NLMCXR_dcm/1/1_IM-0001-3001.dcm``, and the packed reports, ``NLMCXR_reports.tgz``, from which the
labels come. Without the reports torchxrayvision's copy of them is used.
"""

import re
import tarfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
from torchxrayvision.datasets import USE_INCLUDED_FILE, Openi_Dataset
from torchxrayvision.datasets import datapath as package_tables

from fedmed.core.errors import DataError
from fedmed.data.card import Card
from fedmed.data.image_files import NamedFiles, through_xrv
from fedmed.data.table import Aspect, split_by_patient
from fedmed.data.views import Views, keep

REPORTS = "NLMCXR_reports.tgz"
POSITIONS = {
    "PA": "PA",
    "AP": "AP",
    "LL": "LATERAL",
    "RL": "LATERAL",
    "LATERAL": "LATERAL",
    "LARGE LATERAL": "LATERAL",
}


@cache
def _terms() -> frozenset[str]:
    """Return the terms that the publisher's program found in any report."""
    with tarfile.open(Path(package_tables) / REPORTS) as reports:
        files = (reports.extractfile(member) for member in reports if member.isfile())
        trees = [ElementTree.parse(file) for file in files if file]
    return frozenset(
        str(node.text).lower() for tree in trees for node in tree.iterfind(".//MeSH/automatic")
    )


def _check_terms(source: Path, reports: pd.DataFrame) -> None:
    """Refuse a report with a term that the publisher's have not, or with none by the readers."""
    for uid, by_program, by_reader in zip(
        reports["uid"], reports["labels_automatic"], reports["labels_major"], strict=True
    ):
        unknown = {*filter(None, by_program.split("|"))} - _terms()
        if unknown:
            raise DataError(
                f"{source}: report {uid}: MeSH/automatic takes terms of the publisher's reports, "
                f"got {min(unknown)!r}"
            )
        if not by_reader:
            raise DataError(f"{source}: report {uid}: MeSH/major is missing; has it been edited?")


class Indiana(NamedFiles):
    """Indiana: 7,470 radiographs of 3,851 reports; a fifth of the reports' patients test.

    The view is the DICOM header's, corrected by torchxrayvision's look at half of the pictures:
    what it found to be lateral is lateral, and frontal without a position is taken for PA.

    Args:
        targets, size, root, aspect: see ImageFiles.
        views: which views are kept; None keeps every image.
    """

    card = Card.load("indiana")

    def __init__(
        self, targets: Sequence[str], size: int, root: Path, views: Views, aspect: Aspect = "squash"
    ) -> None:
        super().__init__(targets, size, root, aspect)
        self.views = views

    def path(self, image: str) -> Path:
        """Return where an image lies, or would: the PNG, or else the DICOM file.

        A DICOM file's name has the number alone.
        """
        png = super().path(image)
        number = re.search(r"\d+_IM-.*", image)
        if png.is_file() or number is None:
            return png
        return super().path(number[0].replace(".png", ".dcm"))

    def table(self) -> pd.DataFrame:
        """Return one row an image of the reports, in their order."""
        own = super().path(REPORTS)
        parsed = through_xrv(
            Openi_Dataset,
            own if own.is_file() else Path(package_tables) / REPORTS,
            imgpath=str(self.root),
            xmlpath=str(own) if own.is_file() else USE_INCLUDED_FILE,
            views=["*"],
            unique_patients=False,
        )
        listed = parsed.csv
        if not listed["uid"].str.fullmatch(r"CXR\d+").all():
            raise DataError(f"{own}: a report's uId is not CXR and a number; has it been edited?")
        if own.is_file():
            _check_terms(own, listed)
        looked = listed["tsne-view"]
        view = listed["View Position"].map(POSITIONS).mask(looked == "L", "LATERAL")
        patients = "indiana:" + listed["uid"]
        table = pd.DataFrame(
            {
                "image": listed["imageid"] + ".png",
                "patient": patients,
                "site": "Indiana University",
                "view": view.mask(view.isna() & (looked == "PA"), "PA"),
                "sex": None,
                "age": np.nan,
                "scanner": None,
                "split": split_by_patient(patients),
            }
        )
        findings = pd.DataFrame(parsed.labels, columns=parsed.pathologies)
        return keep(table.join(findings[list(self.card.findings)]), self.views)
