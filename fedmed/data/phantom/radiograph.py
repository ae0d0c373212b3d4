"""One radiograph: a patient's chest with its findings, posed before a hospital's detector."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedmed.core.seeding import generator
from fedmed.data.phantom.acquisition import Detector
from fedmed.data.phantom.anatomy import Anatomy, Box
from fedmed.data.phantom.draw import Canvas, Image, clouds
from fedmed.data.phantom.finding import Finding
from fedmed.data.phantom.findings import FINDINGS
from fedmed.data.phantom.thorax import thorax
from fedmed.data.phantom.vessels import Vessels

#: Counts up whenever the same arguments give other pixels.
VERSION = 1


@dataclass(frozen=True)
class Pose:
    """How the patient stands before the film.

    Attributes:
        x: where the film's centre lies, cm from the midline.
        y: where the film's centre lies, cm below the apices.
        scale: how much larger than life the chest appears.
        lean: how far the chest leans to its left, cm per cm downwards.
    """

    x: float
    y: float
    scale: float
    lean: float

    @classmethod
    def draw(cls, rng: np.random.Generator, supine: bool) -> "Pose":
        """Draw a posture; bedside films are less well centred."""
        loose = 1.6 if supine else 1.0
        x, y, scale, lean = (loose * rng.standard_normal(4)).tolist()
        return cls(
            x=0.6 * x,
            y=(11.0 if supine else 12.2) + 0.7 * y,
            scale=1.02 + 0.02 * scale + 0.03 * supine,
            lean=0.02 * lean,
        )

    def canvas(self, size: int, field: float) -> Canvas:
        """Return the pixels of a film ``field`` cm wide."""
        pixel = field / self.scale / size
        steps = (np.arange(size, dtype=np.float32) - np.float32((size - 1) / 2)) * np.float32(pixel)
        x = steps + np.float32(self.x) - (steps * np.float32(self.lean))[:, None]
        return Canvas(x, (steps + np.float32(self.y))[:, None], pixel)

    def fractions(self, box: Box, field: float) -> Box:
        """Return a box in cm as fractions of the film, cut to it."""
        across = self.scale / field
        middle = ((box[1] + box[3]) / 2 - self.y) * self.lean
        left, right = (_share((x - self.x + middle) * across + 0.5) for x in (box[0], box[2]))
        top, bottom = (_share((y - self.y) * across + 0.5) for y in (box[1], box[3]))
        return left, top, right, bottom


class Radiograph:
    """All that one image shows; nothing is drawn before ``draw``.

    Args:
        seed: of the world.
        image: the image's id.
        patient: the patient's id: anatomy and lesions stay the same in all of a patient's images.
        female: the patient's sex.
        age: years.
        supine: an anteroposterior film at the bedside.
        severity: of each finding, 0 where absent.
        detector: what takes the film.
    """

    def __init__(
        self,
        seed: int,
        image: str,
        patient: str,
        *,
        female: bool,
        age: float,
        supine: bool,
        severity: dict[str, float],
        detector: Detector,
    ) -> None:
        self.detector = detector
        self._rng = generator(seed, "phantom", "image", image)
        self.pose = Pose.draw(self._rng, supine)
        anatomy, self.vessels = _patient(seed, patient, female, age)
        self.anatomy = anatomy.imaged(self._rng, supine)
        self.findings: dict[str, Finding] = {
            name: FINDINGS[name](degree, generator(seed, "phantom", "lesion", patient, name))
            for name, degree in severity.items()
            if degree > 0
        }
        for finding in self.findings.values():
            self.anatomy = finding.reshape(self.anatomy)

    def draw(self, size: int) -> NDArray[np.uint8]:
        """Return the film's pixels, size×size."""
        canvas = self.pose.canvas(size, self.detector.field)
        vessels = self.vessels.thickness(canvas, self.anatomy) + _interstitium(self._rng, size)
        chest = thorax(canvas, self.anatomy, vessels)
        for finding in self.findings.values():
            finding.fill(canvas, self.anatomy, chest)
        return self.detector.expose(chest.water(), canvas, self._rng, self.anatomy.supine)

    def boxes(self) -> dict[str, list[Box]]:
        """Return the boxes of each finding's lesions, as fractions of the film."""
        return {
            name: [
                self.pose.fractions(box, self.detector.field) for box in finding.boxes(self.anatomy)
            ]
            for name, finding in self.findings.items()
        }


@lru_cache(maxsize=256)
def _patient(seed: int, patient: str, female: bool, age: float) -> tuple[Anatomy, Vessels]:
    rng = generator(seed, "phantom", "patient", patient)
    return Anatomy.draw(rng, female, age), Vessels.draw(rng)


def _interstitium(rng: np.random.Generator, size: int) -> Image:
    """Return the texture of vessels and interstitium too fine to draw one by one, cm."""
    return clouds(rng, 24, size) * 0.22 + clouds(rng, 9, size) * 0.3


def _share(value: float) -> float:
    return min(max(value, 0.0), 1.0)
