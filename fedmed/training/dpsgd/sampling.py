"""Which units a step is made of, and their gradients, as many images at a time as fit."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from torch import Tensor

from fedmed.privacy.noise import Source
from fedmed.training.dpsgd.clipping import ClippedSum
from fedmed.training.dpsgd.grouping import Rows


@dataclass(frozen=True)
class Draw:
    """The images of one step.

    Attributes:
        which: positions of the images, a unit's together.
        unit: whose each image is.
    """

    which: Rows
    unit: Rows

    def chunks(self, most: int) -> Iterator[slice]:
        """Yield runs of whole units of at most ``most`` images, or one unit that has more."""
        starts = [*np.flatnonzero(np.diff(self.unit, prepend=-1)), len(self.unit)]
        begin = 0
        for start, stop in pairwise(starts):
            if stop - begin > most and start > begin:
                yield slice(begin, start)
                begin = start
        if len(self.unit):
            yield slice(begin, len(self.unit))


class Sampler:
    """Draws units, each with the same probability and on its own.

    Args:
        unit: of each image, coded from 0.
        rate: the probability.
        most: how many of a unit's images a step takes, None for all; drawn anew at each step.
        draws: where randomness comes from.
    """

    def __init__(self, unit: Rows, rate: float, most: int | None, draws: Source) -> None:
        order = np.argsort(unit, kind="stable")
        self._images = np.split(order, np.flatnonzero(np.diff(unit[order])) + 1)
        self._rate, self._most, self._draws = rate, most, draws

    def draw(self) -> Draw:
        """Return the images of the next step."""
        drawn = np.flatnonzero(self._draws.uniform(len(self._images)) < self._rate)
        images = [self._some(self._images[unit]) for unit in drawn]
        if not images:
            return Draw(np.empty(0, np.intp), np.empty(0, np.intp))
        return Draw(np.concatenate(images), np.repeat(drawn, [len(i) for i in images]))

    def _some(self, images: Rows) -> Rows:
        if self._most is None or len(images) <= self._most:
            return images
        return images[np.argsort(self._draws.uniform(len(images)))[: self._most]]


def add_draw(
    clipped: ClippedSum, draw: Draw, load: Callable[[Rows], tuple[Tensor, Tensor]], most: int
) -> list[Tensor]:
    """Add the clipped gradients of all units of a draw.

    Args:
        clipped: the sum.
        draw: of a sampler.
        load: gives images, n×…, and labels, n×…, at some positions.
        most: how many images are in memory at a time.

    Returns:
        The losses of the images, some at a time.
    """
    return [_add(clipped, draw, part, load, most) for part in draw.chunks(most)]


def _add(
    clipped: ClippedSum,
    draw: Draw,
    part: slice,
    load: Callable[[Rows], tuple[Tensor, Tensor]],
    most: int,
) -> Tensor:
    """Add a run of whole units to the sum, at most ``most`` images at a time."""
    which = draw.which[part]
    if len(which) <= most:
        return clipped.add_units(*load(which), draw.unit[part])
    return clipped.add_large_unit(load(which[i : i + most]) for i in range(0, len(which), most))
