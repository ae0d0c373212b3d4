"""Lattice cryptosystems for sums: BFV on integers, and CKKS, whose noise is rounded away.

Keys, encryption and decryption are Microsoft SEAL's, through TenSEAL. What travels is not: a
ciphertext is two polynomials for each prime of the modulus, N coefficients below that prime each,
and nothing else. So the server adds them with numpy, and no byte of a peer is parsed by native
code: TenSEAL 0.3.18 believes the counts in what it reads, and a vector with fewer ciphertexts or
sizes than another ends the process of whoever adds or decrypts it. Whatever describes a ciphertext
or a key (``seal``) is taken from one that was made here. Contexts are not kept from call to call:
each has a thread, which a fork would not take along.

SEAL refuses parameters that are not held for 128 bits of security (the homomorphic encryption
standard's table: 109 bits of modulus at N = 4096, 218 at 8192). ``pip install 'fedmed[he]'``.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from math import prod, sqrt
from typing import Any

import numpy as np

from fedmed.aggregation import seal
from fedmed.aggregation.homomorphic import (
    HomomorphicError,
    HomomorphicScheme,
    Keys,
    Values,
    library,
)
from fedmed.core.errors import ConfigError

#: Deviations of noise for which BFV leaves room. A coefficient's noise is all but normal: of 10^7,
#: one is beyond ten deviations once in 10^15 sums.
NORMAL = 10
#: The same for CKKS, in a quarter of a step. There the noise of a slot is as large as the secret is
#: in it, which varies: over keys it is a Laplace variable, beyond k deviations by exp(-√2 k).
LAPLACE = 30
MEASURED = 1024  # summands up to which BFV's sums were found exact
AWAY = 0.25  # from an integer, at most, is a value that CKKS has read


class Lattice(HomomorphicScheme):
    """What BFV and CKKS have in common.

    Args:
        parameters: SEAL's.
        slots: numbers that a plaintext holds.
    """

    def __init__(self, parameters: seal.Parameters, slots: int) -> None:
        primes = parameters.primes
        seal.template(parameters)  # refuses what is not secure
        self.parameters = str(parameters)
        self._parameters, self._slots = parameters, slots
        self._whole = seal.Ring(parameters.degree, primes)
        self._ring = seal.Ring(parameters.degree, primes[:-1])
        self.ciphertext_bytes = self._ring.size

    def generate(self) -> Keys:  # noqa: D102
        context = self._parameters.new()
        public = seal.polynomials(seal.serialize(context, secret=False), seal.CONTEXT, self._whole)
        return self._keys(seal.serialize(context, secret=True), self._whole.pack(public))

    def _encryptor(self, public: memoryview, width: int) -> Callable[[Values], bytes]:
        key = self._whole.unpack(public)
        context = seal.load(
            seal.with_polynomials(seal.template(self._parameters), seal.CONTEXT, key)
        )

        def encrypt(values: Values) -> bytes:
            made = self._vector(context, self._encode(values, width)).serialize()
            return self._ring.pack(seal.polynomials(made, seal.VECTOR, self._ring))

        return encrypt

    def _add(self, public: memoryview, total: memoryview | None, payload: memoryview) -> bytes:
        self._whole.unpack(public)
        sums, each = bytearray(payload), self.ciphertext_bytes
        for at in range(0, len(payload), each):
            new = self._ring.unpack(payload[at : at + each])
            if total is not None:
                old = self._ring.unpack(total[at : at + each])
                sums[at : at + each] = self._ring.pack(self._ring.add(old, new))
        return bytes(sums)

    def _decryptor(self, secret: memoryview, width: int) -> Callable[[memoryview], Values]:
        try:
            context = seal.load(bytes(secret))
            made = self._vector(context, [0] * self._slots).serialize()
        except (ValueError, RuntimeError) as error:
            raise HomomorphicError(f"a secret key that is damaged: {error}") from None

        def decrypt(ciphertext: memoryview) -> Values:
            found = self._ring.unpack(ciphertext)
            message = seal.with_polynomials(made, seal.VECTOR, found)
            return self._decode(np.array(self._vector(context, message).decrypt()), width)

        return decrypt

    def _vector(self, context: Any, content: Sequence[float] | bytes) -> Any:
        """Return a vector of TenSEAL's: of numbers, encrypted, or of what it wrote."""
        kind = getattr(library("tenseal")._ts_cpp, f"{self._parameters.scheme}Vector")
        return kind(context, content)

    @abstractmethod
    def _encode(self, values: Values, width: int) -> list[int] | list[float]:
        """Return the slots of a plaintext, from (lanes,) values."""

    @abstractmethod
    def _decode(self, slots: Any, width: int) -> Values:
        """Return (lanes,) sums from the slots of a plaintext, refusing what cannot be one."""


class BFV(Lattice):
    """BFV: exact sums of integers, several to a slot (Brakerski 2012; Fan and Vercauteren 2012).

    Args:
        poly_modulus_degree: N, a power of two: slots in a ciphertext.
        coeff_mod_bit_sizes: bits of the primes of the modulus, the last of which is for keys alone.
        plain_bits: bits of a slot, shared by as many lanes as fit. What is left of the modulus
            above them is room for noise: each bit fewer allows four times the clients.

    Raises:
        ConfigError: if the parameters are not secure or not possible, or TenSEAL is missing.
    """

    def __init__(
        self,
        poly_modulus_degree: int = 4096,
        coeff_mod_bit_sizes: Sequence[int] = (56, 53),
        plain_bits: int = 42,
    ) -> None:
        bits = tuple(coeff_mod_bit_sizes)
        if not 2 <= plain_bits <= 60:
            raise ConfigError(f"aggregation.plain_bits={plain_bits}: from 2 to 60")
        self._plain_bits = plain_bits
        self._modulus = _plain_modulus(plain_bits, poly_modulus_degree)
        parameters = seal.Parameters("BFV", poly_modulus_degree, bits, self._modulus)
        super().__init__(parameters, poly_modulus_degree)

    def lanes(self, width: int) -> int:  # noqa: D102
        return self._slots * (self._plain_bits // width)

    def check(self, width: int, clients: int) -> None:  # noqa: D102
        super().check(width, clients)
        if width > self._plain_bits:
            raise ConfigError(
                f"aggregation.plain_bits={self._plain_bits}: sums of {clients} clients take "
                f"{width} bits"
            )
        room = prod(self._ring.primes) / (2 * self._modulus)
        most = min(int((room / NORMAL / _noise(self._slots)) ** 2), MEASURED)
        if clients > most:
            raise ConfigError(
                f"aggregation.plain_bits={self._plain_bits}: the noise of more than {most} clients "
                f"could spoil a sum, and there are {clients}; each bit fewer allows four times as "
                f"many, up to {MEASURED}"
            )

    def _encode(self, values: Values, width: int) -> list[int]:
        lanes = values.reshape(-1, self._slots)
        shifts = np.arange(len(lanes))[:, None] * width
        found: list[int] = ((lanes << shifts).sum(0) % self._modulus).tolist()
        return found

    def _decode(self, slots: Values, width: int) -> Values:
        half, count = 1 << (width - 1), self._plain_bits // width
        shifts = np.arange(count)[:, None] * width
        digits = (slots + (half << shifts).sum()) % self._modulus
        if (digits >> count * width).any():
            raise HomomorphicError(
                "a sum does not fit its lane: a client's values were not what they had to be"
            )
        found: Values = ((digits >> shifts) & (2 * half - 1)) - half
        return found.reshape(-1)


class CKKS(Lattice):
    """CKKS on the grid: approximate sums, so near to integers that rounding makes them exact.

    A value travels as the real v / 2^(width - 1), within ±1, times ``2^scale_bits``; what decrypts
    further than a quarter from an integer is refused. Since only integers leave the key holder,
    nothing of the noise does, by which approximate decryptions betray a key (Li and Micciancio
    2021). ``poly_modulus_degree=8192 coeff_mod_bit_sizes=[60,40,40] scale_bits=40`` are NVIDIA
    FLARE's parameters.

    Args:
        poly_modulus_degree: N, a power of two; a ciphertext has N / 2 slots of a value each.
        coeff_mod_bit_sizes: bits of the primes of the modulus, the last of which is for keys alone.
        scale_bits: bits of the scale.

    Raises:
        ConfigError: if the parameters are not secure or not possible, or TenSEAL is missing.
    """

    def __init__(
        self,
        poly_modulus_degree: int = 4096,
        coeff_mod_bit_sizes: Sequence[int] = (48, 60),
        scale_bits: int = 44,
    ) -> None:
        bits = tuple(coeff_mod_bit_sizes)
        if not 1 <= scale_bits <= sum(bits[:-1]) - 3:
            raise ConfigError(
                f"aggregation.scale_bits={scale_bits}: 3 bits fewer than the primes of "
                f"aggregation.coeff_mod_bit_sizes={list(bits)} without the last have together"
            )
        self._scale_bits = scale_bits
        parameters = seal.Parameters("CKKS", poly_modulus_degree, bits, scale=2.0**scale_bits)
        super().__init__(parameters, poly_modulus_degree // 2)

    def lanes(self, width: int) -> int:  # noqa: D102
        return self._slots

    def check(self, width: int, clients: int) -> None:  # noqa: D102
        super().check(width, clients)
        # a slot is a sum of N coefficients times unit vectors, of which the real part counts
        noise = _noise(2 * self._slots) * sqrt(self._slots * clients)
        step = 2.0 ** (self._scale_bits - width + 1)
        if LAPLACE * noise > AWAY * step:
            raise ConfigError(
                f"aggregation.scale_bits={self._scale_bits}: the noise of {clients} clients has a "
                f"deviation of {noise / step:.2g} steps in sums of {width} bits, and rounding is "
                f"exact up to {AWAY / LAPLACE:.2g}"
            )

    def _encode(self, values: Values, width: int) -> list[float]:
        found: list[float] = np.ldexp(values.astype(np.float64), 1 - width).tolist()
        return found

    def _decode(self, slots: Any, width: int) -> Values:
        steps = np.ldexp(slots, width - 1)
        whole = np.rint(steps)
        half = 1 << (width - 1)
        held = (np.abs(steps - whole) <= AWAY) & (whole >= -half) & (whole < half)
        if not held.all():
            raise HomomorphicError(
                "a sum is too far from an integer, or out of its bits: a client's values were not "
                "what they had to be"
            )
        found: Values = whole.astype(np.int64)
        return found


def _noise(degree: int) -> float:
    """Return the deviation of a coefficient's noise in a fresh ciphertext.

    SEAL encrypts under the whole modulus and rounds the key prime away: what is left is the
    rounding of two polynomials, uniform over 1, the second of them times a ternary secret.
    """
    return sqrt((1 + 2 * degree / 3) / 12)


def _plain_modulus(bits: int, degree: int) -> int:
    """Return a prime above 9/8 of 2^bits that is 1 modulo twice the degree, so that slots exist.

    Where noise spoils one coefficient all slots are as if drawn: one in nine is then above 2^bits,
    which no sum is, and so it is seen.
    """
    if degree < 1 or degree & (degree - 1):
        raise ConfigError(f"aggregation.poly_modulus_degree={degree}: takes a power of two")
    step = 2 * degree
    found = (9 << bits) // 8 // step * step + 1
    while not library("gmpy2").is_prime(found):
        found += 2 * degree
    return found
