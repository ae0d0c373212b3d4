"""One patient's chest, in centimetres: what stays from image to image, and what a view changes."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from fedmed.data.phantom.draw import Canvas, Image

RIGHT, LEFT = -1, 1
#: left, top, right, bottom in cm.
Box = tuple[float, float, float, float]
#: Centre x and y, half-axes along x and y, in cm.
Ellipse = tuple[float, float, float, float]


def along(y: Image, *knots: tuple[float, float]) -> Image:
    """Return a border's distance (cm) at heights ``y``, through ``(y, distance)`` knots."""
    heights, distances = zip(*knots, strict=True)
    border: Image = np.interp(y, heights, distances).astype(np.float32)
    return border


@dataclass(frozen=True)
class Anatomy:
    """A chest's measures; lengths in cm, ``girth`` and ``bone`` relative to an average adult.

    The numbers are those of an average adult's posteroanterior film: a thorax 28 cm wide inside
    the ribs, a cardiothoracic ratio of 0.45, the right hemidiaphragm 1.5 cm above the left.
    """

    female: bool
    age: float
    thorax: float  # half the inner width of the rib cage
    depth: float  # of the lungs, front to back
    girth: float
    bone: float
    dome_right: float  # heights of the hemidiaphragms
    dome_left: float
    ctr: float  # cardiothoracic ratio
    heart_tilt: float
    aorta: float  # radius of the aortic knob
    calcified: float
    rib_spacing: float
    rib_phase: float
    rib_arch: float
    clavicle: float  # height of the clavicles
    clavicle_slope: float
    scoliosis: float
    breast: float  # radius
    hilum_right: float  # heights of the hila
    hilum_left: float
    bubble: float  # radius of the gastric bubble
    scapula: float  # how far the scapulae stand outside the rib cage
    yaw: float = 0.0  # how far rotation moves what lies in front, to the patient's left
    shift: float = 0.0  # how far volume loss pulls the mediastinum, to the patient's left
    supine: bool = False

    @classmethod
    def draw(cls, rng: np.random.Generator, female: bool, age: float) -> Self:
        """Draw the chest of a patient of that sex and age (years)."""
        spread = rng.standard_normal(16).tolist()
        old = (age - 50) / 30
        girth = float(np.clip(1 + 0.14 * spread[0] + 0.03 * old, 0.72, 1.5))
        thorax = (12.7 if female else 14.0) + 0.6 * spread[1] + 0.8 * (girth - 1)
        dome = (19.8 if female else 21.6) + 1.1 * spread[2] - 0.5 * max(old, 0)
        hilum = 0.53 * dome + 0.4 * spread[3]
        return cls(
            female=female,
            age=age,
            thorax=thorax,
            depth=14.2 * (thorax / 14) + 0.7 * spread[4] + 0.6 * max(old, 0),
            girth=girth,
            bone=float(np.clip(1 + 0.1 * spread[5] - 0.16 * old - 0.1 * female, 0.5, 1.4)),
            dome_right=dome,
            dome_left=dome + 1.5 + 0.5 * spread[6],
            ctr=float(np.clip(0.44 + 0.012 * female + 0.018 * old + 0.022 * spread[7], 0.37, 0.5)),
            heart_tilt=float(np.clip(0.66 - 0.3 * (girth - 1) + 0.08 * spread[8], 0.4, 0.9)),
            aorta=1.25 + 0.3 * max(old, -0.5) + 0.12 * spread[9],
            calcified=float(np.clip(0.9 * old + 0.5 * spread[10] - 0.5, 0, 1)),
            rib_spacing=0.104 * dome + 0.07 * spread[11],
            rib_phase=float(rng.uniform(0, 1)),
            rib_arch=1 + 0.14 * spread[12],
            clavicle=2.6 + 0.5 * spread[13],
            clavicle_slope=0.2 + 0.05 * spread[14],
            scoliosis=0.3 * spread[15],
            breast=female * float(np.clip(rng.normal(5.2, 0.8) * girth**0.8, 3.2, 8.0)),
            hilum_right=hilum,
            hilum_left=hilum - 0.9,
            bubble=0.0,
            scapula=0.6,
        )

    def imaged(self, rng: np.random.Generator, supine: bool) -> Self:
        """Return the chest as one film shows it: this breath, this posture, this rotation.

        An anteroposterior (bedside) film magnifies the heart, catches a shallower breath and
        leaves the scapulae over the lungs.
        """
        breath = float(rng.normal(-2.2, 1.1) if supine else rng.normal(0, 0.7))
        yaw = float(rng.normal(0, 0.6 if supine else 0.3))
        return replace(
            self,
            supine=supine,
            dome_right=self.dome_right + breath,
            dome_left=self.dome_left + breath + float(rng.normal(0, 0.2)),
            ctr=self.ctr * (1.1 if supine else 1.0) - 0.006 * breath,
            rib_arch=self.rib_arch * (0.8 if supine else 1.0),
            clavicle=self.clavicle + float(rng.normal(-1.8 if supine else 0, 0.5)),
            scapula=float(rng.normal(-2.6, 0.7) if supine else rng.normal(0.7, 0.6)),
            bubble=max(0.0, float(rng.normal(1.2, 1.0))) * (0.6 if supine else 1.0),
            yaw=yaw,
        )

    def rib_cage(self, y: Image) -> Image:
        """Return half the inner width of the rib cage (cm) at heights ``y``, H×1."""
        widest = 0.8 * self.dome_right
        up = np.clip((widest - y) / (widest + 1), 0, 1)
        down = np.maximum(y - widest, 0)
        width = self.thorax * (1 - up**2.4) ** 0.42 - 0.006 * np.square(down)
        return np.asarray(width, dtype=np.float32)

    def diaphragm(self, canvas: Canvas) -> Image:
        """Return the height (cm, H×W) of the hemidiaphragms at every x."""
        x, size = canvas.x, self.thorax / 14
        right = self.dome_right + np.square(x + 6.2 * size) * (0.078 / size)
        left = self.dome_left + np.square(x - 6.6 * size) * (0.078 / size)
        height: Image = np.where(x < self.shift, right, left)
        return height

    def dome(self, side: int) -> float:
        """Return the height of a hemidiaphragm's dome, cm."""
        return self.dome_right if side == RIGHT else self.dome_left

    def costophrenic(self, side: int) -> float:
        """Return the height of a costophrenic angle, cm."""
        return self.dome(side) + 0.3 * self.thorax

    def wall(self, y: float) -> float:
        """Return the distance of the lateral chest wall from the midline at height ``y``, cm."""
        return float(self.rib_cage(np.array([y], np.float32))[0])

    @property
    def centre(self) -> float:
        """How far rotation and volume loss move the mediastinum to the patient's left, cm."""
        return self.shift + 0.5 * self.yaw

    @property
    def knob(self) -> tuple[float, float, float]:
        """The aortic knob: x, y and radius, cm."""
        return 1.3 + 0.75 * self.aorta + self.centre, self.hilum_left - 2.2, self.aorta

    @property
    def heart(self) -> tuple[float, float, float, float, float]:
        """The heart's ellipse: centre x and y, long and short half-axis (cm), tilt (radians)."""
        half = self.ctr * self.thorax
        ratio = 0.76 * (0.44 / self.ctr) ** 0.4
        cos, sin = float(np.cos(self.heart_tilt)), float(np.sin(self.heart_tilt))
        long = half / float(np.hypot(cos, ratio * sin))
        rise = long * float(np.hypot(sin, ratio * cos))
        x = 0.33 * half + self.yaw + self.shift
        return x, self.dome_left + 0.9 - 0.82 * rise, long, ratio * long, self.heart_tilt

    @property
    def heart_box(self) -> Box:
        """The heart's bounding box."""
        x, y, long, short, tilt = self.heart
        cos, sin = float(np.cos(tilt)), float(np.sin(tilt))
        half, rise = (
            float(np.hypot(long * cos, short * sin)),
            float(np.hypot(long * sin, short * cos)),
        )
        return x - half, y - rise, x + half, y + rise

    def place(self, side: int, height: float, out: float) -> tuple[float, float]:
        """Return a point (cm) in a lung.

        Args:
            side: RIGHT or LEFT.
            height: 0 at the apex, 1 at the dome.
            out: 0 at the mediastinum, 1 at the lateral chest wall.
        """
        y = 0.8 + height * (self.dome(side) - 1.5)
        medial = 3.4 + (2.2 * height**2 if side == LEFT else 0.6 * height**2)
        return side * (medial + out * (self.wall(y) - medial)), y
