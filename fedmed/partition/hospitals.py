"""Hospitals with a profile: patients are drawn to those that they suit."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedmed.core.errors import ConfigError
from fedmed.core.seeding import generator
from fedmed.data.table import COLUMNS
from fedmed.data.vocabulary import known
from fedmed.partition.rule import Rule, Seed, ValFraction

FAINT = 1e-6  # what is left of a rank below the floor, so that nobody is without a hospital


class Ages(BaseModel):
    """Points for an age in [since, before) years; two points rise or fall in line between both."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    since: float = 0
    before: float = math.inf
    points: float | tuple[float, float]

    def of(self, age: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return each patient's points."""
        inside = (age >= self.since) & (age < self.before)
        if isinstance(self.points, tuple):
            given = np.interp(age, [self.since, self.before], self.points)
            return np.where(inside, given, 0)
        return np.where(inside, self.points, 0)


class Hospital(BaseModel):
    """Whom a hospital treats: the points that its patients score.

    Attributes:
        share: its weight among the hospitals.
        view, sex, findings: points for each.
        age: points for spans of age; those that overlap add up.
        count: points for a number of findings; the largest number that a patient reaches counts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    share: Annotated[float, Field(gt=0)]
    view: dict[Literal["PA", "AP", "LATERAL"], float] = {}
    sex: dict[Literal["M", "F"], float] = {}
    age: list[Ages] = []
    findings: dict[str, float] = {}
    count: dict[Annotated[int, Field(ge=0)], float] = {}

    def scores(self, patients: pd.DataFrame) -> NDArray[np.float64]:
        """Return each patient's points; what is not known scores none."""
        present = patients[[c for c in patients if c not in (*COLUMNS, "key")]].to_numpy(float) == 1
        score = np.zeros(len(patients))
        for column, worth in (("view", self.view), ("sex", self.sex)):
            score += patients[column].map(dict(worth)).astype(float).fillna(0).to_numpy()
        for span in self.age:
            score += span.of(patients["age"].to_numpy(float))
        for finding, points in self.findings.items():
            if finding in patients:
                score += points * (patients[finding] == 1).to_numpy()
        if self.count:
            steps = sorted(self.count)
            reached = np.searchsorted(steps, present.sum(axis=1), side="right") - 1
            given = np.array([self.count[step] for step in steps])
            score += np.where(reached >= 0, given[reached], 0)
        return score


class Hospitals(Rule):
    """Patients drawn to hospitals by how well they suit each one's profile.

    The scheme of the hospital silos of exalsius and Flower (github.com/exalsius/
    hackathon-coldstart2025, internal/prepare_datasets.py): each hospital scores each patient;
    scores become ranks in (0, 1]; a rank below ``floor`` becomes 1e-6; ranks times shares are
    the odds by which a patient's hospital is drawn. The profiles in ``hospital_silos.yaml`` are
    theirs. What differs: only the patients that are not tested are divided; a patient's view is
    that of most images, not of the first; ages above 100 are kept; and the fourth hospital, which
    they hold out as out-of-distribution test, is a client like the others. Over all of NIH and
    with their draw it gives the first three 45,276, 21,869 and 17,741 training images where their
    README prints 42,093, 21,753 and 20,594.

    Args:
        hospitals: a Hospital by its name; clients are in this order. A finding that the dataset
            lacks scores nothing.
        floor: the rank below which a patient hardly ever comes.
        val_fraction, seed: see Rule.

    Raises:
        ConfigError: naming the key of a profile that is wrong.
    """

    def __init__(
        self,
        hospitals: Mapping[str, Any],
        floor: Annotated[float, Field(ge=0, lt=1)],
        val_fraction: ValFraction,
        seed: Seed,
    ) -> None:
        super().__init__(val_fraction, seed)
        self.hospitals = {name: _hospital(name, profile) for name, profile in hospitals.items()}
        self.floor = floor
        if not self.hospitals:
            raise ConfigError("partition.hospitals: name at least one")

    def divide(self, patients: pd.DataFrame) -> list[list[str]]:  # noqa: D102
        for name, hospital in self.hospitals.items():
            odd = [f for f in hospital.findings if f not in patients and not known(f)]
            if odd:
                raise ConfigError(
                    f"partition.hospitals.{name}.findings: {odd[0]} is no finding that a dataset "
                    "here annotates"
                )
        odds = self.odds(patients)
        draws = generator(self.seed, "hospitals").random(len(patients))
        chosen = (odds.cumsum(axis=1) <= draws[:, None] * odds.sum(axis=1)[:, None]).sum(axis=1)
        return [
            patients.loc[chosen == client, "patient"].tolist()
            for client in range(len(self.hospitals))
        ]

    def odds(self, patients: pd.DataFrame) -> NDArray[np.float64]:
        """Return how strongly each hospital draws each patient, N×hospitals."""
        columns = []
        for hospital in self.hospitals.values():
            rank = pd.Series(hospital.scores(patients)).rank().to_numpy() / len(patients)
            columns.append(np.where(rank < self.floor, FAINT, rank) * hospital.share)
        return np.stack(columns, axis=1)


def _hospital(name: str, profile: Any) -> Hospital:
    try:
        return Hospital.model_validate(profile)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, ("partition.hospitals", name, *problem["loc"])))
        message = problem["msg"][0].lower() + problem["msg"][1:]
        raise ConfigError(f"{where}: {message}, got {problem['input']!r}") from None
