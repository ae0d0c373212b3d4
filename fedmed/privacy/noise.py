"""Where the randomness of private training comes from: the run's seed, or the operating system.

A stream from the seed is keyed by what it is to hide (``fedmed.core.seeding``), so that whoever
does not know the seed sees independent noise in any two releases that differ, whatever they differ
in: configuration, data, weights, or the machine's arithmetic. This rests on SHA-256 behaving as a
random function. One release made twice is the same to the bit: of two that are alike it can be
seen that all they were made from was alike. Noise from the operating system shows not even that.

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

from fedmed.core.seeding import fingerprint, generator, seed_of

_DRAWS = 4
_TWISTER = 624  # words of a Mersenne Twister
_WORDS = slice(24, 24 + 8 * _TWISTER)  # where they are in a generator's state


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
        self._normal = _generator(seed_of(seed, "noise"), device)

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


def source(seed: int, device: torch.device, secure: bool, *release: object) -> Source:
    """Return the source of the draws of a release.

    Args:
        seed: of the run's stream for it.
        device: where the noise goes.
        secure: whether it comes from the operating system, whatever the seed.
        release: all that decides what is released (``fedmed.core.seeding.fingerprint``). Nothing
            where nothing is hidden, so that runs are compared on the same random numbers.
    """
    if secure:
        return OperatingSystem(device)
    return Seeded(seed_of(seed, fingerprint(*release)) if release else seed, device)


def _generator(seed: int, device: torch.device) -> torch.Generator:
    """Return a generator that all of ``seed`` decides.

    On a CPU it is a Mersenne Twister, of whose seed PyTorch takes but 32 bits: two of 100,000
    streams would be expected to be one. So all of its state is filled, as NumPy fills its own.
    """
    generator = torch.Generator(device).manual_seed(seed)
    if device.type == "cpu":
        state = generator.get_state()
        words = np.random.SeedSequence(seed).generate_state(_TWISTER)
        words[0] = 1 << 31  # only its first bit counts, and not all may be 0
        state.numpy()[_WORDS].view(np.uint64)[:] = words
        generator.set_state(state)
    return generator
