"""The privacy of a run, decided once: whom it protects, by which mechanisms, and what it shows.

A run may protect in three places, each a unit of its own whose guarantees do not add up: the pixels
that training sees, the clients' training, and the strategy's aggregate. Where there is none of
them, that is a plan too, and whoever asks it finds nothing to account for.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import pandas as pd
from flwr.serverapp.strategy import Strategy

from fedmed.config import DPSGD, Config
from fedmed.core.units import Unit
from fedmed.data.store import Store
from fedmed.data.table import Dataset
from fedmed.privacy.assumptions import assumptions, caveats
from fedmed.privacy.budget import planned
from fedmed.privacy.disclosure import Disclosure
from fedmed.privacy.events import Event, PrivateStrategy, private
from fedmed.privacy.pixel_release import pixel_assumptions, pixel_releases

CLIENT = "client"  # the unit of a private aggregate


class Population(Protocol):
    """Whose data a run is made from, as far as its privacy asks."""

    @property
    def dataset(self) -> Dataset | None:
        """Where images come from; None where they are the hospitals' own."""

    @property
    def store(self) -> Store:
        """The images that could be read."""

    @property
    def assigned(self) -> pd.DataFrame:
        """Patient, client and role."""

    @property
    def clients(self) -> pd.DataFrame:
        """One row a client."""

    def units(self, unit: Unit) -> list[int]:
        """Return how many of a unit each client trains on."""


@dataclass(frozen=True)
class PrivacyPlan:
    """What a run promises, how it keeps it, and what it shows.

    How units are drawn, the noise in their sensitivity and the neighbouring relation stand in the
    events: accountant and mechanism go by the same ones.

    Attributes:
        deltas: δ of each protected unit's guarantee, by the unit's name; 0 where it is pure.
        protected: how many of each unit training protects.
        sizes: how many of the unit each client trains on: images where training is not private.
        released: what the pixels have released before the first round.
        training: what each client's training releases in a round, in the clients' order; none where
            training is not private.
        limit: ε at which a client stops, infinite if it does not.
        aggregate: the strategy, where its aggregate is a private release.
        repeatable: whether a round that is run again draws the same noise again.
        assumptions: what the guarantees rest on, a sentence each.
        disclosure: what may be seen beside them.
    """

    deltas: Mapping[str, float]
    protected: Mapping[str, int]
    sizes: tuple[int, ...]
    released: tuple[Event, ...]
    training: tuple[Event, ...]
    limit: float
    aggregate: PrivateStrategy | None
    repeatable: bool
    assumptions: tuple[str, ...]
    disclosure: Disclosure

    @property
    def caveats(self) -> tuple[str, ...]:
        """What a user must know before believing an ε, a sentence each."""
        return caveats(self.deltas, self.protected)

    def aggregated(self, round_: int) -> list[Event]:
        """Return what the strategy's aggregate releases in a round that has been configured."""
        return self.aggregate.privacy_events(round_) if self.aggregate else []


def privacy_plan(config: Config, strategy: Strategy, data: Population) -> PrivacyPlan:
    """Return the plan of a run.

    Args:
        config: of the run.
        strategy: of the run, as it was built.
        data: as they were divided and decoded.

    Raises:
        ConfigError: if the strategy does not say all that a private one has to.
    """
    training = config.privacy if isinstance(config.privacy, DPSGD) else None
    aggregate = private(strategy)
    sizes = data.units(config.unit)
    released: list[Event] = []
    said: tuple[str, ...] = ()
    if data.dataset:
        released = pixel_releases(data.dataset, data.store.table, data.assigned)
        said = pixel_assumptions(data.dataset, data.store.table["image"])
    deltas: dict[str, float] = {event.unit: 0.0 for event in released}  # Laplace: pure ε
    protected: dict[str, int] = {}
    if training:
        deltas[training.unit], protected[training.unit] = training.delta, sum(sizes)
    if aggregate:
        deltas[CLIENT] = aggregate.delta
        protected[CLIENT] = getattr(strategy, "nominal_clients", None) or len(data.clients)
    return PrivacyPlan(
        deltas=deltas,
        protected=protected,
        sizes=tuple(sizes),
        released=tuple(released),
        training=tuple(planned(config, sizes)) if training else (),
        limit=_limit(training),
        aggregate=aggregate,
        repeatable=not any(one.secure_noise for one in (training, aggregate) if one),
        assumptions=(*said, *assumptions(config, training, aggregate)),
        disclosure=Disclosure.of(config),
    )


def _limit(training: DPSGD | None) -> float:
    if training is None or training.epsilon is None or training.noise_for == "epochs":
        return math.inf
    return training.epsilon
