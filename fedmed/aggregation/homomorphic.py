"""Homomorphic sums: clients encrypt integers, a server adds, a key holder reads the sum.

Whatever the scheme, the sum that is read is the integers' own, exactly, or there is an error. A
payload is a header (:class:`Header`) and ciphertexts of one fixed size, so that a reader knows the
length before it reads. Nothing here says who sent what: that a public key is the key holder's, and
a payload its client's, is for the caller to establish (:func:`fingerprint`).

Who holds the secret key reads whatever is given to it: key holder and server together see each
client's values. A client can spoil a sum, as it can without encryption; it cannot read one.
"""

import hashlib
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from fedmed.core.errors import ConfigError, FedmedError

Values = NDArray[np.int64]
Buffer = bytes | memoryview
MOST_WIDTH = 48  # bits of a sum; doubles hold 53, and int64 must hold two lanes' bias beside them
FORMAT = 1  # of keys; a reader knows no other


class HomomorphicError(FedmedError):
    """A key, a payload or a sum that is not what it should be."""


class Keys(NamedTuple):
    """What a key holder makes: the secret, which it keeps, and the public key for everybody."""

    secret: bytes
    public: bytes


def library(name: str) -> Any:
    """Return a module of the extra ``he``.

    Raises:
        ConfigError: if it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(f"homomorphic sums: {error}: pip install 'fedmed[he]'") from None


def fingerprint(public: bytes) -> bytes:
    """Return the 32 bytes by which a public key is known (SHA-256)."""
    return hashlib.sha256(public).digest()


class Header(NamedTuple):
    """What stands before the ciphertexts of a payload or a total.

    Attributes:
        key: the fingerprint of the public key.
        summands: how many payloads were added; 1 in a client's.
        width: bits of a lane.
        size: the number of values.
    """

    key: bytes
    summands: int
    width: int
    size: int

    @classmethod
    def read(cls, data: Buffer) -> Self:
        """Return the header at the beginning of a payload, refusing one that is too short."""
        if len(data) < _HEADER.size:
            raise HomomorphicError(f"a payload of {len(data)} bytes has no header")
        return cls(*_HEADER.unpack_from(data))

    def __bytes__(self) -> bytes:
        """Return the header as it travels."""
        return _HEADER.pack(*self)


_HEADER = struct.Struct("<32sIIQ")


class HomomorphicScheme(ABC):
    """An encryption under which sums can be formed.

    Values are int64 vectors; every sum of them, over any subset of the clients, must fit the two's
    complement of ``width`` bits, which is the caller's to see to (clip, then allow for the number
    of clients). Parameters, all in the constructor, are public.

    Attributes:
        parameters: the scheme and all that both sides must agree on, in one line of text; it
            stands in each key.
        ciphertext_bytes: the size of a ciphertext.
    """

    parameters: str
    ciphertext_bytes: int

    def check(self, width: int, clients: int) -> None:
        """Refuse sums that could not be exact.

        Args:
            width: bits that hold each sum, with its sign.
            clients: the most payloads that are added.

        Raises:
            ConfigError: naming the key of the configuration that is to change.
        """
        if not 2 <= width <= MOST_WIDTH:
            raise ConfigError(
                f"aggregation.bits: sums of {clients} clients take {width} bits, and homomorphic "
                f"sums have 2 to {MOST_WIDTH}"
            )

    @abstractmethod
    def lanes(self, width: int) -> int:
        """Return how many values of so many bits are in a ciphertext, 0 if none fits."""

    @abstractmethod
    def generate(self) -> Keys:
        """Return new keys, as bytes that any process with the same parameters can use."""

    def encrypt(self, public: bytes, values: Values, width: int) -> Iterator[bytes]:
        """Encrypt a client's values, under fresh randomness of the system.

        Args:
            public: the public key.
            values: of shape (n,), n at least 1, each within ``width`` bits.
            width: as in :meth:`check`.

        Returns:
            The payload in pieces, header first: written one after the other they are what
            :meth:`add` takes. Each is made when it is asked for.

        Raises:
            ConfigError: if no lane is so wide; see :meth:`check`.
            HomomorphicError: if the key is not of this scheme, or a value does not fit.
        """
        if values.ndim != 1 or not len(values) or values.dtype != np.int64:
            raise HomomorphicError(f"values are int64 of shape (n,), not {values.dtype}")
        self.check(width, 1)
        half = 1 << (width - 1)
        if values.min() < -half or values.max() >= half:
            raise HomomorphicError(f"a value is outside of the {width} bits of its lane")
        encrypt = self._encryptor(self._body("public", public), width)
        return self._pieces(Header(fingerprint(public), 1, width, len(values)), values, encrypt)

    def add(
        self, public: bytes, total: bytes | None, payload: bytes, *, size: int, width: int
    ) -> bytes:
        """Add a client's payload to a total; the order of payloads does not matter to the bytes.

        Args:
            public: the public key.
            total: what this returned for the payloads before, None at the first.
            payload: a client's, from outside.
            size: the number of values that are due.
            width: bits that are due.

        Returns:
            The new total, as long as the payload.

        Raises:
            ConfigError: if the total so far is of more than :meth:`check` allows.
            HomomorphicError: if the payload is not what is due: of another key, size or width, cut,
                or with a ciphertext that cannot be one. The total is then as it was.
        """
        body = self._body("public", public)
        due = Header(fingerprint(public), 1, width, size)
        new = self._ciphertexts(payload, due)
        if total is None:
            return bytes(due) + self._add(body, None, new)
        header = Header.read(total)
        old = self._ciphertexts(total, due._replace(summands=header.summands))
        return bytes(header._replace(summands=header.summands + 1)) + self._add(body, old, new)

    def decrypt(
        self, secret: bytes, total: bytes, *, size: int, width: int, clients: int
    ) -> Values:
        """Read a total.

        Args:
            secret: the secret key.
            total: from the server.
            size: the number of values that are due.
            width: bits that are due.
            clients: how many payloads are due in it.

        Returns:
            The sums, of shape (size,).

        Raises:
            ConfigError: if a sum of so many payloads could not be exact; see :meth:`check`.
            HomomorphicError: if the total is not what is due, or holds no sums of this width: made
                by a client that did not keep to its lanes.
        """
        body = self._body("secret", secret)
        due = Header(bytes(body[:32]), clients, width, size)
        found = self._ciphertexts(total, due)
        decrypt = self._decryptor(body[32:], width)
        lanes, each = self.lanes(width), self.ciphertext_bytes
        sums = np.empty(size, np.int64)
        for start in range(0, size, lanes):
            at = start // lanes * each
            part = decrypt(found[at : at + each])
            sums[start : start + lanes] = part[: size - start]
        return sums

    def payload_bytes(self, size: int, width: int) -> int:
        """Return the length of a payload, and of a total, of so many values."""
        return _HEADER.size + -(-size // self.lanes(width)) * self.ciphertext_bytes

    @abstractmethod
    def _encryptor(self, public: memoryview, width: int) -> Callable[[Values], bytes]:
        """Return what encrypts one ciphertext's worth of values, of shape (lanes,)."""

    @abstractmethod
    def _add(self, public: memoryview, total: memoryview | None, payload: memoryview) -> bytes:
        """Return the sums of ciphertexts, refusing those of a payload that cannot be any."""

    @abstractmethod
    def _decryptor(self, secret: memoryview, width: int) -> Callable[[memoryview], Values]:
        """Return what reads one ciphertext as (lanes,) values, refusing what is out of range."""

    def _key(self, kind: str, body: bytes) -> bytes:
        return f"fedmed homomorphic {FORMAT} {kind} {self.parameters}\n".encode() + body

    def _keys(self, secret: bytes, public: bytes) -> Keys:
        known = self._key("public", public)
        return Keys(self._key("secret", fingerprint(known) + secret), known)

    def _body(self, kind: str, key: bytes) -> memoryview:
        head = self._key(kind, b"")
        if not key.startswith(head):
            raise HomomorphicError(f"not a {kind} key of {self.parameters}, format {FORMAT}")
        return memoryview(key)[len(head) :]

    def _pieces(
        self, header: Header, values: Values, encrypt: Callable[[Values], bytes]
    ) -> Iterator[bytes]:
        yield bytes(header)
        lanes = self.lanes(header.width)
        for start in range(0, len(values), lanes):
            part = values[start : start + lanes]
            yield encrypt(np.pad(part, (0, lanes - len(part))))

    def _ciphertexts(self, payload: bytes, due: Header) -> memoryview:
        self.check(due.width, due.summands)
        found = Header.read(payload)
        if found.key != due.key:
            raise HomomorphicError("encrypted under another key")
        for field in ("summands", "width", "size"):
            is_, should = getattr(found, field), getattr(due, field)
            if is_ != should:
                raise HomomorphicError(f"a payload whose {field} is {is_} where {should} is due")
        length = self.payload_bytes(due.size, due.width)
        if len(payload) != length:
            raise HomomorphicError(f"a payload of {len(payload)} bytes where {length} are due")
        return memoryview(payload)[_HEADER.size :]
