"""Shamir's secret sharing (1979) of 32-byte secrets: any t shares give it back, fewer give nothing.

The field is that of the smallest prime above 2^256, so that every 32 bytes are a secret and a share
takes 33. The polynomial's other coefficients are uniform over the field, from the system's
randomness: whatever t - 1 shares are, each secret fits them with exactly one polynomial.
"""

import secrets
from collections.abc import Iterable, Mapping
from math import prod

PRIME = 2**256 + 297
SECRET_BYTES = 32
SHARE_BYTES = 33


def split(secret: bytes, threshold: int, points: Iterable[int]) -> dict[int, bytes]:
    """Share a secret.

    Args:
        secret: 32 bytes.
        threshold: t, how many shares give it back; at least 1.
        points: where the polynomial is evaluated, one for each holder: from 1, none twice.

    Returns:
        The share of each point, 33 bytes.
    """
    polynomial = [secrets.randbelow(PRIME) for _ in range(threshold - 1)]
    polynomial.append(int.from_bytes(secret, "big"))
    shares = {}
    for point in points:
        value = 0
        for coefficient in polynomial:
            value = (value * point + coefficient) % PRIME
        shares[point] = value.to_bytes(SHARE_BYTES, "big")
    return shares


def evaluate(shares: Mapping[int, bytes], at: int) -> int:
    """Return the value at a point of the one polynomial of least degree through all shares.

    Args:
        shares: of at least one point, each one's 33 bytes, below the prime.
        at: the point; 0 is where the secret stands.
    """
    total = 0
    for point, share in shares.items():
        above = prod(at - other for other in shares if other != point)
        below = prod(point - other for other in shares if other != point)
        total += int.from_bytes(share, "big") * above * pow(below, -1, PRIME)
    return total % PRIME


def is_share(share: bytes) -> bool:
    """Say whether 33 bytes are an element of the field."""
    return len(share) == SHARE_BYTES and int.from_bytes(share, "big") < PRIME
