"""A noisy release, and who makes one."""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from fedmed.core.units import Relation, named


@dataclass(frozen=True)
class Event:
    """One or several like releases of a round.

    Attributes:
        round: the round of the releases; 0 before the first.
        unit: the name of what is protected, of :data:`fedmed.core.units.UNITS`: whose presence is
            hidden, or what a patient's images show (``content``) or show in a few pixels
            (``detail``), the patient's presence and labels being known.
        noise_multiplier: scale of the noise over the sensitivity: its standard deviation for the
            Gaussian mechanism, Laplace's b, and 1/ε for the exponential mechanism.
        rate: probability with which each unit is drawn.
        sampling: how units are drawn; at rate 1 all of them are.
        mechanism: which the noise is of.
        neighbouring: what two data sets that are compared differ in: whether one unit counts or
            counts for nothing, how many there are being known (``zero-out-one``: rates, steps and
            divisors follow from that number), or which data a unit has (``replace-one``).
        client: whose units they are; None where one release concerns all clients alike.
        steps: how many releases, each with a draw and noise of its own.
        attempt: counts how often the round was begun anew with noise that does not repeat.

    Raises:
        ConfigError: if there is no such unit.
    """

    round: int
    unit: str
    noise_multiplier: float
    rate: float
    sampling: Literal["poisson"] = "poisson"
    mechanism: Literal["gaussian", "laplace", "exponential"] = "gaussian"
    neighbouring: Relation = "zero-out-one"
    client: int | None = None
    steps: int = 1
    attempt: int = 0

    def __post_init__(self) -> None:
        named(self.unit)


@runtime_checkable
class PrivateStrategy(Protocol):
    """A strategy whose aggregate is a differentially private release.

    The config that ``configure_train`` is given holds a hash of the run's configuration and its
    clients' sizes, under ``federation.messages.RELEASE``, to key what is random there. It need
    not travel on.

    Attributes:
        delta: of (ε, δ).
        secure_noise: whether its noise comes from the operating system.
    """

    delta: float
    secure_noise: bool

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What its guarantee rests on, a sentence each."""

    def privacy_events(self, server_round: int) -> list[Event]:
        """Return what ``aggregate_train`` releases in a round that has been configured."""
