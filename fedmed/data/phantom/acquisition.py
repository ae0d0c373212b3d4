"""From centimetres of water to grey levels: what a detector and its hospital make of the rays.

Water attenuates 0.21 per cm at 60 keV and 0.17 at 100 keV (NIST XCOM), about the mean energies of
chest beams of 100 to 140 kVp. Without a grid, half of what reaches the film or more is scatter.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedmed.data.phantom.draw import Canvas, Image, blur, stretch

#: Letters of lead markers, 5×7.
GLYPHS = {
    "L": "10000 10000 10000 10000 10000 10000 11111",
    "R": "11110 10001 10001 11110 10100 10010 10001",
    "A": "01110 10001 10001 11111 10001 10001 10001",
    "K": "10001 10010 10100 11000 10100 10010 10001",
    "M": "10001 11011 10101 10101 10001 10001 10001",
    "T": "11111 00100 00100 00100 00100 00100 00100",
}


@dataclass(frozen=True)
class Detector:
    """How a hospital takes and shows its films.

    Attributes:
        field: the side of the film, cm.
        attenuation: of water, per cm: lower for a harder beam, and so for less contrast.
        scatter: the share of the signal that is scattered.
        blur: standard deviation of the detector's blur, cm.
        noise: standard deviation of the quantum noise behind 18 cm of water, in log exposure, of a
            pixel of 1 cm².
        low: the percentile of the film shown black.
        high: the percentile shown white.
        gamma: of the display curve; above 1 darkens.
        equalise: how far broad shades are evened out, so that lung and mediastinum both show.
        sharpen: how far fine detail is enhanced.
        collimation: mean width of the shutter's border, as a share of the film.
        border: the grey level of what the shutter hides, 0 to 1.
        marker: the letters of the lead marker; the first one names the side.
        marker_at: the marker's height, as a share of the film.
        marker_size: the height of its letters, cm.
    """

    field: float
    attenuation: float
    scatter: float
    blur: float
    noise: float
    low: float
    high: float
    gamma: float
    equalise: float
    sharpen: float
    collimation: float
    border: float
    marker: str
    marker_at: float
    marker_size: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Detector":
        """Draw a hospital's equipment and habits."""
        return cls(
            field=float(rng.uniform(31.5, 36)),
            attenuation=float(rng.uniform(0.165, 0.215)),
            scatter=float(rng.uniform(0.25, 0.5)),
            blur=float(rng.uniform(0.05, 0.3)),
            noise=float(rng.uniform(0.0008, 0.003)),
            low=float(rng.uniform(3, 8)),
            high=float(rng.uniform(90, 98.5)),
            gamma=float(rng.uniform(0.6, 1.05)),
            equalise=float(rng.uniform(0.35, 0.6)),
            sharpen=float(rng.choice([0.0, 0.0, 0.5, 1.0])),
            collimation=float(rng.choice([0.0, 0.0, 0.012, 0.025])),
            border=float(rng.choice([0.0, 0.0, 0.97])),
            marker=str(rng.choice(["L", "R"])) + str(rng.choice(["", "", "A", "K", "M", "T"])),
            marker_at=float(rng.uniform(0.05, 0.2)),
            marker_size=float(rng.uniform(1.0, 1.7)),
        )

    def expose(
        self, water: Image, canvas: Canvas, rng: np.random.Generator, supine: bool
    ) -> NDArray[np.uint8]:
        """Return the film of ``water`` (cm, H×W), H×W; bedside films are taken without a grid."""
        signal = np.exp(water * np.float32(-self.attenuation))
        scatter = min(self.scatter * (1.35 if supine else 1.0), 0.75)
        signal = blur(signal, self.blur / canvas.pixel)
        signal = signal * (1 - scatter) + _spread(signal, canvas) * scatter
        grain = rng.standard_normal(signal.shape, dtype=np.float32)
        dim = np.exp(-18 * self.attenuation)
        exposure = float(np.exp(rng.normal(0, 0.25)))
        spread = self.noise / canvas.pixel * np.sqrt(dim / exposure)
        film = -np.log(signal) + grain * (spread / np.sqrt(signal))
        film -= _spread(film, canvas) * self.equalise
        if self.sharpen:
            film += (film - blur(film, 0.35 / canvas.pixel)) * self.sharpen
        return self._show(film, canvas, rng)

    def _show(self, film: Image, canvas: Canvas, rng: np.random.Generator) -> NDArray[np.uint8]:
        size = film.shape[0]
        step = max(size // 21, 1)
        inner = slice(size // 8, size - size // 8, step)
        ranked = np.sort(film[inner, inner], axis=None)
        low, high = (float(ranked[int(q / 100 * (ranked.size - 1))]) for q in (self.low, self.high))
        low += float(rng.normal(0, 0.05)) * (high - low)
        high += float(rng.normal(0, 0.05)) * (high - low)
        # The toe and shoulder of a film keep what lies outside the window from clipping at once.
        shown = (film - low) * np.float32(1 / (high - low))
        shown = 0.2 + 0.73 * shown
        shown = np.clip(shown, 0, 1) ** np.float32(self.gamma)
        self._mark(shown, canvas, rng)
        self._shutter(shown, rng)
        grey: NDArray[np.uint8] = (shown * np.float32(255) + np.float32(0.5)).astype(np.uint8)
        return grey

    def _mark(self, shown: Image, canvas: Canvas, rng: np.random.Generator) -> None:
        down, across = _ink(self.marker)
        dot = self.marker_size / 21
        out = self.field * float(rng.uniform(0.36, 0.42)) * (1 if self.marker[0] == "L" else -1)
        top = (self.marker_at + float(rng.uniform(0, 0.05))) * self.field
        column = float(canvas.x[0, 0]) + self.field / 2 + out
        ink = canvas.splat(
            (column + (across - 0.5 * across.max()) * dot).astype(np.float32),
            (float(canvas.y[0, 0]) + top + down * dot).astype(np.float32),
            np.full(down.size, dot * dot, np.float32),
        )
        np.minimum(ink, 1, out=ink)
        shown += (0.97 - shown) * ink

    def _shutter(self, shown: Image, rng: np.random.Generator) -> None:
        if not self.collimation:
            return
        size = shown.shape[0]
        widths = np.abs(rng.normal(self.collimation, 0.6 * self.collimation, 4))
        top, right, bottom, left = np.rint(np.minimum(widths, 0.1) * size).astype(int).tolist()
        shown[:top] = shown[size - bottom :] = self.border
        shown[:, :left] = shown[:, size - right :] = self.border


@lru_cache(maxsize=64)
def _ink(marker: str) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows and columns of the marker's lead, in thirds of a letter's dots."""
    text = np.zeros((7, 6 * len(marker)), bool)
    for place, name in enumerate(marker):
        dots = [[dot == "1" for dot in row] for row in GLYPHS[name].split()]
        text[:, 6 * place : 6 * place + 5] = dots
    down, across = np.nonzero(text.repeat(3, axis=0).repeat(3, axis=1))
    return down, across


def _spread(signal: Image, canvas: Canvas) -> Image:
    """Return the scattered signal: the same, blurred over several centimetres."""
    size = signal.shape[0]
    coarse = min(10, size)
    starts = np.arange(coarse) * size // coarse
    cells = np.add.reduceat(np.add.reduceat(signal, starts, axis=0), starts, axis=1)
    counts = np.diff(starts, append=size).astype(np.float32)
    return stretch(blur(cells / np.outer(counts, counts), 0.9), size)
