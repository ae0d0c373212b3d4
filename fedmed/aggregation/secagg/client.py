"""The client's side of an attempt."""

from collections.abc import Mapping
from typing import Any, Protocol

from fedmed.aggregation.secagg import masks, shamir
from fedmed.aggregation.secagg.attempt import (
    FEWEST,
    Attempt,
    Cohort,
    check_signed,
    point,
)
from fedmed.aggregation.secagg.keys import (
    ANNOUNCEMENT_BYTES,
    Secrets,
    pair_mask_key,
    seal,
    seed_mask_key,
    unseal,
)
from fedmed.aggregation.secagg.messages import (
    SEALED_BYTES,
    SIGNATURE_BYTES,
    Outgoing,
    SecAggError,
    blaming,
    read_blobs,
    read_fields,
    read_numbers,
)
from fedmed.aggregation.secagg.state import ClientState, Step

_SERVER = "the server"


class Signs(Protocol):
    """Who signs for a hospital: :class:`fedmed.record.signatures.Signer`."""

    @property
    def public(self) -> str:
        """The public key, 64 hexadecimal digits."""

    def sign(self, statement: Mapping[str, Any]) -> str:
        """Return the signature of a statement, 128 hexadecimal digits."""


class SecAggClient:
    """A client in one attempt: five steps, each of which it does once.

    A step that refuses what came raises and leaves everything as it was. What a step returns is
    safe to send only after :meth:`to_bytes` is where it will be read again: whoever can have a
    client go on from an older state can have two lists of survivors answered.

    Without ``identities`` a server that cheats is not stopped: it can put its own keys in place of
    other clients', and open what this one masks.

    Args:
        attempt: that this client takes part in.
        number: of the client, as all know it.
        fewest: the smallest cohort that this client takes part in, at least 3.
        signer: of the hospital's record key.
        identities: the registered public key of each hospital by its number, 64 hexadecimal
            digits; what none of them signed is refused.

    Raises:
        SecAggError: if there are identities, and the signer is not the one registered for this
            client, or two clients have one key.
    """

    def __init__(
        self,
        attempt: Attempt,
        number: int,
        fewest: int = FEWEST,
        signer: Signs | None = None,
        identities: Mapping[int, str] | None = None,
    ) -> None:
        self._begin(
            ClientState(
                attempt=attempt,
                number=number,
                fewest=max(fewest, FEWEST),
                identities=dict(identities or {}),
                secrets=Secrets.make(),
            ),
            signer,
        )

    def _begin(self, state: ClientState, signer: Signs | None) -> None:
        registered = state.identities.get(state.number, "")
        if state.identities and (signer is None or signer.public != registered):
            raise SecAggError(f"client {state.number}: signs with no key that is registered for it")
        if len(set(state.identities.values())) != len(state.identities):
            raise SecAggError("a key is registered for two clients, which could sign as one")
        self._state, self._signer = state, signer

    def to_bytes(self) -> bytes:
        """Return the state, with the secrets in it, from which any process can go on."""
        return self._state.to_bytes()

    @classmethod
    def from_bytes(cls, state: bytes, signer: Signs | None = None) -> "SecAggClient":
        """Go on from a state.

        Args:
            state: as :meth:`to_bytes` returned it.
            signer: as it was given first.

        Raises:
            SecAggError: if it is no such state, or of another version, or the signer is not the
                one registered.
        """
        client = cls.__new__(cls)
        client._begin(ClientState.from_bytes(state), signer)
        return client

    @property
    def attempt(self) -> Attempt:
        """The attempt that this client takes part in."""
        return self._state.attempt

    @property
    def step(self) -> Step:
        """The step that comes next, ``done`` after the last."""
        return self._state.step

    def keys(self) -> Outgoing:
        """Announce this attempt's keys.

        Returns:
            ``announcement``, 96 bytes, and ``signature``, 64 or none.

        Raises:
            SecAggError: if it is not this step's turn.
        """
        state = self._turn("keys")
        announcement = state.secrets.announced()
        self._advance("shares")
        stated = state.attempt.keys_stated(state.number, announcement)
        return {"announcement": announcement, "signature": self._signed(stated)}

    def shares(self, message: object) -> Outgoing:
        """Share this client's secrets among its neighbours.

        Args:
            message: the cohort: ``members``, their ``announcements`` and ``signatures``.

        Returns:
            ``to``, the neighbours, and what is ``sealed`` for each.

        Raises:
            SecAggError: if it is not this step's turn, or the cohort is too small, or lacks this
                client or has other keys for it, or a key is there twice or no key, or unsigned.
        """
        state = self._turn("shares")
        fields = read_fields(message, _SERVER, "members", "announcements", "signatures")
        members = read_numbers(fields, _SERVER, "members")
        announcements = dict(
            zip(
                members,
                read_blobs(fields, _SERVER, "announcements", len(members), ANNOUNCEMENT_BYTES),
                strict=True,
            )
        )
        signatures = read_blobs(fields, _SERVER, "signatures", len(members), 0, SIGNATURE_BYTES)
        if announcements.get(state.number) != state.secrets.announced():
            raise SecAggError(
                f"client {state.number}: its own keys are not those that it announced"
            )
        if len(members) < state.fewest:
            raise SecAggError(
                f"a cohort of {len(members)}: client {state.number} takes part in none below "
                f"{state.fewest}"
            )
        for one, signature in zip(members, signatures, strict=True):
            stated = state.attempt.keys_stated(one, announcements[one])
            check_signed(state.identities, one, signature, stated)
        cohort = Cohort(state.attempt, announcements)
        to = cohort.neighbours[state.number]
        points = [point(one) for one in (state.number, *to)]
        seeds = shamir.split(state.secrets.seed, cohort.share_threshold, points)
        keys = shamir.split(state.secrets.mask, cohort.share_threshold, points)
        letters = {one: seeds[point(one)] + keys[point(one)] for one in (state.number, *to)}
        sealed = []
        for one in to:
            public, label = cohort.announced[one].cipher, cohort.letter(state.number, one)
            with blaming(one):
                sealed.append(seal(letters[one], state.secrets.cipher, public, label))
        self._advance(
            "mask", announcements=announcements, letters={state.number: letters[state.number]}
        )
        return {"to": to, "sealed": sealed}

    def mask(self, message: object, words: masks.Words) -> Outgoing:
        """Mask a vector, in place.

        Args:
            message: ``sharers``, the members who sent shares, and of the neighbours among them,
                in that order, what they ``sealed`` for this client.
            words: the vector, of one dimension; if this raises it is as it was.

        Returns:
            ``view``, the hash of whom this client took to take part.

        Raises:
            SecAggError: if it is not this step's turn, or too few sent shares, or some are not as
                they were sealed, or these are no words.
        """
        state = self._turn("mask")
        cohort = self._cohort()
        fields = read_fields(message, _SERVER, "sharers", "sealed")
        sharers = read_numbers(fields, _SERVER, "sharers")
        self._check_listed(sharers, cohort, cohort.members, "sharers")
        peers = [one for one in cohort.neighbours[state.number] if one in set(sharers)]
        sealed = read_blobs(fields, _SERVER, "sealed", len(peers), SEALED_BYTES)
        letters, keys = dict(state.letters), {}
        for one, letter in zip(peers, sealed, strict=True):
            announced, label = cohort.announced[one], cohort.letter(one, state.number)
            with blaming(one):
                letters[one] = unseal(letter, state.secrets.cipher, announced.cipher, label)
                keys[one] = pair_mask_key(state.secrets.mask, announced.mask, cohort.transcript)
            if not all(map(shamir.is_share, _halves(letters[one]))):
                raise SecAggError(f"client {one}: sealed what is no share")
        if len(letters) < cohort.share_threshold:
            raise SecAggError(
                f"client {state.number}: shares of {len(peers)} neighbours are too few to go on"
            )
        if not masks.is_words(words):
            raise SecAggError("what is masked is no contiguous vector of 32-bit words")
        masks.apply(
            words,
            [
                seed_mask_key(state.secrets.seed),
                *(keys[one] for one in peers if one > state.number),
            ],
            [keys[one] for one in peers if one < state.number],
        )
        self._advance("consent", sharers=sharers, letters=letters)
        return {"view": bytes.fromhex(cohort.view(sharers))}

    def consent(self, message: object) -> Outgoing:
        """Take note of whose masked vectors the server has, once and for all.

        Args:
            message: ``survivors``, their numbers.

        Returns:
            ``signature``, that this client has heard of these and will of no others, 64 bytes or
            none.

        Raises:
            SecAggError: if it is not this step's turn, or they are too few, or lack this client, or
                hold one that sent no shares.
        """
        state = self._turn("consent")
        cohort = self._cohort()
        fields = read_fields(message, _SERVER, "survivors")
        survivors = read_numbers(fields, _SERVER, "survivors")
        self._check_listed(survivors, cohort, state.sharers, "survivors")
        if len(state.letters.keys() & set(survivors)) < cohort.share_threshold:
            raise SecAggError(
                f"client {state.number}: too few of its neighbours survive to give back its mask"
            )
        self._advance("reveal", survivors=survivors)
        stated = cohort.consent_stated(state.number, cohort.view(state.sharers), survivors)
        return {"signature": self._signed(stated)}

    def reveal(self, message: object) -> Outgoing:
        """Tell the shares by which the server takes the masks off the sum of the survivors.

        Of a survivor that is the share of its seed, of a neighbour that dropped out the share of
        its key: never both of one.

        Args:
            message: ``signers``, the survivors who consented, and their ``signatures``.

        Returns:
            ``of``, this client if it survives and its neighbours that sent shares, and the
            ``shares``.

        Raises:
            SecAggError: if it is not this step's turn, or fewer than the threshold consented to the
                list that this client has heard of.
        """
        state = self._turn("reveal")
        cohort = self._cohort()
        fields = read_fields(message, _SERVER, "signers", "signatures")
        signers = read_numbers(fields, _SERVER, "signers")
        signatures = read_blobs(fields, _SERVER, "signatures", len(signers), 0, SIGNATURE_BYTES)
        self._check_listed(signers, cohort, state.survivors, "signers", itself=False)
        view = cohort.view(state.sharers)
        for one, signature in zip(signers, signatures, strict=True):
            stated = cohort.consent_stated(one, view, state.survivors)
            check_signed(state.identities, one, signature, stated)
        shares = []
        for one, letter in sorted(state.letters.items()):
            seed, key = _halves(letter)
            shares.append(seed if one in state.survivors else key)
        self._advance("done")
        return {"of": sorted(state.letters), "shares": shares}

    def _turn(self, step: Step) -> ClientState:
        if self._state.step != step:
            raise SecAggError(
                f"client {self._state.number}: asked for {step} when {self._state.step} is next; "
                "each step is done once"
            )
        return self._state

    def _advance(self, step: Step, **known: Any) -> None:
        self._state = self._state.model_copy(update={"step": step, **known})

    def _cohort(self) -> Cohort:
        return Cohort(self._state.attempt, self._state.announcements)

    def _check_listed(
        self, listed: list[int], cohort: Cohort, among: list[int], what: str, itself: bool = True
    ) -> None:
        if not set(listed) <= set(among):
            raise SecAggError(f"{_SERVER}: {what} holds a client that it cannot")
        if itself and self._state.number not in listed:
            raise SecAggError(f"{_SERVER}: {what} lacks client {self._state.number}, who is asked")
        if len(listed) < cohort.threshold:
            raise SecAggError(f"{_SERVER}: {len(listed)} {what}, and {cohort.threshold} must stay")

    def _signed(self, statement: Mapping[str, Any]) -> bytes:
        return bytes.fromhex(self._signer.sign(statement)) if self._signer else b""


def _halves(letter: bytes) -> tuple[bytes, bytes]:
    return letter[: shamir.SHARE_BYTES], letter[shamir.SHARE_BYTES :]
