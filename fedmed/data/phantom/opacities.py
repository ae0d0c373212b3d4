"""Findings that are opacities of the lung."""

import numpy as np

from fedmed.data.phantom.anatomy import LEFT, RIGHT, Anatomy, Box, Ellipse
from fedmed.data.phantom.draw import Canvas
from fedmed.data.phantom.finding import Finding, Generator, draw_side, draw_spot
from fedmed.data.phantom.thorax import Thorax


class Consolidation(Finding):
    """Air spaces filled in part of a lobe: an ill-defined, patchy opacity."""

    def __init__(self, severity: float, rng: Generator) -> None:
        super().__init__(severity, rng)
        side = draw_side(rng, 0.55)
        self.patches = [
            (side, *draw_spot(rng, (0.25, 0.95), (0.15, 0.7)), float(rng.uniform(0.8, 1.2)))
        ]
        if rng.random() < 0.3:
            other = side if rng.random() < 0.4 else -side
            self.patches.append((other, *draw_spot(rng, (0.4, 0.95), (0.2, 0.7)), 0.75))
        self.flat = float(rng.uniform(0.75, 1.05))

    def fill(self, canvas: Canvas, anatomy: Anatomy, thorax: Thorax) -> None:
        """Fill the air spaces of each patch."""
        ragged = self.lumps(11, canvas) * 0.3
        for patch in self.patches:
            x, y, a, b = self._extent(anatomy, patch)
            body = canvas.blob(x, y, 0.6 * a, 0.6 * b)
            opaque = np.clip((body * (1 + ragged) - 0.22) * 1.9, 0, 1)
            thorax.filling += opaque * (4.2 + 4.0 * self.severity)

    def _extent(self, anatomy: Anatomy, patch: tuple[int, float, float, float]) -> Ellipse:
        side, height, out, size = patch
        x, y = anatomy.place(side, height, out)
        radius = (3.0 + 2.2 * self.severity) * size
        return x, y, radius, radius * self.flat

    def boxes(self, anatomy: Anatomy) -> list[Box]:
        """Return a box a patch."""
        found = []
        for patch in self.patches:
            x, y, a, b = self._extent(anatomy, patch)
            found.append((x - a, y - b, x + a, y + b))
        return found


class Edema(Finding):
    """Hydrostatic oedema: haze around both hila, thickened vessels, septal (Kerley B) lines."""

    def __init__(self, severity: float, rng: Generator) -> None:
        super().__init__(severity, rng)
        self.reach = float(rng.uniform(0.85, 1.15))
        self.balance = float(rng.normal(0, 0.12))

    def fill(self, canvas: Canvas, anatomy: Anatomy, thorax: Thorax) -> None:
        """Draw the haze, the mottling and the septal lines."""
        thorax.vessels *= 1.1 + 0.3 * self.severity
        haze = np.zeros_like(canvas.x)
        for side in (RIGHT, LEFT):
            x, y, a, b = self._wing(anatomy, side)
            haze += canvas.blob(x, y, a, b) * (1 + side * self.balance)
        mottle = np.maximum(1 + 0.45 * self.lumps(14, canvas), 0.2)
        thorax.filling += haze * mottle * (1.8 + 3.2 * self.severity)
        lateral = np.clip(np.abs(canvas.x) - 0.72 * anatomy.thorax, 0, 1)
        septa = np.maximum(np.sin(canvas.y * np.float32(2 * np.pi / 1.1)), 0)
        basal = np.clip((canvas.y - 0.6 * anatomy.dome_right) * 0.4, 0, 1)
        thorax.filling += lateral * (septa * basal) * (0.5 + 0.5 * self.severity)

    def _wing(self, anatomy: Anatomy, side: int) -> Ellipse:
        hilum = anatomy.hilum_right if side == RIGHT else anatomy.hilum_left
        y = hilum + 1.6
        return side * 5.4 + anatomy.shift, y, 2.7 * self.reach, 4.2 * self.reach

    def boxes(self, anatomy: Anatomy) -> list[Box]:
        """Return a box a lung."""
        found = []
        for side in (RIGHT, LEFT):
            x, y, a, b = self._wing(anatomy, side)
            found.append((x - 1.6 * a, y - 1.6 * b, x + 1.6 * a, y + 1.6 * b))
        return found


class Mass(Finding):
    """A dense, lobulated opacity wider than 3 cm."""

    def __init__(self, severity: float, rng: Generator) -> None:
        super().__init__(severity, rng)
        self.side = draw_side(rng, 0.55)
        self.spot = draw_spot(rng, (0.1, 0.9), (0.1, 0.75))
        self.radius = 1.8 + 1.8 * severity
        angle, self.flat = float(rng.uniform(0, 2 * np.pi)), float(rng.uniform(0.85, 1.15))
        self.lobe = (0.45 * float(np.cos(angle)), 0.45 * float(np.sin(angle)), 0.75)

    def fill(self, canvas: Canvas, anatomy: Anatomy, thorax: Thorax) -> None:
        """Draw the lobes."""
        parts = [canvas.ellipsoid(*part) for part in self._parts(anatomy)]
        thorax.filling += np.sqrt(np.maximum(parts[0], parts[1])) * (2.8 * self.radius)

    def _parts(self, anatomy: Anatomy) -> list[Ellipse]:
        x, y = anatomy.place(self.side, *self.spot)
        across, down, share = self.lobe
        r, flat = self.radius, self.flat
        return [
            (x, y, r, r * flat),
            (x + 1.3 * across * r, y + 1.3 * down * r, share * r, share * r),
        ]

    def boxes(self, anatomy: Anatomy) -> list[Box]:
        """Return the box around the lobes."""
        edges = np.array([(x - a, y - b, x + a, y + b) for x, y, a, b in self._parts(anatomy)])
        low, high = edges[:, :2].min(0).tolist(), edges[:, 2:].max(0).tolist()
        return [(low[0], low[1], high[0], high[1])]


class Nodule(Finding):
    """One to four round opacities narrower than 3 cm."""

    def __init__(self, severity: float, rng: Generator) -> None:
        super().__init__(severity, rng)
        count = 1 + int((rng.random(3) < 0.15 + 0.4 * severity).sum())
        self.nodules = [
            (
                draw_side(rng, 0.55),
                *draw_spot(rng, (0.05, 0.95), (0.1, 0.88)),
                float(rng.uniform(0.8, 1.0)),
            )
            for _ in range(count)
        ]

    def fill(self, canvas: Canvas, anatomy: Anatomy, thorax: Thorax) -> None:
        """Draw each nodule."""
        for x, y, radius, _ in self._balls(anatomy):
            thorax.filling += np.sqrt(canvas.ellipsoid(x, y, radius, radius)) * (5.4 * radius)

    def _balls(self, anatomy: Anatomy) -> list[Ellipse]:
        found = []
        for side, height, out, share in self.nodules:
            x, y = anatomy.place(side, height, out)
            radius = (1.2 + 0.3 * self.severity) * share
            found.append((x, y, radius, radius))
        return found

    def boxes(self, anatomy: Anatomy) -> list[Box]:
        """Return a box a nodule."""
        return [(x - a, y - b, x + a, y + b) for x, y, a, b in self._balls(anatomy)]
