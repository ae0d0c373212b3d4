"""Drawing primitives: soft edges, ellipsoids, point clouds and smooth noise on a grid of pixels."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Drawn in single precision; what only rows need may be double.
Image = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Canvas:
    """The pixels of one image, in centimetres of the patient's frame.

    Attributes:
        x: H×W, the distance from the midline; its rows differ where the patient leans.
        y: H×1, the depth below the apices. One column is enough, so that whatever depends on
            height alone (widths, levels, borders) costs H values and not H×W.
        pixel: the side of a pixel, cm.
    """

    x: Image
    y: Image
    pixel: float

    def inside(self, distance: Image, softness: float = 0.0) -> Image:
        """Return 1 where ``distance`` (cm) is positive and 0 where not, ``softness`` cm wide."""
        ramp = distance * (1.0 / max(softness, self.pixel))
        ramp += 0.5
        return np.clip(ramp, 0.0, 1.0, out=ramp)

    def tube(self, distance: Image, radius: float) -> Image:
        """Return the relative thickness of a tube whose axis is ``distance`` cm away."""
        reach = max(radius, 0.6 * self.pixel)
        return _cap(np.square(distance * (1.0 / reach))) * (radius / reach)

    def ellipsoid(self, x: float, y: float, a: float, b: float, tilt: float = 0.0) -> Image:
        """Return the relative thickness, 1 at its centre, of an ellipsoid seen from the front.

        Args:
            x: its centre, cm from the midline.
            y: its centre, cm below the apices.
            a: its half-axis along x, cm.
            b: its half-axis along y, cm.
            tilt: how far the first axis points downwards, radians.
        """
        cos, sin = float(np.cos(tilt)), float(np.sin(tilt))
        dx, dy = self.x - x, self.y - y
        first = dx * (cos / a)
        first += dy * (sin / a)
        second = dx * (-sin / b)
        second += dy * (cos / b)
        return _cap(np.square(first) + np.square(second))

    def blob(self, x: float, y: float, a: float, b: float) -> Image:
        """Return a Gaussian, 1 at its centre, with standard deviations ``a`` and ``b`` in cm."""
        bell: Image = np.exp(-0.5 * np.square((self.x - x) * (1 / a)))
        bell *= np.exp(-0.5 * np.square((self.y - y) * (1 / b)))
        return bell

    def splat(self, x: Image, y: Image, volume: Image) -> Image:
        """Return the thickness (cm, H×W) of points of ``volume`` cm³ at ``x``, ``y`` cm."""
        height, width = self.x.shape
        row = (y - self.y[0, 0]) * (1 / self.pixel)
        near = np.clip(row.astype(np.int32), 0, height - 1)
        column = (x - self.x[near, 0]) * (1 / self.pixel)
        kept = (row >= 0) & (row < height - 1) & (column >= 0) & (column < width - 1)
        row, column = row[kept], column[kept]
        top, left = row.astype(np.int32), column.astype(np.int32)
        down, right = row - top, column - left
        mass = volume[kept] * (1 / self.pixel**2)
        low, high = mass * down, mass * (1 - down)
        corner = top * width + left
        cells = np.concatenate([corner, corner + 1, corner + width, corner + width + 1])
        parts = np.concatenate([high * (1 - right), high * right, low * (1 - right), low * right])
        total = np.bincount(cells, weights=parts, minlength=height * width)
        return total.astype(np.float32).reshape(height, width)


def _cap(squared: Image) -> Image:
    np.subtract(1.0, squared, out=squared)
    np.maximum(squared, 0.0, out=squared)
    return np.sqrt(squared, out=squared)


@lru_cache(maxsize=64)
def _weights(cells: int, size: int) -> tuple[NDArray[np.intp], Image]:
    at = (np.arange(size) + 0.5) * ((cells - 1) / size)
    low = np.minimum(at.astype(np.intp), cells - 2)
    part = at - low
    return low, (part * part * (3 - 2 * part)).astype(np.float32)


def stretch(coarse: Image, size: int) -> Image:
    """Return a coarse grid (h×w) interpolated smoothly to size×size."""
    low, part = _weights(coarse.shape[0], size)
    rows = coarse[low] + (coarse[low + 1] - coarse[low]) * part[:, None]
    low, part = _weights(coarse.shape[1], size)
    left = rows[:, low]
    return left + (rows[:, low + 1] - left) * part


def clouds(rng: np.random.Generator, cells: int, size: int) -> Image:
    """Return smooth noise, size×size, mean 0, about unit variance, ``cells`` lumps across."""
    return stretch(rng.standard_normal((cells, cells), dtype=np.float32), size)


def blur(image: Image, sigma: float) -> Image:
    """Return ``image`` blurred by a small Gaussian-like kernel; ``sigma`` in pixels."""
    variance = sigma * sigma
    while variance > 0.0025:
        # Three taps reach a variance of 0.5 pixels² at most, so wider kernels repeat.
        step = min(variance, 0.5)
        image = _three_taps(_three_taps(image, step / 2).T, step / 2).T
        variance -= step
    return image


def _three_taps(image: Image, side: float) -> Image:
    blurred = image * (1 - 2 * side)
    aside = image * side
    blurred[1:] += aside[:-1]
    blurred[:-1] += aside[1:]
    blurred[0] += aside[0]
    blurred[-1] += aside[-1]
    return blurred
