"""What TenSEAL writes, taken apart: the coefficients in it, and what describes them.

TenSEAL keeps SEAL's streams in messages of protocol buffers. A ciphertext or public key that
travels is coefficients alone; to be read by TenSEAL they are put into a stream that was written
here, in the place of its own. So all that is parsed, here and in native code, was written here.
"""

import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from imagecodecs import zstd_decode
from numpy.typing import NDArray

from fedmed.aggregation.homomorphic import Buffer, HomomorphicError, library
from fedmed.core.errors import ConfigError

Polynomials = NDArray[np.uint64]  # of shape (2, primes, degree), each below its prime

#: SEAL's header: magic, its length, version, compression, reserved, the stream's length.
_HEADER = struct.Struct("<HBBBBHQ")
_PLAIN, _ZSTD = 0, 2
#: Where the stream of a vector's ciphertext, and of a context's public key, is in the message.
VECTOR, CONTEXT = (2,), (2, 1)


class Ring(NamedTuple):
    """Polynomials modulo each of some primes, and how they travel.

    Attributes:
        degree: the number of coefficients.
        primes: each below 2^63.
    """

    degree: int
    primes: tuple[int, ...]

    @property
    def size(self) -> int:
        """The bytes of two polynomials, in as few whole bytes a coefficient as its prime has."""
        return 2 * self.degree * sum(map(_bytes, self.primes))

    def pack(self, polynomials: Polynomials) -> bytes:
        """Return polynomials as they travel."""
        octets = polynomials.astype("<u8", copy=False).view(np.uint8)
        octets = octets.reshape(2, len(self.primes), self.degree, 8)
        return b"".join(
            octets[:, i, :, : _bytes(prime)].tobytes() for i, prime in enumerate(self.primes)
        )

    def unpack(self, data: Buffer) -> Polynomials:
        """Return what :meth:`pack` wrote.

        Raises:
            HomomorphicError: if it is of another length, or a coefficient is not below its prime.
        """
        if len(data) != self.size:
            raise HomomorphicError(f"polynomials of {len(data)} bytes, not {self.size}")
        octets = np.zeros((2, len(self.primes), self.degree, 8), np.uint8)
        at = 0
        for i, prime in enumerate(self.primes):
            width = _bytes(prime)
            end = at + 2 * self.degree * width
            part = np.frombuffer(data[at:end], np.uint8)
            octets[:, i, :, :width] = part.reshape(2, self.degree, width)
            at = end
        found: Polynomials = octets.view("<u8")[..., 0]
        if (found >= self._column).any():
            raise HomomorphicError("polynomials with a coefficient that is not below its prime")
        return found

    def add(self, one: Polynomials, other: Polynomials) -> Polynomials:
        """Return the sum of polynomials."""
        found: Polynomials = one + other
        # below 0 it wraps to what is larger, so that the smaller is the remainder
        np.minimum(found, found - self._column, out=found)
        return found

    @property
    def _column(self) -> Polynomials:
        return np.array(self.primes, np.uint64)[None, :, None]


class Parameters(NamedTuple):
    """Parameters of SEAL.

    Attributes:
        scheme: ``BFV`` or ``CKKS``.
        degree: N, a power of two.
        bits: of each prime of the modulus; the last one is for keys alone.
        plain_modulus: BFV's, a prime; 0 for CKKS.
        scale: CKKS's; 0 for BFV.
    """

    scheme: str
    degree: int
    bits: tuple[int, ...]
    plain_modulus: int = 0
    scale: float = 0.0

    def __str__(self) -> str:
        """Return them in a few words."""
        bits = ",".join(map(str, self.bits))
        return f"{self.scheme} {self.degree} {bits} {self.plain_modulus or self.scale:.0f}"

    @property
    def primes(self) -> tuple[int, ...]:
        """The primes of the modulus, in SEAL's order."""
        try:
            if len(self.bits) < 2:
                raise ValueError("one prime for data and one for keys are needed")
            found = library("tenseal.sealapi").CoeffModulus.Create(self.degree, self.bits)
        except (ValueError, RuntimeError, TypeError) as error:
            raise self._refused(error) from None
        return tuple(int(prime.value()) for prime in found)

    def new(self) -> Any:
        """Return a context of TenSEAL with new keys.

        Raises:
            ConfigError: if SEAL does not hold the parameters for secure, or for possible.
        """
        native = library("tenseal")._ts_cpp
        kind = getattr(native.SCHEME_TYPE, self.scheme)
        public = native.ENCRYPTION_TYPE.ASYMMETRIC
        try:
            found = native.TenSEALContext.new(
                kind, self.degree, self.plain_modulus, list(self.bits), public, 1
            )
        except (ValueError, RuntimeError, TypeError) as error:
            raise self._refused(error) from None
        if self.scale:
            found.global_scale = self.scale
        return found

    def _refused(self, error: Exception) -> ConfigError:
        return ConfigError(
            f"aggregation.coeff_mod_bit_sizes={list(self.bits)} with "
            f"aggregation.poly_modulus_degree={self.degree}: {error}"
        )


def load(serialized: bytes) -> Any:
    """Return a context that was written here."""
    return library("tenseal")._ts_cpp.TenSEALContext.deserialize(serialized, 1)


def serialize(context: Any, secret: bool) -> bytes:
    """Return a context as bytes, with its public and maybe its secret key, and with no other."""
    return bytes(context.serialize(True, secret, False, False))


@lru_cache(maxsize=4)
def template(parameters: Parameters) -> bytes:
    """Return a public context, of a key that nobody has, for another public key to be put in."""
    return serialize(parameters.new(), secret=False)


def polynomials(message: bytes, path: Sequence[int], ring: Ring) -> Polynomials:
    """Return the polynomials in a message of TenSEAL's."""
    plain = _plain(_found(message, path))
    count = 2 * len(ring.primes) * ring.degree
    return np.frombuffer(plain[-8 * count :], "<u8").reshape(2, len(ring.primes), ring.degree)


def with_polynomials(message: bytes, path: Sequence[int], new: Polynomials) -> bytes:
    """Return the message with others in their place."""
    stream = _found(message, path)
    plain = _plain(stream)
    octets = new.astype("<u8", copy=False).tobytes()
    plain = plain[: -len(octets)] + octets
    magic, length, major, minor, _, reserved, _ = _HEADER.unpack_from(stream)
    header = _HEADER.pack(magic, length, major, minor, _PLAIN, reserved, length + len(plain))
    return _replaced(message, path, header + plain)


def _plain(stream: bytes) -> bytes:
    *_, compression, _, length = _HEADER.unpack_from(stream)
    body = stream[_HEADER.size : length]
    if compression == _ZSTD:
        return bytes(zstd_decode(body))
    if compression == _PLAIN:
        return body
    raise HomomorphicError(f"TenSEAL compresses in a way that is not known here: {compression}")


def _bytes(prime: int) -> int:
    return -(-prime.bit_length() // 8)


def _found(message: bytes, path: Sequence[int]) -> bytes:
    for number in path:
        message = next(value for key, value in _fields(message) if key == number << 3 | 2)
    return message


def _replaced(message: bytes, path: Sequence[int], new: bytes) -> bytes:
    parts = []
    for key, value in _fields(message):
        if key == path[0] << 3 | 2:
            value = _replaced(value, path[1:], new) if path[1:] else new
        parts += [_varint(key), _varint(len(value)) if key & 7 == 2 else b"", value]
    return b"".join(parts)


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the fields of a message: the key, number << 3 | wire type, and the value's bytes."""
    at = 0
    while at < len(message):
        key, at = _read_varint(message, at)
        wire, start = key & 7, at
        if wire == 0:
            _, at = _read_varint(message, at)
        elif wire == 1:
            at += 8
        else:
            length, start = _read_varint(message, at)
            at = start + length
        yield key, message[start:at]


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        octet = message[at]
        value, at = value | (octet & 127) << shift, at + 1
        if octet < 128:
            return value, at
        shift += 7


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)
