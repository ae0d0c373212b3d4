"""The patients: whom each hospital sees, how often, and with which findings."""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedmed.core.seeding import generator
from fedmed.data.phantom.findings import FINDINGS
from fedmed.data.phantom.sites import Hospital

MOST_IMAGES = 8
TEST_SHARE = 0.2
#: Prevalence in an upright patient of 50 at an average hospital.
PREVALENCE = {
    "Atelectasis": 0.15,
    "Cardiomegaly": 0.10,
    "Consolidation": 0.08,
    "Edema": 0.055,
    "Effusion": 0.16,
    "Mass": 0.06,
    "Nodule": 0.09,
    "Pneumothorax": 0.04,
}
#: What findings share, as loadings on congestion, acute illness and tumour: why they come together.
LOADINGS = {
    "Atelectasis": (0.25, 0.50, 0.10),
    "Cardiomegaly": (0.70, 0.00, 0.00),
    "Consolidation": (0.00, 0.45, 0.00),
    "Edema": (0.65, 0.30, 0.00),
    "Effusion": (0.50, 0.50, 0.20),
    "Mass": (0.00, 0.00, 0.55),
    "Nodule": (0.00, 0.00, 0.55),
    "Pneumothorax": (0.00, 0.30, 0.10),
}
#: How far a finding persists over one patient's images (a correlation).
PERSISTENCE = {
    "Atelectasis": 0.70,
    "Cardiomegaly": 0.95,
    "Consolidation": 0.65,
    "Edema": 0.65,
    "Effusion": 0.75,
    "Mass": 0.97,
    "Nodule": 0.95,
    "Pneumothorax": 0.70,
}
#: Probits added at the bedside, and for thirty years of age.
BEDSIDE = (0.30, 0.10, 0.35, 0.55, 0.40, -0.05, -0.10, 0.25)
AGE = (0.15, 0.25, 0.00, 0.15, 0.20, 0.20, 0.15, -0.20)


@dataclass(frozen=True)
class Population:
    """All images of all patients.

    Attributes:
        table: the common table.
        severity: N×8, 0 where a finding is absent, else above 0 up to 1; known for every cell,
            also where the table's label is not.
        hospital: N, the number of each image's hospital.
        female: N, whether it is a woman's.
        age: N, years.
        bedside: N, whether it is anteroposterior.
    """

    table: pd.DataFrame
    severity: NDArray[np.float32]
    hospital: NDArray[np.int64]
    female: NDArray[np.bool_]
    age: NDArray[np.float64]
    bedside: NDArray[np.bool_]


def populate(seed: int, patients: int, hospitals: list[Hospital]) -> Population:
    """Draw ``patients`` patients and all their images."""
    rng = generator(seed, "phantom", "population")
    weights = np.array([site.weight for site in hospitals])
    site = rng.choice(len(hospitals), patients, p=weights / weights.sum())
    female = rng.random(patients) < np.array([h.female for h in hospitals])[site]
    age = np.array([h.age for h in hospitals])[site] + rng.normal(0, 16, patients)
    age = np.clip(np.rint(age), 18, 95)
    # A long tail: most patients come once or twice, some keep coming back.
    images = np.minimum(np.floor(rng.exponential(1.25, patients)).astype(int) + 1, MOST_IMAGES)
    test = rng.permutation(patients) < round(TEST_SHARE * patients)

    share = np.array([h.bedside for h in hospitals])[site]
    tendency = rng.beta(1.2 * share + 0.05, 1.2 * (1 - share) + 0.05)
    of = np.repeat(np.arange(patients), images)
    number = np.arange(of.size) - np.repeat(np.cumsum(images) - images, images)
    bedside = rng.random(of.size) < tendency[of]

    severity = _severity(rng, of, bedside, (age[of] - 50) / 30, hospitals, site[of])
    label = (severity > 0).astype(np.float32)
    unknown = np.array([h.unknown for h in hospitals])[site[of]]
    label[rng.random(label.shape) < unknown[:, None]] = np.nan

    names = [f"p{patient:05d}" for patient in range(patients)]
    table = pd.DataFrame(
        {
            "image": [
                f"site{site[p] + 1}/{names[p]}_{n:02d}" for p, n in zip(of, number, strict=True)
            ],
            "patient": [f"phantom:{names[p]}" for p in of],
            "site": [f"hospital-{site[p] + 1}" for p in of],
            "view": np.where(bedside, "AP", "PA"),
            "sex": np.where(female[of], "F", "M"),
            "age": age[of],
            "scanner": None,
            "split": np.where(test[of], "test", "train"),
            **{name: label[:, column] for column, name in enumerate(FINDINGS)},
        }
    )
    return Population(table, severity, site[of], female[of], age[of], bedside)


def _severity(
    rng: np.random.Generator,
    of: NDArray[np.intp],
    bedside: NDArray[np.bool_],
    decades: NDArray[np.float64],
    hospitals: list[Hospital],
    site: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Draw severities from a Gaussian liability with a threshold for each finding."""
    patients, findings = int(of[-1]) + 1, list(FINDINGS)
    load = np.array([LOADINGS[name] for name in findings])
    own = np.sqrt(1 - np.square(load).sum(1))
    lasting = rng.standard_normal((patients, load.shape[1])) @ load.T
    lasting += rng.standard_normal((patients, len(findings))) * own
    passing = rng.standard_normal((of.size, load.shape[1])) @ load.T
    passing += rng.standard_normal((of.size, len(findings))) * own
    stay = np.array([PERSISTENCE[name] for name in findings])
    liability = np.sqrt(stay) * lasting[of] + np.sqrt(1 - stay) * passing
    liability += np.outer(bedside, BEDSIDE) + np.outer(decades, AGE)
    liability += np.array([h.excess for h in hospitals])[site]
    threshold = np.array([NormalDist().inv_cdf(1 - PREVALENCE[name]) for name in findings])
    beyond = np.maximum(liability - threshold, 0)
    # Near enough uniform among the positives: the tail of a normal beyond a threshold is
    # exponential.
    severity: NDArray[np.float32] = (1 - np.exp(-beyond / 0.35)).astype(np.float32)
    return severity
