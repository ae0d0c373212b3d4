"""Paillier's cryptosystem with many values a ciphertext (Paillier 1999).

With g = n + 1, a ciphertext of m is (1 + m n) ρ mod n², ρ a random n-th residue; the product of
ciphertexts is one of the sum. Values are signed digits of m in base 2^width, and m itself is taken
modulo n, so that no digit needs to know how many summands there are: to read a sum, half a lane is
added to each digit, and none borrows from the next.

Where ρ comes from is ``blinding``. ``full`` is Paillier's: r^n for a uniform r, which is as hard to
tell from 1 as composite residuosity. ``djn`` is that of Damgård, Jurik and Nielsen (2010):
a power of one public n-th residue h^n, h = -x², with an exponent of half the bits of n; it assumes
that such short powers cannot be told from all of them, and is 20 to 30 times faster. Nothing here
is constant in time: an attacker on the same processor is not kept out.
2048 bits of key are held for 112 bits of security and 3072 for 128 (NIST SP 800-57).
``pip install 'fedmed[he]'``.
"""

import secrets
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from fedmed.aggregation.homomorphic import (
    HomomorphicError,
    HomomorphicScheme,
    Keys,
    Values,
    library,
)
from fedmed.core.errors import ConfigError

LEAST_BITS = 2048
SPARE = 64  # bits above the lanes, 0 in a sum: a wrong decryption has them so by chance of 2^-64


class Paillier(HomomorphicScheme):
    """Paillier's cryptosystem, with as many values a ciphertext as fit.

    Args:
        key_bits: of n; 2048 or more, a multiple of 16.
        blinding: where a ciphertext's randomness comes from; it is the client's choice, of no
            matter to the sum or the keys. ``djn`` keeps a table of 4 key_bits² bytes (17 MB at
            2048 bits, 38 MB at 3072) in the client's process.

    Raises:
        ConfigError: if the key would be too short, or gmpy2 is missing.
    """

    def __init__(self, key_bits: int = 3072, blinding: Literal["djn", "full"] = "djn") -> None:
        if key_bits < LEAST_BITS or key_bits % 16:
            raise ConfigError(
                f"aggregation.key_bits={key_bits}: {LEAST_BITS} or more, a multiple of 16"
            )
        if blinding not in ("djn", "full"):
            raise ConfigError(f"aggregation.blinding={blinding}: djn or full")
        library("gmpy2")
        self.parameters = f"paillier {key_bits}"
        self.ciphertext_bytes = key_bits // 4
        self._bits, self._blinding = key_bits, blinding

    def lanes(self, width: int) -> int:  # noqa: D102
        return (self._bits - 1 - SPARE) // width

    def generate(self) -> Keys:  # noqa: D102
        gmpy2 = library("gmpy2")
        p = q = self._prime()
        while gmpy2.gcd(p - 1, q - 1) != 2:
            q = self._prime()
        n = p * q
        powered = gmpy2.powmod(-(_unit(n) ** 2), n, n * n)
        half, whole = self._bits // 16, self._bits // 8
        return self._keys(
            p.to_bytes(half, "little") + q.to_bytes(half, "little"),
            n.to_bytes(whole, "little") + powered.to_bytes(2 * whole, "little"),
        )

    def _prime(self) -> Any:
        """Return a random prime of half the bits.

        Its two highest bits are 1, so that n has all of its own; so are the two lowest, as DJN's
        blinding wants it: -1 is no square then.
        """
        bits = self._bits // 2
        gmpy2 = library("gmpy2")
        while True:
            found = gmpy2.mpz(secrets.randbits(bits) | 3 << bits - 2 | 3)
            if gmpy2.is_prime(found, 40):
                return found

    def _public(self, body: memoryview) -> tuple[Any, Any]:
        """Return n and h^n mod n² of a public key."""
        whole = self._bits // 8
        if len(body) != 3 * whole:
            raise HomomorphicError(f"a public key of {len(body)} bytes, not {3 * whole}")
        mpz = library("gmpy2").mpz
        n, powered = mpz.from_bytes(body[:whole], "little"), mpz.from_bytes(body[whole:], "little")
        gcd = library("gmpy2").gcd
        if n.bit_length() != self._bits or n % 2 == 0 or powered >= n * n or gcd(powered, n) != 1:
            raise HomomorphicError(f"not a public key of {self.parameters}: n or h is out of range")
        return n, powered

    def _encryptor(self, public: memoryview, width: int) -> Callable[[Values], bytes]:
        gmpy2 = library("gmpy2")
        n, powered = self._public(public)
        square, half = n * n, 1 << (width - 1)
        bias = gmpy2.pack([half] * self.lanes(width), width)
        table = _powers(n, powered, self._bits // 16) if self._blinding == "djn" else ()

        def encrypt(values: Values) -> bytes:
            message = gmpy2.pack((values + half).tolist(), width) - bias
            # ρ = a (1 + b n), where a < n: a product of the a costs half of one of the ρ, and
            # the b, like m, add up.
            if table:
                blinding = gmpy2.mpz(1)
                for powers, digit in zip(table, secrets.token_bytes(len(table)), strict=True):
                    a, b = powers[digit]
                    blinding = blinding * a % square
                    message += b
            else:
                blinding = gmpy2.powmod(_unit(n), n, square)
            found = blinding * (1 + message % n * n) % square
            return bytes(found.to_bytes(self.ciphertext_bytes, "little"))

        return encrypt

    def _add(self, public: memoryview, total: memoryview | None, payload: memoryview) -> bytes:
        gmpy2 = library("gmpy2")
        n, _ = self._public(public)
        square, each = n * n, self.ciphertext_bytes
        sums, together = bytearray(payload), gmpy2.mpz(1)
        for at in range(0, len(payload), each):
            new = gmpy2.mpz.from_bytes(payload[at : at + each], "little")
            if not 0 < new < square:
                raise HomomorphicError(f"ciphertext {at // each} is not one: out of range")
            together = together * new % n
            if total is not None:
                old = gmpy2.mpz.from_bytes(total[at : at + each], "little")
                sums[at : at + each] = (old * new % square).to_bytes(each, "little")
        if gmpy2.gcd(together, n) != 1:
            raise HomomorphicError("a ciphertext is not one: it shares a factor with the key")
        return bytes(sums)

    def _decryptor(self, secret: memoryview, width: int) -> Callable[[memoryview], Values]:
        gmpy2 = library("gmpy2")
        half = self._bits // 16
        if len(secret) != 2 * half:
            raise HomomorphicError(f"a secret key of {len(secret)} bytes, not {2 * half}")
        p, q = (gmpy2.mpz.from_bytes(part, "little") for part in (secret[:half], secret[half:]))
        n, lanes = p * q, self.lanes(width)
        bias = gmpy2.pack([1 << (width - 1)] * lanes, width)
        inverse = gmpy2.invert(q, p)

        def modulo(prime: Any, other: Any, ciphertext: Any) -> Any:
            # (1 + m n)^(p - 1) = 1 + (p - 1) m n modulo p², and p - 1 is -1 in what is left of it
            powered = gmpy2.powmod(ciphertext, prime - 1, prime * prime)
            if powered % prime != 1:
                raise HomomorphicError("a total that is none: it shares a factor with the key")
            return -(powered // prime) * gmpy2.invert(other, prime) % prime

        def decrypt(ciphertext: memoryview) -> Values:
            found = gmpy2.mpz.from_bytes(ciphertext, "little")
            if found >= n * n:
                raise HomomorphicError("a total that is none: a ciphertext is out of range")
            of_q = modulo(q, p, found)
            message = of_q + q * ((modulo(p, q, found) - of_q) * inverse % p)
            digits = gmpy2.unpack((message + bias) % n, width)
            if len(digits) > lanes:
                raise HomomorphicError(
                    "a sum does not fit its lane: a client's values were not what they had to be, "
                    "or the secret key is another's"
                )
            digits += [0] * (lanes - len(digits))
            return np.array(digits, np.int64) - (1 << (width - 1))

        return decrypt


def _unit(n: Any) -> Any:
    """Return a random number that has an inverse modulo n."""
    while True:
        found = secrets.randbelow(int(n))
        if library("gmpy2").gcd(found, n) == 1:
            return found


@lru_cache(maxsize=1)
def _powers(n: Any, base: Any, digits: int) -> list[list[tuple[Any, Any]]]:
    """Return, for each byte of an exponent, the 256 powers it may stand for.

    A power v is given as (a, b), v = a (1 + b n) mod n², with a and b below n.
    """
    gmpy2 = library("gmpy2")
    square, table = n * n, []
    for _ in range(digits):
        inverse = gmpy2.invert(base, n)
        power, inverted, row = gmpy2.mpz(1), gmpy2.mpz(1), []
        for _ in range(256):
            high, low = gmpy2.f_divmod(power, n)
            row.append((low, high * inverted % n))
            power, inverted = power * base % square, inverted * inverse % n
        table.append(row)
        base = power
    return table
