"""Secure aggregation (:mod:`fedmed.aggregation.secagg`) over the steps of a round."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np

from fedmed.aggregation.base import (
    Ask,
    Collector,
    Fields,
    IntegerSum,
    Party,
    Payload,
    Session,
)
from fedmed.aggregation.codec import Integers
from fedmed.aggregation.fixed import words
from fedmed.aggregation.secagg import Attempt, SecAggClient, SecAggError, SecAggServer
from fedmed.aggregation.secagg.messages import Outgoing
from fedmed.core.errors import ConfigError, FedmedError

MAJORITY = 0.5  # the least threshold
VIEW = 8  # words behind a masked vector: the hash of whom it is masked with


@dataclass(frozen=True, kw_only=True)
class SecureAggregation(IntegerSum):
    """Vectors are masked so that the masks fall out of their sum (Bonawitz et al., CCS 2017).

    Keys are made anew for each attempt at a round, and a client does each step of one once.
    """

    hides: ClassVar[bool] = True
    assumptions: ClassVar[tuple[str, ...]] = (
        "the server sees sums of updates alone, by secure aggregation, as long as it keeps to the "
        "protocol and has not more than aggregation.threshold's share of the clients with it",
    )

    def __post_init__(self) -> None:
        """Refuse thresholds at which two halves of a cohort could each be a sum."""
        if self.threshold < MAJORITY:
            raise ConfigError(
                f"aggregation.threshold: secure aggregation takes {MAJORITY} or more, got "
                f"{self.threshold:g}: below, a server could have two lists of survivors answered"
            )

    def collector(self, session: Session, size: int, width: int) -> Collector:
        """Return the server's end of a session."""
        return _Server(self._attempt(session), session, size)

    def answer(self, session: Session, step: str, told: Fields, own: Party) -> Fields:
        """Return a client's part in a step; see :class:`SecAggClient`."""
        if own.client not in session.members:
            raise FedmedError("aggregation: this client is no member of the sum it is asked about")
        if step == "keys":
            client = self._begun(session, own)
            answer: Fields = client.keys()
        elif step in ("shares", "consent", "reveal"):
            client = self._opened(session, own)
            answer = getattr(client, step)(told)
        else:
            return super().answer(session, step, told, own)
        _keep(client, own)
        return answer

    def protect(
        self, session: Session, vector: Integers, width: int, told: Fields, own: Party
    ) -> Payload:
        """Return the masked vector, and behind it the hash of whom it is masked with."""
        client = self._opened(session, own)
        sent = np.empty(vector.size + VIEW, np.uint32)
        sent[:-VIEW] = vector.view(np.uint32)
        view = client.mask(told, sent[:-VIEW])
        _keep(client, own)
        sent[-VIEW:] = np.frombuffer(cast(bytes, view["view"]), np.uint32)
        return sent

    def _attempt(self, session: Session) -> Attempt:
        return Attempt(
            run=session.run,
            round=session.round,
            attempt=session.attempt.hex(),
            threshold=self.survivors(len(session.members)),
        )

    def _begun(self, session: Session, own: Party) -> SecAggClient:
        if own.peers is not None and not own.peers:
            raise FedmedError(
                "aggregation: this hospital's policy names no peers, so that the server could be "
                "each of them itself"
            )
        attempt = self._attempt(session)
        return SecAggClient(attempt, own.client, own.fewest, own.signer, own.peers)

    def _opened(self, session: Session, own: Party) -> SecAggClient:
        client = SecAggClient.from_bytes(own.vault.load(), own.signer)
        if client.attempt != self._attempt(session):
            raise SecAggError("asked for a part in another attempt than the one that was begun")
        return client


class _Server(Collector):
    """The steps of the server, in their order."""

    def __init__(self, attempt: Attempt, session: Session, size: int) -> None:
        self._session = session
        self._size = size
        self._server = SecAggServer(attempt, size)

    def prepare(self, ask: Ask) -> Mapping[int, Fields]:
        """Have the clients announce keys and share secrets; return what each masks by."""
        server = self._server
        ask("keys", {client: {} for client in self._session.members}, server.add_keys)
        roster = server.roster()
        ask("shares", _each(roster, "members"), server.add_shares)
        return server.inboxes()

    def add(self, client: int, payload: Payload) -> None:
        """Add a masked vector."""
        sent = words(payload, self._size + VIEW).view(np.uint32)
        self._server.add_masked(client, {"view": sent[self._size :].tobytes()}, sent[: self._size])

    def open(self, ask: Ask) -> Integers:
        """Have the survivors agree on who survives and help; return their sum."""
        server = self._server
        survivors = server.survivors()
        ask("consent", _each(survivors, "survivors"), server.add_consent)
        consents = server.consents()
        ask("reveal", _each(consents, "signers"), server.add_revealed)
        return server.unmask().view(np.int32)


def _keep(client: SecAggClient, own: Party) -> None:
    """Have it on the disk that a step is done before what it returns leaves."""
    if client.step == "done":
        own.vault.clear()
    else:
        own.vault.store(client.to_bytes())


def _each(message: Outgoing, listed: str) -> dict[int, Fields]:
    """Return a message for each client that it lists."""
    return dict.fromkeys(cast(list[int], message[listed]), message)
