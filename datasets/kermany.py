"""Children's radiographs with and without pneumonia (Kermany et al. 2018), as downloaded.

``chest_xray/`` holds ``train/`` and ``test/``, each with ``NORMAL/`` and ``PNEUMONIA/``; the root
is that folder or the one around it. Mendeley's files are named by a patient's number,
``BACTERIA-1008087-0001.jpeg``; Kaggle's copy counts persons, ``person1_virus_6.jpeg``, and healthy
children, ``IM-0115-0001.jpeg`` and ``NORMAL2-IM-0381-0001-0002.jpeg``. Its ``val/`` is 16 of the
images that train at Mendeley.
"""

import numpy as np
import pandas as pd

from fedmed.core.errors import DataError
from fedmed.data.card import Card
from fedmed.data.image_files import ImageFiles, images_in
from fedmed.data.table import NO_FINDING

SPLITS = {"train": "train", "val": "train", "test": "test"}
FOLDERS = ("NORMAL", "PNEUMONIA")
NAME = (
    r"(?:(?P<person>person\d+)_(?P<cause>bacteria|virus)"
    r"|(?P<healthy>(?:NORMAL2-)?IM-\d+)(?:-\d+)?"
    r"|(?P<label>NORMAL|BACTERIA|VIRUS)-(?P<number>\d+))[-_]\d+\.jpeg"
)


class Kermany(ImageFiles):
    """5,856 radiographs of children of one to five years, 5,232 to train and 624 to test.

    The patient follows from a file's name. A number of Mendeley's is a patient; one with images in
    both folders tests. Kaggle's persons are counted in each folder by themselves: whether person 1
    of ``train`` and of ``test`` is one child is not published, and they are taken for two. A person
    with bacterial and viral images in one folder is taken for one child, so that none is in two
    places.
    """

    card = Card.load("kermany")

    def table(self) -> pd.DataFrame:
        """Return one row an image, in the order of folders and names."""
        home = self.root / "chest_xray" if (self.root / "chest_xray").is_dir() else self.root
        folders = [home / part / shown for part in SPLITS for shown in FOLDERS]
        here = [f for f in folders if f.parent.name != "val" or f.is_dir()]  # Mendeley has none
        paths = [path for folder in here for path in images_in(folder, ".jpeg")]
        names = pd.Series([path.name for path in paths], dtype=str)
        parts = pd.Series([path.parent.parent.name for path in paths], dtype=str)
        ill = pd.Series([path.parent.name == "PNEUMONIA" for path in paths], dtype=bool)
        told = names.str.extract(f"^{NAME}$")
        cause = told["cause"].fillna(told["label"].str.lower())
        wrong = told.isna().all(axis=1) | (ill != cause.isin(["bacteria", "virus"]))
        if wrong.any():
            first = paths[int(np.flatnonzero(wrong)[0])]
            raise DataError(
                f"{first}: takes names as in PNEUMONIA/person1_virus_6.jpeg, "
                "NORMAL/IM-0115-0001.jpeg or PNEUMONIA/BACTERIA-1008087-0001.jpeg "
                f"({int(wrong.sum())} such files)"
            )
        split = parts.map(SPLITS)
        patient = told["number"].fillna(split + "/" + told["person"].fillna(told["healthy"]))
        tested = (split == "test").groupby(patient).transform("any")
        return pd.DataFrame(
            {
                "image": [path.relative_to(self.root).as_posix() for path in paths],
                "patient": "kermany:" + patient,
                "site": "Guangzhou Women and Children's Medical Center",
                "view": "AP",
                "sex": None,
                "age": float("nan"),
                "scanner": None,
                "split": split.mask(tested, "test"),
                "Pneumonia": ill.astype(float),
                "Bacterial Pneumonia": (cause == "bacteria").astype(float),
                "Viral Pneumonia": (cause == "virus").astype(float),
                NO_FINDING: (~ill).astype(float),
            }
        )
