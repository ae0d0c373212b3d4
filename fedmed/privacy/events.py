"""A noisy release, and who makes one."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from fedmed.config import Component
from fedmed.core.errors import ConfigError
from fedmed.core.units import Relation, named

if TYPE_CHECKING:
    from flwr.serverapp.strategy import Strategy


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
        secret_cohort: whether the guarantee rests on nobody but the server knowing who joined a
            round: then nothing is shown that tells how many did.
    """

    delta: float

    @property
    def secure_noise(self) -> bool:  # noqa: D102 (a property, so that a class may compute it)
        ...

    @property
    def secret_cohort(self) -> bool:  # noqa: D102
        ...

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What its guarantee rests on, a sentence each."""

    def privacy_events(self, server_round: int) -> list[Event]:
        """Return what ``aggregate_train`` releases in a round that has been configured."""


#: By which a private strategy is known, and what it has beside.
_SIGN, _SAYS = "privacy_events", ("assumptions", "delta", "secret_cohort", "secure_noise")


def private(strategy: "Strategy") -> PrivateStrategy | None:
    """Return a strategy as a private one, None if its aggregate is no private release.

    Raises:
        ConfigError: if it has ``privacy_events``, and not all else that :class:`PrivateStrategy`
            names: its releases would be accounted for by guesses.
    """
    if not hasattr(strategy, _SIGN):
        return None
    if lacking := [name for name in _SAYS if not hasattr(strategy, name)]:
        raise ConfigError(
            f"strategy.server: {type(strategy).__name__} has {_SIGN} and no {', '.join(lacking)}; "
            "fedmed.privacy.PrivateStrategy names all that a private strategy says of itself"
        )
    assert isinstance(strategy, PrivateStrategy)
    return strategy


def private_of(server: Component) -> PrivateStrategy | None:
    """Return the private strategy that a configuration names (``strategy.server``), if it is one.

    Any other is not built: it may need what only the server has. Raises as :func:`private` does.
    """
    return private(server.build()) if server.has(_SIGN) else None
