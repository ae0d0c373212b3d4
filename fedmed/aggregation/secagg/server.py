"""The server's side of an attempt: it routes, adds, and takes the masks off the sum."""

from collections.abc import Container, Iterator, Mapping
from itertools import combinations, islice
from typing import Literal

import numpy as np

from fedmed.aggregation.secagg import masks, shamir
from fedmed.aggregation.secagg.attempt import Attempt, Cohort, check_signed, point
from fedmed.aggregation.secagg.keys import (
    ANNOUNCEMENT_BYTES,
    Announced,
    check_public,
    commitment,
    pair_mask_key,
    public_of,
    seed_mask_key,
)
from fedmed.aggregation.secagg.messages import (
    SEALED_BYTES,
    SIGNATURE_BYTES,
    VIEW_BYTES,
    Outgoing,
    SecAggError,
    blaming,
    read_blob,
    read_blobs,
    read_fields,
    read_numbers,
)

TRIES = 256  # ways to leave shares out, where not all are of one polynomial

Step = Literal["keys", "shares", "masked", "consent", "revealed", "done"]


class SecAggServer:
    """The server in one attempt.

    What it is told is added by ``add_...``, a client at a time and each client once; whoever sends
    nothing has dropped out. The next message to the clients closes a step. An error in what a
    client sent names it and changes nothing: the caller may go on without that client. An error of
    a step says that too few are left: the caller may try again, as another attempt.

    It holds two vectors at most: the sum, and the one that is added.

    Args:
        attempt: that is made.
        size: words in a vector.
        identities: the registered public key of each hospital by its number, 64 hexadecimal
            digits; what none of them signed is refused.
    """

    def __init__(
        self, attempt: Attempt, size: int, identities: Mapping[int, str] | None = None
    ) -> None:
        self._attempt = attempt
        self._identities = dict(identities or {})
        self._step: Step = "keys"
        self._announcements: dict[int, tuple[bytes, bytes]] = {}  # each with its signature
        self._keys: set[bytes] = set()
        self._sealed: dict[int, dict[int, bytes]] = {}  # by sender and recipient
        self._sum = np.zeros(size, np.uint32)
        self._survivors: list[int] = []
        self._consents: dict[int, bytes] = {}
        self._shares: dict[int, dict[int, bytes]] = {}  # by whose secret and whose point
        self._told: set[int] = set()
        #: Clients that revealed a share which does not fit the secret that the others gave back.
        self.misfits: set[int] = set()

    def add_keys(self, client: int, message: object) -> None:
        """Take a client's announcement; see :meth:`SecAggClient.keys`.

        Raises:
            SecAggError: if it comes out of turn or twice, or is not as it is sent, or
                is not signed by its hospital, or holds a key that was announced before, or none.
        """
        self._during("keys")
        sender = f"client {client}"
        fields = read_fields(message, sender, "announcement", "signature")
        announcement = read_blob(fields, sender, "announcement", ANNOUNCEMENT_BYTES)
        signature = read_blob(fields, sender, "signature", 0, SIGNATURE_BYTES)
        self._once(client, self._announcements)
        stated = self._attempt.keys_stated(client, announcement)
        check_signed(self._identities, client, signature, stated)
        announced = Announced.read(announcement)
        with blaming(client):
            check_public(announced.cipher)
            check_public(announced.mask)
        if not self._keys.isdisjoint(announced) or len(set(announced)) != len(announced):
            raise SecAggError(f"{sender}: announces a key that was announced before")
        self._keys.update(announced)
        self._announcements[client] = announcement, signature

    def roster(self) -> Outgoing:
        """Return what all clients who announced are sent: the cohort.

        Raises:
            SecAggError: if they are too few.
        """
        self._close("keys", "shares")
        members = sorted(self._announcements)
        self._cohort = Cohort(self._attempt, {one: self._announcements[one][0] for one in members})
        return {
            "members": members,
            "announcements": [self._announcements[one][0] for one in members],
            "signatures": [self._announcements[one][1] for one in members],
        }

    def add_shares(self, client: int, message: object) -> None:
        """Take what a client sealed for its neighbours; see :meth:`SecAggClient.shares`.

        Raises:
            SecAggError: if it comes out of turn or twice, or is not as it is sent, or
                is for others than its neighbours.
        """
        self._during("shares")
        sender = f"client {client}"
        self._known(client, self._cohort.members)
        fields = read_fields(message, sender, "to", "sealed")
        to = read_numbers(fields, sender, "to")
        if to != self._cohort.neighbours[client]:
            raise SecAggError(f"{sender}: sealed shares for others than its neighbours")
        sealed = read_blobs(fields, sender, "sealed", len(to), SEALED_BYTES)
        self._once(client, self._sealed)
        self._sealed[client] = dict(zip(to, sealed, strict=True))

    def inboxes(self) -> dict[int, Outgoing]:
        """Return what each client who sent shares is sent: those of its neighbours.

        Raises:
            SecAggError: if they are too few.
        """
        self._close("shares", "masked")
        sharers = self._sharers
        self._enough(len(sharers), "sent shares")
        return {
            one: {
                "sharers": sharers,
                "sealed": [
                    self._sealed[peer][one]
                    for peer in self._cohort.neighbours[one]
                    if peer in self._sealed
                ],
            }
            for one in sharers
        }

    def add_masked(self, client: int, message: object, words: masks.Words) -> None:
        """Add a client's masked vector to the sum; see :meth:`SecAggClient.mask`.

        Raises:
            SecAggError: if it comes out of turn or twice, or is not as it is sent, or
                masks with others than it should, or is no such vector.
        """
        self._during("masked")
        sender = f"client {client}"
        self._known(client, self._sharers)
        fields = read_fields(message, sender, "view")
        if read_blob(fields, sender, "view", VIEW_BYTES).hex() != self._cohort.view(self._sharers):
            raise SecAggError(f"{sender}: masked with others than it was sent shares of")
        if not masks.is_words(words) or words.shape != self._sum.shape:
            raise SecAggError(f"{sender}: sent no vector of {self._sum.size} 32-bit words")
        self._once(client, self._survivors)
        self._survivors = sorted([*self._survivors, client])
        np.add(self._sum, words, out=self._sum)

    def survivors(self) -> Outgoing:
        """Return what all clients whose vectors were added are sent: their list.

        Raises:
            SecAggError: if they are too few.
        """
        self._close("masked", "consent")
        self._enough(len(self._survivors), "sent vectors")
        return {"survivors": self._survivors}

    def add_consent(self, client: int, message: object) -> None:
        """Take a client's consent to the list; see :meth:`SecAggClient.consent`.

        Raises:
            SecAggError: if it comes out of turn or twice, or is not as it is sent, or
                is not signed by its hospital, or is to another list.
        """
        self._during("consent")
        sender = f"client {client}"
        self._known(client, self._survivors)
        fields = read_fields(message, sender, "signature")
        signature = read_blob(fields, sender, "signature", 0, SIGNATURE_BYTES)
        self._once(client, self._consents)
        view = self._cohort.view(self._sharers)
        stated = self._cohort.consent_stated(client, view, self._survivors)
        check_signed(self._identities, client, signature, stated)
        self._consents[client] = signature

    def consents(self) -> Outgoing:
        """Return what all who consented are sent: the consents.

        Raises:
            SecAggError: if they are too few.
        """
        self._close("consent", "revealed")
        self._enough(len(self._consents), "consented")
        signers = sorted(self._consents)
        return {"signers": signers, "signatures": [self._consents[one] for one in signers]}

    def add_revealed(self, client: int, message: object) -> None:
        """Take the shares that a client reveals; see :meth:`SecAggClient.reveal`.

        Raises:
            SecAggError: if it comes out of turn or twice, or is not as it is sent, or
                is of others than its neighbours who sent shares.
        """
        self._during("revealed")
        sender = f"client {client}"
        self._known(client, sorted(self._consents))
        fields = read_fields(message, sender, "of", "shares")
        of = read_numbers(fields, sender, "of")
        if set(of) != {client, *self._cohort.neighbours[client]} & self._sealed.keys():
            raise SecAggError(f"{sender}: reveals shares of others than it has")
        shares = read_blobs(fields, sender, "shares", len(of), shamir.SHARE_BYTES)
        if not all(map(shamir.is_share, shares)):
            raise SecAggError(f"{sender}: reveals what is no share")
        self._once(client, self._told)
        self._told.add(client)
        for one, share in zip(of, shares, strict=True):
            self._shares.setdefault(one, {})[point(client)] = share

    def unmask(self) -> masks.Words:
        """Return the sum of the survivors' vectors, modulo 2^32.

        Every secret that is put together is held against what its owner announced, so that a sum is
        right as long as the survivors masked what they say.

        Raises:
            SecAggError: if too few shares were revealed of a client, or they give another secret.
        """
        self._close("revealed", "done")
        survivors = set(self._survivors)
        announced = self._cohort.announced
        secrets = {one: self._secret(one, one in survivors) for one in self._sharers}
        plus: list[bytes] = []
        minus: list[bytes] = []
        for one in self._sharers:
            if one in survivors:
                minus.append(seed_mask_key(secrets[one]))
                continue
            for peer in survivors.intersection(self._cohort.neighbours[one]):
                key = pair_mask_key(secrets[one], announced[peer].mask, self._cohort.transcript)
                (minus if one > peer else plus).append(key)
        masks.apply(self._sum, plus, minus)
        return self._sum

    def _secret(self, client: int, survives: bool) -> bytes:
        """Return a client's seed, or the key of one that dropped out."""
        needed = self._cohort.share_threshold
        shares = self._shares.get(client, {})
        if len(shares) < needed:
            raise SecAggError(
                f"client {client}: {len(shares)} shares are too few to take its mask off, "
                f"{needed} are needed"
            )
        announced = self._cohort.announced[client]
        for some in _choices(shares, needed):
            value = shamir.evaluate(some, 0)
            if value >= 2 ** (8 * shamir.SECRET_BYTES):
                continue
            secret = value.to_bytes(shamir.SECRET_BYTES, "big")
            if survives:
                fits = commitment(secret) == announced.seed
            else:
                fits = public_of(secret) == announced.mask
            if fits:
                self.misfits |= {
                    place - 1
                    for place in shares.keys() - some.keys()
                    if shamir.evaluate(some, place) != int.from_bytes(shares[place], "big")
                }
                return secret
        raise SecAggError(
            f"client {client}: its shares do not give the secret that it announced; it dealt wrong "
            "ones, or others reveal wrong ones"
        )

    @property
    def _sharers(self) -> list[int]:
        return sorted(self._sealed)

    def _during(self, step: Step) -> None:
        if self._step != step:
            raise SecAggError(f"the server takes {self._step}, not {step}")

    def _close(self, step: Step, following: Step) -> None:
        self._during(step)
        self._step = following

    def _enough(self, there: int, what: str) -> None:
        if there < self._cohort.threshold:
            raise SecAggError(
                f"{there} clients {what}, of {len(self._cohort.members)}: "
                f"{self._cohort.threshold} must"
            )

    @staticmethod
    def _known(client: int, among: list[int]) -> None:
        if client not in among:
            raise SecAggError(f"client {client}: is not among those who are asked")

    @staticmethod
    def _once(client: int, there: Container[int]) -> None:
        if client in there:
            raise SecAggError(f"client {client}: has answered this step before")


def _choices(shares: Mapping[int, bytes], needed: int) -> Iterator[dict[int, bytes]]:
    """Yield choices of as many shares as are needed: with none left out, then one, then two."""
    points = sorted(shares)
    for out in range(min(2, len(points) - needed) + 1):
        for left in islice(combinations(points, out), TRIES):
            kept = [at for at in points if at not in left]
            yield {at: shares[at] for at in kept[:needed]}
