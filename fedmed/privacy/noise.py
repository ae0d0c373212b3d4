"""Where the randomness of private training comes from: the run's seed, or the operating system.

Both draw in floating point. That alone can betray the value under the noise (Mironov 2012), so the
operating system's source sums four draws, after which the attack costs more than it gains
(Holohan and Braghin 2021; Opacus's secure mode does the same).
"""

import os
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmed.seeding import generator, seed_of

_DRAWS = 4


class Source(Protocol):
    """A source of independent draws."""

    def uniform(self, n: int) -> NDArray[np.float64]:
        """Return ``n`` draws from [0, 1)."""

    def normal(self, n: int) -> Tensor:
        """Return ``n`` draws of mean 0 and standard deviation 1, float32."""


class Seeded:
    """Repeats: whoever knows the seed can draw the same noise and subtract it.

    Args:
        seed: of the stream.
        device: where the noise is drawn.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._uniform = generator(seed, "sampling")
        self._normal = torch.Generator(device).manual_seed(seed_of(seed, "noise"))

    def uniform(self, n: int) -> NDArray[np.float64]:
        """Return ``n`` draws from [0, 1)."""
        return self._uniform.random(n)

    def normal(self, n: int) -> Tensor:
        """Return ``n`` draws of mean 0 and standard deviation 1, float32."""
        return torch.randn(n, generator=self._normal, device=self._normal.device)


class OperatingSystem:
    """Does not repeat: every draw is made from bytes of the system's cryptographic generator.

    Args:
        device: where the noise goes.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def uniform(self, n: int) -> NDArray[np.float64]:
        """Return ``n`` draws from [0, 1), of 53 bits each."""
        bits = np.frombuffer(os.urandom(8 * n), dtype=np.uint64)
        return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def normal(self, n: int) -> Tensor:
        """Return ``n`` draws of mean 0 and standard deviation 1, float32 (Box and Muller 1958)."""
        pairs = (n + 1) // 2
        total = np.zeros(2 * pairs)
        for _ in range(_DRAWS):
            radius = np.sqrt(-2 * np.log1p(-self.uniform(pairs)))
            angle = 2 * np.pi * self.uniform(pairs)
            total += np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
        return torch.from_numpy(total[:n] / _DRAWS**0.5).float().to(self._device)


def source(seed: int, device: torch.device, secure: bool) -> Source:
    """Return the source of a client's draws in a round."""
    return OperatingSystem(device) if secure else Seeded(seed, device)
