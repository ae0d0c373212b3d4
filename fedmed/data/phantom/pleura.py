"""Findings of the pleural space: fluid and air."""

import numpy as np

from fedmed.data.phantom.anatomy import Anatomy, Box
from fedmed.data.phantom.draw import Canvas, Image
from fedmed.data.phantom.finding import Finding, Generator, draw_side, lateral, sided
from fedmed.data.phantom.thorax import Thorax


class Effusion(Finding):
    """Fluid that blunts a costophrenic angle and rises to a meniscus along the chest wall."""

    def __init__(self, severity: float, rng: Generator) -> None:
        super().__init__(severity, rng)
        first = draw_side(rng, 0.55)
        both = bool(rng.random() < 0.35)
        second = float(rng.uniform(0.3, 0.9))
        self.depths = {first: 2.0 + 8.5 * severity**1.5}
        if both:
            self.depths[-first] = 1.8 + 8.5 * (second * severity) ** 1.5
        self.climb = float(rng.uniform(1.6, 3.0))

    def fill(self, canvas: Canvas, anatomy: Anatomy, thorax: Thorax) -> None:
        """Fill the pleural space up to the meniscus."""
        cage = anatomy.rib_cage(canvas.y)
        for side, depth in self.depths.items():
            out = canvas.x * side
            surface = self._surface(anatomy, side, depth, out - cage)
            soft = 2.0 + 1.2 * anatomy.supine
            onside = lateral(canvas, side)
            wet = canvas.inside(canvas.y - surface, soft) * onside
            if anatomy.supine:
                # Behind the lung of a patient who lies, fluid layers: a veil, thicker downwards.
                veil = np.clip((canvas.y - surface + 9) / 12, 0, 1) * onside
                thorax.filling += veil * (0.25 * depth)
            thorax.filling += wet * thorax.cavity

    def _surface(self, anatomy: Anatomy, side: int, depth: float, beyond: Image) -> Image:
        """Return the height (cm) of the fluid's surface, ``beyond`` cm outside the chest wall."""
        climb = np.exp(np.minimum(beyond, 0) * np.float32(0.55)) * np.float32(self.climb)
        return np.float32(anatomy.costophrenic(side) - depth) - climb

    def boxes(self, anatomy: Anatomy) -> list[Box]:
        """Return a box a side, from the meniscus to the costophrenic angle."""
        found = []
        out = np.linspace(2.5, anatomy.thorax, 40, dtype=np.float32)
        for side, depth in self.depths.items():
            surface = self._surface(anatomy, side, depth, out - anatomy.thorax)
            column = Canvas(side * out, surface, 1.0)
            shown = np.flatnonzero(surface < anatomy.diaphragm(column))
            inner, top = float(out[shown[0]]), float(surface[shown].min())
            found.append(sided(side, inner, top, anatomy.thorax, anatomy.costophrenic(side)))
        return found


class Pneumothorax(Finding):
    """Air between lung and chest wall: a pleural line, and no vessels beyond it."""

    def __init__(self, severity: float, rng: Generator) -> None:
        super().__init__(severity, rng)
        self.side = draw_side(rng, 0.55)
        self.gap = 2.2 + 3.4 * severity
        self.apical = float(rng.uniform(0.8, 1.6))

    def fill(self, canvas: Canvas, anatomy: Anatomy, thorax: Thorax) -> None:
        """Clear the pleural space of lung and draw the pleural line."""
        inward = self._inward(canvas, anatomy)
        onside = lateral(canvas, self.side)
        free = canvas.inside(-inward, 0.4) * onside
        thorax.free_air = free
        thorax.vessels *= 1 - free
        line = canvas.tube(inward, 0.22) * onside
        # The lung that is left holds less air.
        thorax.filling += 2.0 * line + (1 - free) * onside * (1.4 + 2.0 * self.severity)

    def _inward(self, canvas: Canvas, anatomy: Anatomy) -> Image:
        """Return the distance (cm, H×W) from the pleural line, positive in the lung."""
        return anatomy.rib_cage(canvas.y) - canvas.x * self.side - self._gap(canvas.y, anatomy)

    def _gap(self, y: Image, anatomy: Anatomy) -> Image:
        """Return the width (cm) of the free air at heights ``y``: widest at the apex."""
        high = np.clip(1 - y / (0.95 * anatomy.dome(self.side)), 0, 1)
        gap: Image = self.gap * (0.45 * np.minimum(4 * high, 1) + self.apical * high)
        return gap

    def boxes(self, anatomy: Anatomy) -> list[Box]:
        """Return the box of the free air."""
        y = np.linspace(-0.9, 0.95 * anatomy.dome(self.side), 24, dtype=np.float32)
        inner = float((anatomy.rib_cage(y) - self._gap(y, anatomy)).min())
        return [sided(self.side, max(inner, 2.8), -0.9, anatomy.thorax, float(y[-1]))]
