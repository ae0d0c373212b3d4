"""Random streams keyed by what they are for; fedmed never seeds a global generator for good.

A stream is named by a seed and a key such as ``("train", round, client)``. The key is hashed, so
that streams are independent of each other and of the order in which they are opened: the reason
why a run gives the same bits with any number of workers and after any crash.
"""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

Key = str | int


def seed_of(seed: int, *key: Key) -> int:
    """Return a 63-bit seed for the stream that ``key`` names under the run's ``seed``."""
    text = "/".join(map(repr, (seed, *key)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *key: Key) -> np.random.Generator:
    """Return the NumPy generator of the stream that ``key`` names."""
    return np.random.default_rng(seed_of(seed, *key))


@contextmanager
def seeded_globals(seed: int, *key: Key) -> Iterator[None]:
    """Seed ``random`` and ``numpy.random`` for the block, and give back their states after it.

    For code of others that draws from the global generators, such as Flower's strategies.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    random.seed(seed_of(seed, *key))
    np.random.seed(seed_of(seed, *key) % 2**32)
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
