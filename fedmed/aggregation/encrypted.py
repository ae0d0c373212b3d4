"""Sums under encryption: one client holds the key, the others and the server see ciphers alone."""

import hashlib
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from fedmed.aggregation.base import (
    FEWEST,
    Ask,
    Collector,
    Fields,
    IntegerSum,
    Party,
    Payload,
    Session,
    TooFew,
)
from fedmed.aggregation.codec import Integers
from fedmed.aggregation.homomorphic import HomomorphicScheme, fingerprint
from fedmed.aggregation.lattice import BFV, CKKS
from fedmed.aggregation.paillier import Paillier
from fedmed.core.errors import FedmedError
from fedmed.record.signatures import HOSPITAL, holds

Bits = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, kw_only=True)
class Encrypted(IntegerSum):
    """Vectors are encrypted under a key that one client makes for each attempt, and added as such.

    Attributes:
        holder: the client that holds the key; it need not be in a cohort.
    """

    hides: ClassVar[bool] = True
    assumptions: ClassVar[tuple[str, ...]] = (
        "the server sees sums of updates alone, by homomorphic encryption: the client that holds "
        "the key (aggregation.holder) opens what the server says is a sum, so that the two of them "
        "together see every update",
    )
    holder: Annotated[int, Field(ge=0)]

    @property
    @abstractmethod
    def scheme(self) -> HomomorphicScheme:
        """The scheme, with its parameters."""

    def check(self, members: int, width: int) -> None:
        """Refuse sums that the scheme could not keep exact; see :meth:`HomomorphicScheme.check`."""
        self.scheme.check(width, members)

    def collector(self, session: Session, size: int, width: int) -> Collector:
        """Return the server's end of a session."""
        return _Server(self.scheme, self.holder, session, size, width)

    def answer(self, session: Session, step: str, told: Fields, own: Party) -> Fields:
        """Return the holder's part: a new key before training, the sum after it."""
        if step not in ("generate", "read"):
            return super().answer(session, step, told, own)
        if own.client != self.holder:
            raise FedmedError(f"aggregation: client {self.holder} holds the key, not {own.client}")
        return (
            self._generate(session, own) if step == "generate" else self._read(session, told, own)
        )

    def protect(
        self, session: Session, vector: Integers, width: int, told: Fields, own: Party
    ) -> Payload:
        """Return the encrypted vector."""
        public = told.get("public")
        if not isinstance(public, bytes):
            raise FedmedError("aggregation: no public key was told")
        if own.peers is not None:
            if not own.peers.keys() >= {*session.members}:
                raise FedmedError(
                    "aggregation: a sum is announced of clients that this hospital's policy does "
                    "not know (peers): their number decides each one's share of the noise"
                )
            signed = _stated(session, public)
            if not holds(own.peers.get(self.holder, ""), str(told.get("signature")), signed):
                raise FedmedError(
                    "aggregation: the public key bears no signature of the hospital that holds "
                    "the key, as this hospital's policy knows it (peers)"
                )
        pieces = self.scheme.encrypt(public, vector.astype(np.int64), width)
        return np.frombuffer(b"".join(pieces), np.uint8)

    def _generate(self, session: Session, own: Party) -> Fields:
        keys = self.scheme.generate()
        own.vault.store(_heading(session) + keys.secret)
        signature = own.signer.sign(_stated(session, keys.public)) if own.signer else ""
        return {"public": keys.public, "signature": signature}

    def _read(self, session: Session, told: Fields, own: Party) -> Fields:
        kept = own.vault.load()
        own.vault.clear()  # a key opens once
        heading = _heading(session)
        if not kept.startswith(heading):
            raise FedmedError("aggregation: asked to read a sum of another attempt or cohort")
        size, width, clients = (_number(told, key) for key in ("size", "width", "clients"))
        members = len(session.members)
        if not max(own.fewest, self.survivors(members)) <= clients <= members:
            raise FedmedError(f"aggregation: asked to read a sum of {clients} clients")
        total = told.get("total")
        if not (isinstance(total, np.ndarray) and total.dtype == np.uint8):
            raise FedmedError("aggregation: asked to read a sum, and told none")
        sums = self.scheme.decrypt(
            kept[len(heading) :], total.tobytes(), size=size, width=width, clients=clients
        )
        return {"sums": sums.astype(np.int32)}


@dataclass(frozen=True, kw_only=True)
class PaillierSum(Encrypted):
    """Under Paillier's cryptosystem; see :class:`fedmed.aggregation.paillier.Paillier`."""

    key_bits: int
    blinding: Literal["djn", "full"]

    @property
    def scheme(self) -> HomomorphicScheme:
        """The scheme."""
        return _scheme(Paillier, self.key_bits, self.blinding)


@dataclass(frozen=True, kw_only=True)
class BFVSum(Encrypted):
    """Under BFV, over a lattice; see :class:`fedmed.aggregation.lattice.BFV`."""

    poly_modulus_degree: Bits
    coeff_mod_bit_sizes: tuple[Bits, ...]
    plain_bits: Bits

    @property
    def scheme(self) -> HomomorphicScheme:
        """The scheme."""
        sizes = tuple(self.coeff_mod_bit_sizes)
        return _scheme(BFV, self.poly_modulus_degree, sizes, self.plain_bits)


@dataclass(frozen=True, kw_only=True)
class CKKSSum(Encrypted):
    """Under CKKS, over a lattice; see :class:`fedmed.aggregation.lattice.CKKS`."""

    poly_modulus_degree: Bits
    coeff_mod_bit_sizes: tuple[Bits, ...]
    scale_bits: Bits

    @property
    def scheme(self) -> HomomorphicScheme:
        """The scheme."""
        sizes = tuple(self.coeff_mod_bit_sizes)
        return _scheme(CKKS, self.poly_modulus_degree, sizes, self.scale_bits)


class _Server(Collector):
    """The server's end, which has the public key and adds."""

    def __init__(
        self, scheme: HomomorphicScheme, holder: int, session: Session, size: int, width: int
    ) -> None:
        self._scheme = scheme
        self._holder = holder
        self._session = session
        self._size = size
        self._width = width
        self._key: dict[str, Any] = {}
        self._total: bytes | None = None
        self._added = 0

    def prepare(self, ask: Ask) -> Mapping[int, Fields]:
        """Have the holder make a key, and return it for each member."""

        def take(client: int, answer: Fields) -> None:
            public, signature = answer.get("public"), answer.get("signature")
            if not (isinstance(public, bytes) and isinstance(signature, str)):
                raise FedmedError("no public key")
            self._key = {"public": public, "signature": signature}

        ask("generate", {self._holder: {}}, take)
        if not self._key:
            raise TooFew(self._without("made none"))
        return dict.fromkeys(self._session.members, self._key)

    def add(self, client: int, payload: Payload) -> None:
        """Add an encrypted vector."""
        if payload.dtype != np.uint8:
            raise FedmedError(f"a payload of {payload.dtype}, where bytes are due")
        self._total = self._scheme.add(
            self._key["public"],
            self._total,
            payload.tobytes(),
            size=self._size,
            width=self._width,
        )
        self._added += 1

    def open(self, ask: Ask) -> Integers:
        """Have the holder read the sum."""
        if self._total is None or self._added < FEWEST:
            raise TooFew(f"aggregation: a sum of {self._added} hides nobody; {FEWEST} are needed")
        found: list[Integers] = []

        def take(client: int, answer: Fields) -> None:
            sums = answer.get("sums")
            if not isinstance(sums, np.ndarray) or sums.dtype != np.int32:
                raise FedmedError("no sums")
            if sums.shape != (self._size,):
                raise FedmedError(f"{sums.shape} sums, where {self._size} are due")
            found.append(sums)

        told = {"size": self._size, "width": self._width, "clients": self._added}
        total = np.frombuffer(self._total, np.uint8)
        ask("read", {self._holder: {**told, "total": total}}, take)
        if not found:
            raise TooFew(self._without("has not read the sum"))
        return found[0]

    def _without(self, what: str) -> str:
        return (
            f"round {self._session.round}: aggregation: client {self._holder}, which holds the "
            f"key, {what}; what the last checkpoint holds is safe"
        )


def _number(told: Fields, key: str) -> int:
    value = told.get(key)
    if type(value) is not int or value < 1:
        raise FedmedError(f"aggregation: {value!r} is told as {key}")
    return value


def _stated(session: Session, public: bytes) -> dict[str, Any]:
    """Return what the holder signs: that a key is its own, of this attempt, for these members."""
    return {
        "by": HOSPITAL,
        "encrypted": "key",
        "run": session.run,
        "round": session.round,
        "attempt": session.attempt.hex(),
        "members": list(session.members),
        "key": fingerprint(public).hex(),
    }


def _heading(session: Session) -> bytes:
    """Return what stands before a kept key: whose sum it may open."""
    return session.attempt + hashlib.sha256(repr(session.members).encode()).digest()


@lru_cache
def _scheme(kind: type[HomomorphicScheme], *parameters: Any) -> HomomorphicScheme:
    return kind(*parameters)
