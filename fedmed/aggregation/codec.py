"""Updates as integers on a public grid, so that their sum is exact whoever adds them, and how.

An array's values are multiples of a step, a power of two that its public range and the number of
bits decide. A sum of integers is the same in any order and under any mask or cipher, which is why
all aggregations over integers end in the same weights to the bit.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedmed.core.errors import ConfigError, FedmedError

WORD = 32  # bits of the modulus: a vector takes as many bytes as one of single precision
PIECE = 1 << 15  # values that become integers at a time
TAIL = 10.0  # deviations of noise that the modulus holds: more has probability 2e-23
SMALLEST, GREATEST = 1e-200, 1e200  # limits of which a step, and a sum in steps, are exact doubles

Integers = NDArray[np.int32]
Values = Mapping[str, NDArray[np.floating]]


class OffGrid(FedmedError):
    """An update that its range does not hold; the text is what is told of it, without a name.

    Attributes:
        saturated: how many of its values lie beyond.
    """

    def __init__(self, saturated: int, name: str, largest: float, limit: float) -> None:
        super().__init__(
            f"{saturated:,} values of the update lie beyond the range of the integers, the first "
            f"in {name}: {largest:.3g}, of {limit:g}"
        )
        self.saturated = saturated


@dataclass(frozen=True)
class Block:
    """Where an array's values are in the vector, and what an integer of theirs is worth.

    Attributes:
        name: of the array.
        shape: of it.
        limit: the largest magnitude of a client's value, in the array's own unit.
        deviation: standard deviation of the noise that each client adds to each value, likewise.

    Raises:
        ConfigError: if the limit is no magnitude of which steps can be exact.
    """

    name: str
    shape: tuple[int, ...]
    limit: float
    deviation: float = 0.0

    def __post_init__(self) -> None:
        if not SMALLEST <= self.limit <= GREATEST:
            raise ConfigError(
                f"aggregation: the range of {self.name} takes {SMALLEST:g} to {GREATEST:g}, got "
                f"{self.limit:g} (aggregation.range, or a strategy's clip_norm)"
            )

    @property
    def size(self) -> int:
        """How many values it has."""
        return math.prod(self.shape)

    def step(self, bits: int) -> float:
        """Return what 1 is worth: a power of two, of which so many bits hold the limit.

        Where the limit is a power of two itself, they hold all but the last step of it.
        """
        mantissa, exponent = math.frexp(self.limit)
        return float(2.0 ** (exponent - (mantissa == 0.5) - (bits - 1)))


@dataclass(frozen=True)
class Codec:
    """The grid that all clients of a round share.

    Attributes:
        blocks: in the order in which they lie in the vector.
        bits: of one client's value, in two's complement.
        truncate: whether values are rounded towards zero, so that no norm grows, and not to the
            nearest.

    Raises:
        ConfigError: if there are fewer bits than 2, or more than a word has.
    """

    blocks: tuple[Block, ...]
    bits: int
    truncate: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= WORD:
            raise ConfigError(f"aggregation.bits: takes 2 to {WORD}, got {self.bits}")

    @property
    def size(self) -> int:
        """How many integers a vector has."""
        return sum(block.size for block in self.blocks)

    @property
    def largest(self) -> int:
        """The largest magnitude of a client's integer, before noise."""
        return int(2 ** (self.bits - 1) - 1)

    def width(self, clients: int) -> int:
        """Return how many bits a sum of so many clients takes, sign and noise included.

        Raises:
            ConfigError: if that is more than a word has.
        """
        noise = max((b.deviation / b.step(self.bits) for b in self.blocks), default=0.0)
        most = clients * self.largest + math.ceil(TAIL * noise * math.sqrt(clients))
        width = 1 + most.bit_length()
        if width > WORD:
            raise ConfigError(
                f"aggregation.bits: {self.bits} for each of {clients} clients and their noise come "
                f"to sums of {width} bits, of {WORD}; take fewer"
            )
        return width

    def encode(self, values: Values, weight: float = 1.0) -> Integers:
        """Return the integers of one client's values.

        To the nearest, a value of which the limit is a power of two may be no nearer to it than
        half a step. Towards zero, what lies beyond the limit by less than a step is put on it.

        Args:
            values: by the block's name, in its shape.
            weight: they are multiplied by it first.

        Raises:
            OffGrid: if a value is not finite, or lies beyond its range.
        """
        vector = np.empty(self.size, np.int32)
        saturated, worst = 0, ("", 0.0, 0.0)
        for block, place in self.places():
            beyond, largest = self._fill(vector[place], values[block.name], weight, block)
            if beyond and not saturated:
                worst = (block.name, largest, block.limit)
            saturated += beyond
        if saturated:
            raise OffGrid(saturated, *worst)
        return vector

    def _fill(
        self, into: Integers, values: NDArray[np.floating], weight: float, block: Block
    ) -> tuple[int, float]:
        """Write a block's integers; return how many values lie beyond its range, and the largest.

        Piece by piece, since pieces stay in the cache: a third of the time.
        """
        step = block.step(self.bits)
        limit, held = block.limit / step, float(self.largest)
        top, below = limit, held + 0.5  # which rounds to an even number: one more
        if self.truncate:
            top, below, held = math.inf, math.ceil(limit) + 1.0, min(held, math.floor(limit))
        flat, beyond, largest = values.reshape(-1), 0, 0.0
        scaled, sizes = np.empty((2, min(PIECE, flat.size)))
        for start in range(0, flat.size, PIECE):
            part = flat[start : start + PIECE]
            here, size = scaled[: part.size], sizes[: part.size]
            with np.errstate(over="ignore"):  # what is infinite then lies beyond
                np.multiply(part, weight / step, out=here, dtype=np.float64)  # a power of two
            there = float(np.abs(here, out=size).max())
            if not (there <= top and there < below):
                beyond += int(np.count_nonzero(~((size <= top) & (size < below))))
            largest = float(np.maximum(largest, there))
            if beyond:
                continue
            if self.truncate:
                np.clip(np.trunc(here, out=here), -held, held, out=here)
            else:
                np.rint(here, out=here)
            into[start : start + PIECE] = here
        return beyond, largest * step

    def decode(self, vector: Integers) -> dict[str, NDArray[np.float64]]:
        """Return what the integers of a sum are worth, in double precision.

        Of K values that were rounded to the nearest, the error of the sum is at most K/2 steps.
        """
        return {
            block.name: np.multiply(vector[place], block.step(self.bits), dtype=np.float64).reshape(
                block.shape
            )
            for block, place in self.places()
        }

    def places(self) -> Sequence[tuple[Block, slice]]:
        """Return each block with its place in the vector."""
        places, start = [], 0
        for block in self.blocks:
            places.append((block, slice(start, start + block.size)))
            start += block.size
        return places
