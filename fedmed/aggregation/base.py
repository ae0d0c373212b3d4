"""What an aggregation is: both ends of the way on which the clients' integers become their sum.

Server and clients each build it, from the same arguments. Messages are carried by others: what one
end tells the other in a step is a mapping of names to numbers, words and bytes.
"""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedmed.aggregation.codec import WORD, Integers
from fedmed.core.errors import FedmedError
from fedmed.record.signatures import Signer

#: What one party tells another in a step: numbers, words, bytes, lists of them, and arrays.
Fields = Mapping[str, Any]
#: Takes what a client has answered; raises FedmedError if it is not what it had to be.
Take = Callable[[int, Fields], object]
#: Has clients answer a step, by its name and client → what each is told, and takes their answers.
#: Whose answer fails, or is not taken, is at fault; that it is less one is seen by who asked.
Ask = Callable[[str, Mapping[int, Fields], Take], None]
#: What travels in place of a client's arrays: bytes of a cipher, or words.
Payload = NDArray[np.uint8] | NDArray[np.uint32] | NDArray[np.int32]

FEWEST = 3  # vectors in a sum that is to hide each: of two, one's owner knows the other


class TooFew(FedmedError):
    """Fewer clients than a sum needs that hides each of them."""


@dataclass(frozen=True)
class Session:
    """One attempt at the sum of one round: what both ends know of it.

    Attributes:
        run: the hash of the run's task.
        round: the round.
        attempt: told apart from each other attempt by it; random.
        members: the clients that are asked, in order.
        examples: of all members together, by which each finds its own weight; 0 where all weigh the
            same.
    """

    run: str
    round: int
    attempt: bytes
    members: tuple[int, ...]
    examples: int = 0

    @property
    def name(self) -> str:
        """What tells it apart, 64 hexadecimal digits, and all that members have to agree on.

        Were the members another list to each, or their weights, a server could have all but one
        weigh nothing.
        """
        members = ",".join(map(str, self.members))
        text = f"{self.attempt.hex()}:{members}:{self.examples}"
        return hashlib.sha256(text.encode()).hexdigest()

    def weight(self, examples: int) -> float:
        """Return the weight of a client, of which the mean over members is 1.

        Args:
            examples: of that client.

        Raises:
            FedmedError: if it has none, or more than all members are said to have together.
        """
        if not self.examples:
            return 1.0
        if not 0 < examples <= self.examples:
            raise FedmedError(
                f"aggregation: {self.examples} examples are told of all clients, of which this one "
                f"has {examples}"
            )
        return examples * len(self.members) / self.examples


class Vault(Protocol):
    """Where a client keeps the secrets of one session, of which nobody else may know."""

    def store(self, secret: bytes) -> None:
        """Keep bytes in place of what was kept, safe before this returns."""

    def load(self) -> bytes:
        """Return what is kept. Raises FedmedError if nothing is."""

    def clear(self) -> None:
        """Forget what is kept."""


@dataclass(frozen=True)
class Party:
    """Who a client is to the others.

    Attributes:
        client: its number.
        vault: where its secrets are.
        signer: signs in its hospital's name; None where hospitals are simulated.
        peers: client → the public key by which its hospital is known here, 64 hexadecimal digits;
            None likewise.
        fewest: members without which it takes no part.
    """

    client: int
    vault: Vault
    signer: Signer | None = None
    peers: Mapping[int, str] | None = None
    fewest: int = FEWEST


class Collector(ABC):
    """The server's end of one session."""

    @abstractmethod
    def prepare(self, ask: Ask) -> Mapping[int, Fields]:
        """Return client → what it is told with its order to train; who failed is not in it.

        Raises:
            TooFew: if they are too few to go on.
        """

    @abstractmethod
    def add(self, client: int, payload: Payload) -> None:
        """Take a client's payload into the sum.

        Raises:
            FedmedError: if it is none; the sum is as it was before.
        """

    @abstractmethod
    def open(self, ask: Ask) -> Integers:
        """Return the sum of all vectors that were added.

        Raises:
            TooFew: if they are too few, or too few help.
            FedmedError: if what they help with does not fit.
        """


class Aggregation:
    """How the server comes to the mean of the updates.

    Attributes:
        hides: whether it sees nothing of an update but its sum with others.
        assumptions: what that rests on, a sentence each.
    """

    hides: ClassVar[bool] = False
    assumptions: ClassVar[tuple[str, ...]] = ()


@dataclass(frozen=True)
class FloatingPoint(Aggregation):
    """Each update travels as it is, in floating point, and the server sees it."""


@dataclass(frozen=True, kw_only=True)
class IntegerSum(Aggregation, ABC):
    """Updates travel as integers, in one form or another, of which the server comes to the sum.

    Attributes:
        bits: of one client's value, in two's complement.
        range: the largest magnitude of a parameter's change, times the client's relative weight.
        statistics_range: the same of a norm statistic's.
        threshold: the share of a cohort that is not enough: more than it must survive a round.
    """

    bits: Annotated[int, Field(ge=2, le=WORD)]
    range: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    statistics_range: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    threshold: Annotated[float, Field(ge=0, lt=1)]

    def survivors(self, members: int) -> int:
        """Return how many of a cohort's members must survive a round."""
        return math.floor(self.threshold * members) + 1

    def check(self, members: int, width: int) -> None:
        """Refuse sums that could not be exact.

        Args:
            members: of a cohort.
            width: bits that their sum takes.

        Raises:
            ConfigError: naming the key.
        """

    @abstractmethod
    def collector(self, session: Session, size: int, width: int) -> Collector:
        """Return the server's end of a session.

        Args:
            session: the attempt.
            size: integers in a vector.
            width: bits that a sum of all members' integers takes, in two's complement.
        """

    def answer(self, session: Session, step: str, told: Fields, own: Party) -> Fields:
        """Return a client's part in a step before or after training.

        Raises:
            FedmedError: if there is no such step, or what is told does not fit.
        """
        raise FedmedError(f"aggregation: {type(self).__name__} has no step {step!r}")

    @abstractmethod
    def protect(
        self, session: Session, vector: Integers, width: int, told: Fields, own: Party
    ) -> Payload:
        """Return what travels in place of a client's vector.

        Args:
            session: as the client was told of it.
            vector: its integers.
            width: bits that a sum of all members' takes.
            told: with the order to train, by :meth:`Collector.prepare`.
            own: who the client is.

        Raises:
            FedmedError: if what is told does not fit.
        """
