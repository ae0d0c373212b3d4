"""COVID-19 Radiography Database (Chowdhury et al. 2020; Rahman et al. 2021), as downloaded.

``COVID-19_Radiography_Dataset/`` holds ``COVID/images/COVID-1.png`` and so on for each of four
classes, beside masks and spreadsheets that are not read. The root is that folder or the one
around it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
from pydantic import Field

from fedmed.core.seeding import generator
from fedmed.data.card import Card
from fedmed.data.image_files import ImageFiles, images_in
from fedmed.data.table import NO_FINDING, Aspect, split_by_patient

FOLDER = "COVID-19_Radiography_Dataset"
Class = Literal["COVID", "Lung_Opacity", "Normal", "Viral Pneumonia"]
CLASSES: dict[Class, str] = {
    "COVID": "COVID-19",
    "Lung_Opacity": "Lung Opacity",
    "Normal": NO_FINDING,
    "Viral Pneumonia": "Viral Pneumonia",
}


class COVID19Radiography(ImageFiles):
    """21,165 frontal radiographs, each of one of four classes; a fifth of the images test.

    An image is positive for its class and negative for the others, whatever else it may show.

    Args:
        targets, size, root, aspect: see ImageFiles.
        classes: those whose images are taken.
        normals: how many normal images are taken at most for each of COVID-19; None for all.
    """

    card = Card.load("covid19_radiography")

    def __init__(
        self,
        targets: Sequence[str],
        size: int,
        root: Path,
        aspect: Aspect = "squash",
        classes: Sequence[Class] = ("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia"),
        normals: Annotated[float, Field(gt=0)] | None = None,
    ) -> None:
        super().__init__(targets, size, root, aspect)
        self.classes = classes
        self.normals = normals

    def table(self) -> pd.DataFrame:
        """Return one row an image, in the order of classes and names."""
        home = self.root / FOLDER if (self.root / FOLDER).is_dir() else self.root
        shown = {name: images_in(home / name / "images", ".png") for name in self.classes}
        if self.normals is not None and "Normal" in shown:
            most = round(self.normals * len(shown.get("COVID", ())))
            drawn = generator(0, "normals").permutation(len(shown["Normal"]))[:most]
            shown["Normal"] = [shown["Normal"][i] for i in sorted(drawn)]
        paths = [path for some in shown.values() for path in some]
        finding = pd.Series([CLASSES[name] for name, some in shown.items() for _ in some])
        patients = pd.Series([f"covid19_radiography:{path.stem}" for path in paths])
        table = pd.DataFrame(
            {
                "image": [path.relative_to(self.root).as_posix() for path in paths],
                "patient": patients,
                "site": self.card.title,
                "view": None,
                "sex": None,
                "age": float("nan"),
                "scanner": None,
                "split": split_by_patient(patients),
            }
        )
        shows = pd.get_dummies(finding, dtype=float)
        return table.join(shows.reindex(columns=list(CLASSES.values()), fill_value=0.0))
