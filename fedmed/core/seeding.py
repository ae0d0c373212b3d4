"""Random streams keyed by what they are for; fedmed never seeds a global generator for good.

A stream is named by a seed and a key such as ``("train", round, client)``. The key is hashed, so
that streams are independent of each other and of the order in which they are opened: the reason
why a run gives the same bits with any number of workers and after any crash.

Where draws are to hide something, the key holds what they hide as well, by its :func:`fingerprint`.
Two releases with the same noise would differ by what the noise was to hide, and whoever has both
would need no seed to see it. So one release made again has the same noise, and any other noise of
its own: as nonces that are derived from the message (RFC 6979).
"""

import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

Key = str | int


def seed_of(seed: int, *key: Key) -> int:
    """Return a 63-bit seed for the stream that ``key`` names under the run's ``seed``."""
    text = "/".join(map(repr, (seed, *key)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *key: Key) -> np.random.Generator:
    """Return the NumPy generator of the stream that ``key`` names."""
    return np.random.default_rng(seed_of(seed, *key))


def fingerprint(*values: object) -> str:
    """Return the SHA-256 of values, as hexadecimal digits: other values, or types, have another.

    Args:
        values: None, numbers, strings, bytes, arrays, what turns into an array by ``numpy()``, and
            mappings and iterables of such.

    Raises:
        TypeError: of a value that is none of these.
    """
    digest = hashlib.sha256()
    for value in values:
        _add(digest, value)
    return digest.hexdigest()


def _add(digest: "hashlib._Hash", value: Any) -> None:
    """Add a value in such a way that no two sequences of values give the same bytes."""
    if hasattr(value, "numpy"):
        value = (value.cpu() if hasattr(value, "cpu") else value).numpy()
    if isinstance(value, np.ndarray):
        _add_bytes(
            digest, f"array {value.dtype.str} {value.shape}", np.ascontiguousarray(value).data
        )
    elif isinstance(value, bytes):
        _add_bytes(digest, f"bytes {len(value)}", value)
    elif value is None or isinstance(value, str | int | float):
        text = repr(value).encode()
        _add_bytes(digest, f"{type(value).__name__} {len(text)}", text)
    elif isinstance(value, Mapping):
        _add(digest, value.items())
    elif isinstance(value, Iterable):
        digest.update(b"[")
        for item in value:
            _add(digest, item)
        digest.update(b"]")
    else:
        raise TypeError(f"a {type(value).__name__} has no fingerprint")


def _add_bytes(digest: "hashlib._Hash", kind: str, data: bytes | memoryview) -> None:
    digest.update(f"<{kind}>".encode())
    digest.update(data)


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
