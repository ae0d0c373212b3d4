"""What a client keeps of an attempt between two steps."""

import hashlib
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from fedmed.aggregation.secagg.attempt import Attempt
from fedmed.aggregation.secagg.keys import Secrets
from fedmed.aggregation.secagg.messages import SecAggError

DIGEST_BYTES = 32

Step = Literal["keys", "shares", "mask", "consent", "reveal", "done"]


class ClientState(BaseModel):
    """All that a client knows of an attempt; each step adds to it.

    Attributes:
        version: of what is written.
        step: that comes next.
        attempt: that is made.
        number: of the client.
        fewest: the smallest cohort that it takes part in.
        identities: the registered public key of each hospital by its number.
        secrets: that the client made.
        announcements: of the cohort's members, each one's 96 bytes.
        sharers: the members who sent shares.
        letters: the client's own and those of its neighbours who sent one: the share of the
            sender's seed, then that of its mask key.
        survivors: that the client has consented to.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", ser_json_bytes="hex", val_json_bytes="hex"
    )

    version: Literal[1] = 1
    step: Step = "keys"
    attempt: Attempt
    number: int
    fewest: int
    identities: dict[int, str]
    secrets: Secrets
    announcements: dict[int, bytes] = {}
    sharers: list[int] = []
    letters: dict[int, bytes] = {}
    survivors: list[int] = []

    def to_bytes(self) -> bytes:
        """Return it with a hash before it, so that damage is told."""
        text = self.model_dump_json().encode()
        return hashlib.sha256(text).digest() + text

    @classmethod
    def from_bytes(cls, state: bytes) -> "ClientState":
        """Read what :meth:`to_bytes` returned.

        Raises:
            SecAggError: if it is not that, or is of another version.
        """
        digest, text = state[:DIGEST_BYTES], state[DIGEST_BYTES:]
        if hashlib.sha256(text).digest() != digest:
            raise SecAggError("the state of secure aggregation is not as it was written")
        try:
            return cls.model_validate_json(text)
        except ValidationError:
            raise SecAggError("the state of secure aggregation is of another version") from None
