"""Units of privacy in a batch, and what they add to the gradient of one parameter."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Rows = NDArray[np.intp]

#: Numbers of a row that are squared and summed in its own precision.
BLOCK = 4096

#: A sum of n numbers is off by this times √n roundings at most, with near certainty.
LIKELY = 4.0


def squared_norms(rows: Tensor) -> Tensor:
    """Return the squared L2 norm of each row, u×p → u, float64.

    Block by block: a sum of millions of squares in single precision stops growing.
    """
    whole = rows.shape[1] // BLOCK * BLOCK
    total: Tensor = torch.linalg.vector_norm(rows[:, whole:], dim=1).double().square()
    if whole:
        blocks = rows[:, :whole].unfold(1, BLOCK, BLOCK)
        total += torch.linalg.vector_norm(blocks, dim=2).double().square().sum(dim=1)
    return total


class Run(NamedTuple):
    """Units of equally many images, which stand together.

    Attributes:
        units: which they are.
        images: theirs.
    """

    units: slice
    images: slice

    @property
    def number(self) -> int:
        """The number of units."""
        return int(self.units.stop - self.units.start)


class Units:
    """Which images belong together, in an order in which units of equally many are neighbours.

    So whatever is found for units of one size at once is found from a view.

    Attributes:
        order: of the images: a unit's in a row, small units first.
        number: of units.
        of_image: the unit of each image in that order, counted from 0.
        runs: of units of one size.
        mean_square: of the units' numbers of images.

    Args:
        unit: whose each of the n images is, in any coding.
        device: of the images.
    """

    def __init__(self, unit: Rows, device: torch.device) -> None:
        _, code, sizes = np.unique(unit, return_inverse=True, return_counts=True)
        self.order = torch.from_numpy(np.lexsort((code, sizes[code]))).to(device)
        sizes.sort()
        self.number = len(sizes)
        self.of_image = torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes)).to(device)
        self.mean_square = float(np.square(sizes).mean())
        self.runs = []
        first = image = 0
        for size, number in zip(*np.unique(sizes, return_counts=True), strict=True):
            units, images = slice(first, first + number), slice(image, image + size * number)
            self.runs.append(Run(units, images))
            first, image = units.stop, images.stop

    def sum(self, each: Tensor) -> Tensor:
        """Sum n×d over the images of each unit."""
        if self.number == len(each):
            return each
        total: Tensor = each.new_zeros(self.number, each.shape[1])
        total.index_add_(0, self.of_image, each)
        return total


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
        return squared_norms(self.rows)

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

    What is added is a sum over positions that nobody has seen, in the precision of the weights.
    Where terms of opposite signs nearly cancel, its rounding may be larger than it, and than the
    clipping norm: a norm is therefore the largest that the sum may have with its rounding. Of n
    terms that is √n roundings of the terms together, Σₜ ‖aₜ‖·‖gₜ‖, up to a constant and with near
    certainty (Higham and Mary 2019, theorem 2.4). The norm's own is found in double precision.

    Attributes:
        products: of the inputs at any two positions, and of the gradients, of a run of units:
            u·m images → u×mT×mT each.
        add: adds the gradients of images, each times a number, to the sum.
        held: the precision in which it adds them.
    """

    products: Callable[[Run], tuple[Tensor, Tensor]]
    add: Callable[[Tensor, Tensor], object]
    held: torch.dtype

    def squared_norms(self, units: Units) -> Tensor:
        """Return the squared L2 norm of each unit's gradient, float64, rounded up."""
        norms, terms, added = [], [], 0
        for run in units.runs:
            a, g = self.products(run)
            norms.append(torch.linalg.vecdot(a.flatten(1), g.flatten(1)))
            at_each = [t.diagonal(dim1=1, dim2=2).sqrt() for t in (a, g)]
            terms.append(torch.linalg.vecdot(*at_each))
            added += run.number * a.shape[1]
        together = torch.cat(terms)
        of_product = 64 * torch.finfo(torch.float64).eps
        norm = (torch.cat(norms).clamp(min=0) + of_product * together.square()).sqrt()
        of_sum = LIKELY * added**0.5 * torch.finfo(self.held).eps / 2
        largest: Tensor = norm + of_sum * together
        return largest.square()

    def add_to(self, total: Tensor, scale: Tensor, units: Units) -> None:
        """Add the units' gradients, each times its ``scale``."""
        self.add(total, scale[units.of_image])
