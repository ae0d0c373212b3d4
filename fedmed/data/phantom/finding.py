"""What a finding is.

A finding takes a severity from 0 (barely there) to 1 and a generator for its place and shape. It
may reshape the anatomy (a large heart, a raised hemidiaphragm), and then fills the lungs of the
drawn chest; it knows the box, in cm, of each of its lesions.
"""

from abc import ABC, abstractmethod

import numpy as np

from fedmed.data.phantom.anatomy import LEFT, RIGHT, Anatomy, Box
from fedmed.data.phantom.draw import Canvas, Image, clouds
from fedmed.data.phantom.thorax import Thorax

Generator = np.random.Generator


class Finding(ABC):
    """One finding in one image.

    Args:
        severity: 0 to 1.
        rng: for all that does not follow from the severity; the same in all of a patient's images.
    """

    def __init__(self, severity: float, rng: Generator) -> None:
        self.severity = severity
        self.texture = int(rng.integers(2**32))

    def reshape(self, anatomy: Anatomy) -> Anatomy:
        """Return the chest with the shape that the finding gives it."""
        return anatomy

    @abstractmethod
    def fill(self, canvas: Canvas, anatomy: Anatomy, thorax: Thorax) -> None:
        """Draw the finding into ``thorax``."""

    @abstractmethod
    def boxes(self, anatomy: Anatomy) -> list[Box]:
        """Return the bounding box of each lesion, cm."""

    def lumps(self, cells: int, canvas: Canvas) -> Image:
        """Return the lesion's own smooth noise, H×W, mean 0, about unit variance."""
        return clouds(np.random.default_rng(self.texture), cells, canvas.x.shape[0])


def draw_side(rng: Generator, right: float = 0.5) -> int:
    """Return RIGHT with probability ``right``, else LEFT."""
    return RIGHT if rng.random() < right else LEFT


def draw_spot(
    rng: Generator, height: tuple[float, float], out: tuple[float, float]
) -> tuple[float, float]:
    """Return how far down and out of a lung a lesion lies, as ``Anatomy.place`` takes it."""
    return float(rng.uniform(*height)), float(rng.uniform(*out))


def sided(side: int, inner: float, top: float, outer: float, bottom: float) -> Box:
    """Return the box between two distances from the midline on one side."""
    left, right = sorted((side * inner, side * outer))
    return left, top, right, bottom


def lateral(canvas: Canvas, side: int) -> Image:
    """Return 1 in one lung, H×W, and 0 beyond the mediastinum, which hides the soft border."""
    return canvas.inside(canvas.x * side - 1.8, 2.4)
