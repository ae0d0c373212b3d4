"""Findings that change volumes: a large heart, a lung that has lost air."""

from dataclasses import replace

import numpy as np

from fedmed.data.phantom.anatomy import LEFT, RIGHT, Anatomy, Box
from fedmed.data.phantom.draw import Canvas
from fedmed.data.phantom.finding import Finding, Generator, draw_side, lateral, sided
from fedmed.data.phantom.thorax import Thorax


class Cardiomegaly(Finding):
    """A cardiothoracic ratio above one half."""

    def __init__(self, severity: float, rng: Generator) -> None:
        super().__init__(severity, rng)
        self.tilt = float(rng.normal(-0.08, 0.05))

    def reshape(self, anatomy: Anatomy) -> Anatomy:
        """Widen the heart."""
        ratio = max(anatomy.ctr, 0.465) + 0.045 + 0.13 * self.severity
        return replace(anatomy, ctr=ratio, heart_tilt=anatomy.heart_tilt + self.tilt)

    def fill(self, canvas: Canvas, anatomy: Anatomy, thorax: Thorax) -> None:
        """Draw nothing: the reshaped heart is the finding."""

    def boxes(self, anatomy: Anatomy) -> list[Box]:
        """Return the heart's box."""
        return [anatomy.heart_box]


class Atelectasis(Finding):
    """Lost volume: plates at a base, or a collapsed lobe, above a raised hemidiaphragm."""

    def __init__(self, severity: float, rng: Generator) -> None:
        super().__init__(severity, rng)
        self.side = draw_side(rng, 0.45)
        self.lobar = bool(rng.random() < 0.3)
        self.bands = [
            (
                float(rng.uniform(1.0, 5.0)),
                float(rng.uniform(0.3, 0.6)),
                float(rng.normal(0.05, 0.14)),
            )
            for _ in range(1 + int(rng.random() < 0.3 + 0.5 * severity))
        ]
        self.rise = 1.2 + 2.2 * severity

    def reshape(self, anatomy: Anatomy) -> Anatomy:
        """Raise the hemidiaphragm and pull the mediastinum over."""
        pull = self.side * 0.8 * self.severity
        return replace(
            anatomy,
            shift=anatomy.shift + pull,
            dome_right=anatomy.dome_right - self.rise * (self.side == RIGHT),
            dome_left=anatomy.dome_left - self.rise * (self.side == LEFT),
        )

    def fill(self, canvas: Canvas, anatomy: Anatomy, thorax: Thorax) -> None:
        """Draw the plates, or the wedge of a collapsed lower lobe."""
        if self.lobar:
            x, top, base = self._wedge(anatomy)
            out = canvas.x * self.side
            fissure = 2.4 + (canvas.y - top) * ((x - 2.4) / (base - top))
            wedge = canvas.inside(fissure - out, 0.8) * canvas.inside(canvas.y - top, 2)
            wedge *= lateral(canvas, self.side)
            thorax.filling += wedge * (2.5 + 4 * self.severity)
            return
        for band in self.bands:
            x, y, half, radius, slope = self._plate(anatomy, band)
            axis = y + slope * (canvas.x - x)
            plate = canvas.tube(canvas.y - axis, radius)
            plate *= canvas.inside(half - np.abs(canvas.x - x), 1.2)
            thorax.filling += plate * (3.8 + 3.0 * self.severity)

    def _wedge(self, anatomy: Anatomy) -> tuple[float, float, float]:
        base = anatomy.costophrenic(self.side)
        return 6.0 + 3.5 * self.severity, anatomy.hilum_left + 0.5, base

    def _plate(
        self, anatomy: Anatomy, band: tuple[float, float, float]
    ) -> tuple[float, float, float, float, float]:
        above, out, slope = band
        y = anatomy.dome(self.side) - above
        medial = 3.6 if self.side == RIGHT else 5.4
        half = 2.2 + 1.6 * self.severity
        x = self.side * (medial + out * (anatomy.wall(y) - medial))
        return x, y, half, 0.4 + 0.25 * self.severity, slope

    def boxes(self, anatomy: Anatomy) -> list[Box]:
        """Return a box a plate, or the wedge's."""
        if self.lobar:
            x, top, base = self._wedge(anatomy)
            # The dome hides what lies below it.
            low = anatomy.dome(self.side) + 0.8
            outer = 2.4 + (low - top) * ((x - 2.4) / (base - top))
            return [sided(self.side, 2.0, top, outer, low)]
        found = []
        for band in self.bands:
            x, y, half, radius, slope = self._plate(anatomy, band)
            tall = radius + abs(slope) * half
            found.append((x - half, y - tall, x + half, y + tall))
        return found
