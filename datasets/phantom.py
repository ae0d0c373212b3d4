"""The embedded dataset: synthetic chest radiographs, drawn when read; nothing to download."""

from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from fedmed.core.errors import UnreadableImage
from fedmed.data.card import Card
from fedmed.data.phantom import population as people
from fedmed.data.phantom.findings import FINDINGS
from fedmed.data.phantom.radiograph import VERSION, Radiograph
from fedmed.data.phantom.sites import Hospital, hospital
from fedmed.data.table import Dataset, validate


class Phantom(Dataset):
    """Synthetic patients of several hospitals that differ in whom they treat and how.

    Args:
        targets: see Dataset.
        size: see Dataset.
        patients: how many patients.
        sites: how many hospitals share them.
        seed: names the world: the same seed gives the same patients, images and pixels.
    """

    card = Card.load("phantom")

    def __init__(
        self,
        targets: Sequence[str],
        size: int,
        patients: Annotated[int, Field(ge=20)] = 2000,
        sites: Annotated[int, Field(ge=1, le=50)] = 6,
        seed: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        super().__init__(targets, size)
        self.patients, self.sites, self.seed = patients, sites, seed

    @cached_property
    def _hospitals(self) -> list[Hospital]:
        return [hospital(self.seed, index) for index in range(self.sites)]

    @cached_property
    def _population(self) -> people.Population:
        drawn = people.populate(self.seed, self.patients, self._hospitals)
        validate(drawn.table, self)
        return drawn

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {image: row for row, image in enumerate(self._population.table["image"])}

    def table(self) -> pd.DataFrame:
        """Return the table, in the order of the patients' numbers."""
        return self._population.table.copy()

    def radiograph(self, image: str) -> Radiograph:
        """Return how an image is drawn: its anatomy, pose, findings and detector."""
        if image not in self._rows:
            raise UnreadableImage(f"{self.card.title} has no image {image}")
        row = self._rows[image]
        drawn = self._population
        return Radiograph(
            self.seed,
            image,
            str(drawn.table.at[row, "patient"]),
            female=bool(drawn.female[row]),
            age=float(drawn.age[row]),
            supine=bool(drawn.bedside[row]),
            severity=dict(zip(FINDINGS, drawn.severity[row].tolist(), strict=True)),
            detector=self._hospitals[drawn.hospital[row]].detector,
        )

    def read(self, image: str) -> NDArray[np.uint8]:
        """Draw one image, size×size: a pure function of the dataset's arguments and the id."""
        return self.radiograph(image).draw(self.size)

    def recipe(self, images: Sequence[str]) -> dict[str, Any]:
        """Return all that the pixels depend on besides the table and the size."""
        return {
            "name": "phantom",
            "version": VERSION,
            "seed": self.seed,
            "patients": self.patients,
            "sites": self.sites,
            "prevalence": people.PREVALENCE,
            "persistence": people.PERSISTENCE,
            "loadings": people.LOADINGS,
            "bedside": people.BEDSIDE,
            "age": people.AGE,
        }

    def boxes(self) -> pd.DataFrame:
        """Return where findings were drawn: ``image finding x0 y0 x1 y1``, a row a lesion.

        Corners are fractions of the width and the height. Findings whose label is not known have
        no box, though they may have been drawn.
        """
        rows = []
        table = self._population.table
        for image, labels in zip(table["image"], table[list(FINDINGS)].to_numpy(), strict=True):
            known = [name for name, label in zip(FINDINGS, labels, strict=True) if label == 1]
            if known:
                found = self.radiograph(image).boxes()
                rows += [(image, name, *box) for name in known for box in found[name]]
        return pd.DataFrame(rows, columns=["image", "finding", "x0", "y0", "x1", "y1"])
