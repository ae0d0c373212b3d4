"""The hospitals: whom they treat and how they take films, so that sites differ as real ones do."""

from dataclasses import dataclass

from fedmed.core.seeding import generator
from fedmed.data.phantom.acquisition import Detector
from fedmed.data.phantom.findings import FINDINGS


@dataclass(frozen=True)
class Hospital:
    """One site.

    Attributes:
        weight: its share of the patients, before normalising.
        bedside: the share of patients imaged at the bedside (AP).
        female: the share of women.
        age: mean age, years.
        excess: how much commoner each finding is than elsewhere, in probits, in card order.
        unknown: the share of labels that its reports leave open.
        detector: its equipment.
    """

    weight: float
    bedside: float
    female: float
    age: float
    excess: tuple[float, ...]
    unknown: float
    detector: Detector


def hospital(seed: int, index: int) -> Hospital:
    """Return the hospital number ``index`` of the world that ``seed`` names."""
    rng = generator(seed, "phantom", "hospital", index)
    return Hospital(
        weight=float(rng.lognormal(0, 0.5)) / (1 + 0.35 * index),
        bedside=float(rng.beta(1.6, 2.4)),
        female=float(rng.uniform(0.35, 0.6)),
        age=float(rng.uniform(44, 66)),
        excess=tuple(rng.normal(0, 0.22, len(FINDINGS)).tolist()),
        # One report in eight is vague where structured reporting has not arrived yet.
        unknown=0.12 if index == 2 else 0.025,
        detector=Detector.draw(rng),
    )
