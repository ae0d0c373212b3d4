"""Homomorphic schemes and keys that the tests share, and sums in one line."""

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import pytest

from fedmed.aggregation.homomorphic import (
    Header,
    HomomorphicScheme,
    Keys,
    Values,
)
from fedmed.aggregation.lattice import BFV, CKKS
from fedmed.aggregation.paillier import Paillier

HEADER = len(bytes(Header(bytes(32), 1, 20, 1)))
#: Each with whatever could change a sum. Widths are such that 16 clients may be added.
SCHEMES: dict[str, Callable[[], HomomorphicScheme]] = {
    "paillier": lambda: Paillier(2048),
    "paillier-full": lambda: Paillier(2048, "full"),
    "bfv": BFV,
    "bfv-54": lambda: BFV(4096, (54, 54), 40),
    "bfv-8192": lambda: BFV(8192, [60, 60, 60], 48),
    "ckks": CKKS,
    "ckks-54": lambda: CKKS(4096, (54, 54), 40),
    "ckks-nvflare": lambda: CKKS(8192, (60, 40, 40), 40),
}
ALL = pytest.mark.parametrize("name", SCHEMES)
ONE_EACH = pytest.mark.parametrize("name", ["paillier", "bfv", "ckks"])


@cache
def scheme(name: str) -> HomomorphicScheme:
    return SCHEMES[name]()


@cache
def numbered(name: str, number: int) -> Keys:
    return scheme(name).generate()


def keys(name: str, number: int = 0) -> Keys:
    # one key for both of Paillier's: blinding is the client's choice
    return numbered(name.removesuffix("-full"), number)


def encrypted(name: str, values: Sequence[int] | Values, width: int, key: int = 0) -> bytes:
    found = scheme(name).encrypt(keys(name, key).public, np.array(values, np.int64), width)
    return b"".join(found)


def added(name: str, payloads: Sequence[bytes], size: int, width: int) -> bytes:
    total = None
    for payload in payloads:
        total = scheme(name).add(keys(name).public, total, payload, size=size, width=width)
    assert total is not None
    return total


def decrypted(name: str, total: bytes, size: int, width: int, clients: int) -> Values:
    return scheme(name).decrypt(keys(name).secret, total, size=size, width=width, clients=clients)


def payloads_of(name: str, rows: Values, width: int) -> list[bytes]:
    """Encrypt the rows of clients in one go, which saves the time of reading the key for each."""
    clients, size = rows.shape
    lanes, each = scheme(name).lanes(width), scheme(name).ciphertext_bytes
    padded = np.pad(rows, ((0, 0), (0, -size % lanes)))
    whole = encrypted(name, padded.reshape(-1), width)
    header = bytes(Header.read(whole)._replace(size=size))
    length = -(-size // lanes) * each
    assert len(header) + length == scheme(name).payload_bytes(size, width)
    return [header + whole[HEADER + i * length :][:length] for i in range(clients)]


def summed(name: str, rows: Values, width: int) -> Values:
    clients, size = rows.shape
    total = added(name, payloads_of(name, rows, width), size, width)
    assert len(total) == scheme(name).payload_bytes(size, width)
    return decrypted(name, total, size, width, clients)


def extremes(clients: int, size: int, width: int) -> Values:
    """Values of clients whose sums go to the ends of what the width holds, and not beyond."""
    size = -(-size // 6)
    half = 1 << (width - 1)
    high, low = (half - 1) // clients, -(half // clients)
    column, row = np.arange(size) % 2, np.arange(clients)[:, None] % 2
    alone = np.zeros((clients, size), np.int64)
    alone[0] = np.where(column, half - 1, -half)
    patterns = (
        np.full((clients, size), high),
        np.full((clients, size), low),
        np.where(column + 0 * row, high, low),
        np.where(column ^ row, high, low),
        alone,
        np.random.default_rng(width).integers(low, high, (clients, size), endpoint=True),
    )
    return np.hstack(patterns)


def public_n() -> int:
    public = keys("paillier").public
    start = public.index(b"\n") + 1
    return int.from_bytes(public[start : start + 256], "little")
