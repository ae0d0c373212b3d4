"""Shenzhen and Montgomery County tuberculosis (Jaeger et al. 2014), as downloaded.

``ChinaSet_AllFiles/`` and ``MontgomerySet/`` each hold ``CXR_png/CHNCXR_0001_0.png`` (or
``MCUCXR_…``), whose last digit is the label, and ``ClinicalReadings/CHNCXR_0001_0.txt`` with sex
and age. The root is that folder or the one around it.
"""

import re
from pathlib import Path

import pandas as pd
from torchxrayvision.datasets import NLMTB_Dataset

from fedmed.core.errors import DataError
from fedmed.data.card import Card
from fedmed.data.image_files import ImageFiles, images_in, through_xrv
from fedmed.data.table import split_by_patient

YEARS = {"y": 1.0, "m": 1 / 12, "d": 1 / 365}  # Shenzhen gives infants' ages in months and days
OLDEST = 110


class NLMTuberculosis(ImageFiles):
    """PA radiographs, one a patient, of one hospital or county; a fifth of the patients test.

    Sex and age come from the readings and are unknown where a reading is absent or does not tell.
    """

    name: str
    folder: str
    code: str  #: what file names begin with
    site: str
    reading: str  #: finds sex, age and its unit

    def table(self) -> pd.DataFrame:
        """Return one row an image, in the order of the names."""
        home = self.root / self.folder if (self.root / self.folder).is_dir() else self.root
        source = home / "CXR_png"
        names = [path.name for path in images_in(source, ".png")]
        wrong = [n for n in names if not re.fullmatch(rf"{self.code}_\d{{4}}_[01]\.png", n)]
        if wrong:
            raise DataError(f"{source}: takes images named {self.code}_0001_0.png, got {wrong[0]}")
        parsed = through_xrv(NLMTB_Dataset, source, imgpath=str(home))
        shown = parsed.csv["fname"].str.removesuffix(".png")
        patients = f"{self.name}:" + shown.str.split("_").str[1]
        told = pd.DataFrame([self._told(home / "ClinicalReadings" / f"{n}.txt") for n in shown])
        table = pd.DataFrame(
            {
                "image": [(source / n).relative_to(self.root).as_posix() for n in names],
                "patient": patients,
                "site": self.site,
                "view": "PA",
                "sex": told["sex"],
                "age": told["age"],
                "scanner": None,
                "split": split_by_patient(patients),
            }
        )
        return table.join(pd.DataFrame(parsed.labels, columns=parsed.pathologies))

    def _told(self, reading: Path) -> dict[str, str | float | None]:
        text = reading.read_text(errors="replace") if reading.is_file() else ""
        told = re.search(self.reading, text, re.IGNORECASE | re.DOTALL | re.ASCII)
        if told is None:
            return {"sex": None, "age": float("nan")}
        sex, number, unit = told.groups()
        age = int(number[:4]) * YEARS[(unit or "y").lower()]
        return {"sex": sex[0].upper(), "age": age if age <= OLDEST else float("nan")}


class Shenzhen(NLMTuberculosis):
    """Shenzhen: 326 normal radiographs and 336 with tuberculosis, of one hospital."""

    name = "shenzhen"
    folder = "ChinaSet_AllFiles"
    code = "CHNCXR"
    site = "Shenzhen No.3 People's Hospital"
    reading = r"\b((?:fe)?male)\b[\s,]*(\d+)\s*([ymd])?"
    card = Card.load("shenzhen")


class Montgomery(NLMTuberculosis):
    """Montgomery County: 80 normal radiographs and 58 with tuberculosis, of screening."""

    name = "montgomery"
    folder = "MontgomerySet"
    code = "MCUCXR"
    site = "Montgomery County"
    reading = r"sex:\s*([mf])\b.*?age:\s*(\d+)\s*([ymd])?"
    card = Card.load("montgomery")
