"""Units of privacy in a batch, and what they add to the gradient of one parameter."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Rows = NDArray[np.intp]


class Units:
    """Which images belong together.

    Attributes:
        number: of units.
        of_image: the unit of each image, counted from 0.
        alike: whether all have equally many images.
        mean_square: of the units' numbers of images.

    Args:
        unit: whose each of the n images is, a unit's in a row.
        device: of the images.
    """

    def __init__(self, unit: Rows, device: torch.device) -> None:
        starts = np.flatnonzero(np.diff(unit, prepend=unit[0] - 1))
        sizes = np.diff(starts, append=len(unit))
        self.number = len(starts)
        self.alike = bool((sizes == sizes[0]).all())
        self.mean_square = float(np.square(sizes).mean())
        self.of_image = torch.from_numpy(np.repeat(np.arange(len(starts)), sizes)).to(device)
        self._like = {
            int(size): torch.from_numpy(np.flatnonzero(sizes == size)).to(device)
            for size in np.unique(sizes)
        }
        self._starts = torch.from_numpy(starts).to(device)
        self._bounds = [*starts.tolist(), len(unit)]

    def sum(self, each: Tensor) -> Tensor:
        """Sum n×d over the images of each unit."""
        if self.number == len(each):
            return each
        total: Tensor = each.new_zeros(self.number, each.shape[1])
        total.index_add_(0, self.of_image, each)
        return total

    def together(self, of_alike: Callable[[Tensor | slice, int], Tensor]) -> Tensor:
        """Return units×…, found for units together that have equally many images.

        Args:
            of_alike: from the u·m images of u units, and u, to u×….
        """
        if self.alike:  # a view of all costs less than a copy
            return of_alike(slice(None), self.number)
        found = torch.empty(0)
        for size, which in self._like.items():
            index = self._starts[which, None] + torch.arange(size, device=which.device)
            some = of_alike(index.flatten(), len(which))
            found = found if len(found) else some.new_empty(self.number, *some.shape[1:])
            found.index_copy_(0, which, some)
        return found

    def each(self) -> Iterator[slice]:
        """Yield the images of each unit."""
        yield from itertools.starmap(slice, itertools.pairwise(self._bounds))


class Part(Protocol):
    """What units add to the gradient of one parameter."""

    def squared_norms(self, units: Units) -> Tensor:
        """Return the squared L2 norm of each unit's gradient, float64."""

    def add_to(self, total: Tensor, scale: Tensor, units: Units) -> None:
        """Add the units' gradients, each times its ``scale``, to ``total``, of the shape of p."""


@dataclass(frozen=True)
class Written:
    """The gradients of units, written out: ``rows``, units×p."""

    rows: Tensor

    def squared_norms(self, units: Units) -> Tensor:
        """Return the squared L2 norm of each unit's gradient, float64."""
        norms: Tensor = torch.linalg.vector_norm(self.rows, dim=1)
        return norms.double().square()

    def add_to(self, total: Tensor, scale: Tensor, units: Units) -> None:
        """Add the units' gradients, each times its ``scale``."""
        total.add_((scale @ self.rows).view(total.shape))


@dataclass(frozen=True)
class Pixels:
    """The gradients of units for a kernel, its pixels apart, row by row."""

    each: list[Written]

    def squared_norms(self, units: Units) -> Tensor:
        """Return the squared L2 norm of each unit's gradient, float64."""
        return torch.stack([pixel.squared_norms(units) for pixel in self.each]).sum(dim=0)

    def add_to(self, total: Tensor, scale: Tensor, units: Units) -> None:
        """Add the units' gradients, each times its ``scale``."""
        for pixel, part in zip(total.flatten(2).unbind(2), self.each, strict=True):
            part.add_to(pixel, scale, units)


@dataclass(frozen=True)
class Ghost:
    """The gradients of units, never written out.

    In double precision: products of opposite signs may nearly cancel, and a norm that comes out
    too small would let a unit through unclipped.

    Attributes:
        products: of the inputs at any two positions, and of the gradients, of given images:
            u·m images → u×mT×mT each.
        add: adds the gradients of images, each times a number, to the sum.
    """

    products: Callable[[Tensor | slice, int], tuple[Tensor, Tensor]]
    add: Callable[[Tensor, Tensor], object]

    def squared_norms(self, units: Units) -> Tensor:
        """Return the squared L2 norm of each unit's gradient, float64."""

        def norms(images: Tensor | slice, number: int) -> Tensor:
            a, g = self.products(images, number)
            found: Tensor = torch.linalg.vecdot(a.flatten(1), g.flatten(1)).clamp(min=0)
            return found

        return units.together(norms)

    def add_to(self, total: Tensor, scale: Tensor, units: Units) -> None:
        """Add the units' gradients, each times its ``scale``."""
        self.add(total, scale[units.of_image])
