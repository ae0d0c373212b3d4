"""The pulmonary vessels: two trees that branch from the hila and taper towards the pleura."""

from dataclasses import dataclass

import numpy as np

from fedmed.data.phantom.anatomy import LEFT, RIGHT, Anatomy
from fedmed.data.phantom.draw import Canvas, Image

TRUNKS = 7
GENERATIONS = 4


@dataclass(frozen=True)
class Vessels:
    """Straight segments of vessels, in a lung's own units (one hilum at the origin).

    Attributes:
        side: −1 for the right lung, 1 for the left; N values, as all below.
        x: where a segment starts, outwards from the hilum.
        y: where it starts, downwards from the hilum.
        dx: how far it runs outwards.
        dy: how far it runs downwards.
        radius: cm.
    """

    side: Image
    x: Image
    y: Image
    dx: Image
    dy: Image
    radius: Image

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Vessels":
        """Grow both trees."""
        side = np.repeat(np.array([RIGHT, LEFT], np.float32), TRUNKS)
        # From straight up to straight down; the lower zones hold the larger vessels.
        angle = np.tile(np.linspace(-1.35, 1.45, TRUNKS, dtype=np.float32), 2)
        angle += 0.14 * rng.standard_normal(angle.size, dtype=np.float32)
        radius = 0.5 + 0.07 * angle
        x = np.full_like(angle, 0.3)
        y = 0.8 * np.sin(angle)
        grown: list[tuple[Image, ...]] = []
        for generation in range(GENERATIONS):
            length = (2.6 - 0.25 * generation) * rng.uniform(0.75, 1.25, angle.size)
            dx = (length * np.cos(angle)).astype(np.float32)
            dy = (length * np.sin(angle)).astype(np.float32)
            grown.append((side, x, y, dx, dy, radius))
            fork = 0.13 * rng.standard_normal((2, angle.size), dtype=np.float32)
            fork += np.array([[0.3], [-0.3]], np.float32)
            angle = (angle * 0.94 + fork).ravel()
            x, y, side = np.tile(x + dx, 2), np.tile(y + dy, 2), np.tile(side, 2)
            radius = np.tile(radius * 0.78, 2)
        return cls(*(np.concatenate(parts) for parts in zip(*grown, strict=True)))

    def thickness(self, canvas: Canvas, anatomy: Anatomy) -> Image:
        """Return the vessels' thickness (cm, H×W) in that chest."""
        steps = int(np.ceil(2.0 / canvas.pixel)) + 1
        count = int(np.ceil(0.9 / canvas.pixel))
        strands = (2 * np.arange(count, dtype=np.float32) + 1) / count - 1
        along = (np.arange(steps, dtype=np.float32) + 0.5)[:, None, None] / steps
        across = strands[None, :, None] * self.radius
        length = np.hypot(self.dx, self.dy)
        out = self.x + along * self.dx - across * self.dy / length
        down = self.y + along * self.dy + across * self.dx / length
        # Squeezed where the breath is shallow.
        squeeze = anatomy.dome_right / 20.5
        hilum = np.where(self.side < 0, anatomy.hilum_right, anatomy.hilum_left) * squeeze
        x = self.side * (2.9 + out * (anatomy.thorax / 14)) + anatomy.centre
        chord = np.sqrt(1 - np.square(strands))
        volume = np.square(self.radius) * length * (np.pi / steps)
        volume = volume * (chord / chord.sum())[:, None]
        return canvas.splat(
            x.ravel(), (hilum + down * squeeze).ravel(), np.broadcast_to(volume, x.shape).ravel()
        )
