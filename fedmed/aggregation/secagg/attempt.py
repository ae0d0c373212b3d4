"""What all parties of an attempt have in common, and the statements that clients sign over it."""

import hashlib
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from fedmed.aggregation.secagg.graph import Plan, neighbours, plan
from fedmed.aggregation.secagg.keys import Announced
from fedmed.aggregation.secagg.messages import SecAggError
from fedmed.core.jsontext import canonical
from fedmed.record.signatures import HOSPITAL, holds

FEWEST = 3  # of two, each knows the other's from the sum


class Attempt(BaseModel):
    """One attempt at one round's sum: what goes wrong is tried again as another, with other keys.

    Attributes:
        run: the run's hash.
        round: from 1.
        attempt: what the server has drawn for this attempt alone.
        threshold: t, how many clients must stay; None is more than two thirds of the cohort.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    run: str
    round: int = Field(ge=0)
    attempt: str
    threshold: int | None = Field(default=None, ge=1)

    def stated(self, step: str, client: int, what: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a hospital signs of a step; see :class:`fedmed.record.signatures.Signer`."""
        return {
            "by": HOSPITAL,
            "secagg": step,
            **self.model_dump(),
            "client": client,
            **what,
        }

    def keys_stated(self, client: int, announcement: bytes) -> dict[str, Any]:
        """Return the statement that an announcement is this client's, for this attempt."""
        return self.stated("keys", client, {"announcement": announcement.hex()})


class Cohort:
    """Those who take part, with what each has announced: the same for the server and all clients.

    Args:
        attempt: they are of.
        announcements: each member's, 96 bytes, see :class:`.keys.Announced`.

    Raises:
        SecAggError: if they are fewer than three, or two have a key in common, or the attempt's
            threshold is no majority of them.
    """

    def __init__(self, attempt: Attempt, announcements: Mapping[int, bytes]) -> None:
        self.attempt = attempt
        self.members = sorted(announcements)
        self.announced = {one: Announced.read(announcements[one]) for one in self.members}
        if len(self.members) < FEWEST:
            raise SecAggError(f"a cohort of {len(self.members)}: secure aggregation takes three")
        keys = [key for announced in self.announced.values() for key in announced]
        if len(set(keys)) != len(keys):
            raise SecAggError("a key is announced twice")
        size = len(self.members)
        self.threshold = attempt.threshold or 2 * size // 3 + 1
        if not size < 2 * self.threshold <= 2 * size:
            raise SecAggError(
                f"a threshold of {self.threshold} for {size} clients: it is more than half of "
                "them, and at most all"
            )
        stated = [[one, announcements[one].hex()] for one in self.members]
        self.transcript = _hash({**attempt.model_dump(), "cohort": stated})

    @cached_property
    def neighbours(self) -> dict[int, list[int]]:
        """Whom each member masks with, ascending."""
        return neighbours(self.members, self._plan.degree, self.transcript)

    @property
    def share_threshold(self) -> int:
        """How many of a member and its neighbours put its secrets together."""
        return self._plan.threshold

    @property
    def _plan(self) -> Plan:
        return plan(len(self.members), self.threshold)

    def letter(self, sender: int, recipient: int) -> bytes:
        """Return what a sealed letter is bound to."""
        return f"{self.transcript} {sender} {recipient}".encode()

    def view(self, sharers: list[int]) -> str:
        """Return the hash of all that a client masks by: the cohort and those who sent shares."""
        return _hash({"transcript": self.transcript, "sharers": sharers})

    def consent_stated(self, client: int, view: str, survivors: list[int]) -> dict[str, Any]:
        """Return the statement that a client knows these survivors, and will know no others."""
        return self.attempt.stated("consent", client, {"view": view, "survivors": survivors})


def check_signed(
    identities: Mapping[int, str], client: int, signature: bytes, statement: Mapping[str, Any]
) -> None:
    """Refuse what a client's hospital has not signed, where hospitals are registered.

    Args:
        identities: the registered public keys, 64 hexadecimal digits each; none registers nobody.
        client: who is said to have signed.
        signature: 64 bytes, or none.
        statement: what is said to be signed.

    Raises:
        SecAggError: if it is not.
    """
    if identities and not holds(identities.get(client, ""), signature.hex(), statement):
        raise SecAggError(f"client {client}: bears no signature of its hospital's")


def point(client: int) -> int:
    """Return where a client's shares stand on the polynomials: 0 is the secret's place."""
    return client + 1


def _hash(tree: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(dict(tree))).hexdigest()
