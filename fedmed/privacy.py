"""The ledger: every noisy release of a run, and the privacy loss that they add up to.

An event is written before its noisy result is used, so a crash can only count too much. A round
that is run again with the same seeded noise is the same release and counts once.
"""

import json
import math
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import dp_accounting
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

from fedmed.trees import write_atomically

ACCOUNTANT = f"PLD (dp-accounting {version('dp-accounting')})"
_NEIGHBOURS = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
_ORDERS = [2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128, 256]  # integers: closed forms
ASSUMPTIONS = (
    "noise comes from the run's seed: whoever knows the seed can subtract it",
    "the number of clients and the expected cohort are public",
    "training losses, validation scores and test scores are released without noise",
)


@dataclass(frozen=True)
class Event:
    """One subsampled Gaussian release.

    Attributes:
        round: the round of the release.
        unit: whose presence is hidden.
        noise_multiplier: standard deviation of the noise over the sensitivity.
        sampling: how units are drawn.
        rate: probability with which each unit is drawn.
        mechanism, neighbouring: of the guarantee.
    """

    round: int
    unit: Literal["client"]
    noise_multiplier: float
    rate: float
    sampling: Literal["poisson"] = "poisson"
    mechanism: Literal["gaussian"] = "gaussian"
    neighbouring: Literal["add-or-remove-one"] = "add-or-remove-one"


@runtime_checkable
class PrivateStrategy(Protocol):
    """A strategy whose aggregate is a differentially private release."""

    delta: float

    def privacy_event(self, server_round: int) -> Event:
        """Return the release that ``aggregate_train`` makes in a round."""


@dataclass
class Ledger:
    """The releases of a run.

    Attributes:
        path: where the ledger is kept, at all times as complete as in memory.
        delta: of (ε, δ).
        events: the releases so far, by round.
    """

    path: Path
    delta: float
    events: list[Event] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path, delta: float) -> "Ledger":
        """Return the ledger kept at ``path``, or an empty one."""
        events = json.loads(path.read_text())["events"] if path.exists() else []
        return cls(path, delta, [Event(**event) for event in events])

    def record(self, event: Event) -> None:
        """Put the event on the disk; the same release again changes nothing."""
        if event not in self.events:
            self.events.append(event)
            content = {"delta": self.delta, "events": [asdict(e) for e in self.events]}
            content |= {"accountant": ACCOUNTANT, "assumptions": list(ASSUMPTIONS)}
            write_atomically(self.path, lambda new: new.write_text(json.dumps(content, indent=1)))

    def epsilon(self) -> float:
        """Return ε at the ledger's δ, infinite without noise."""
        return epsilon(self.events, self.delta)

    def statement(self) -> dict[str, Any]:
        """Return the guarantee in full: ε is nothing without its unit, δ and assumptions."""
        spent = self.epsilon()
        return {
            "unit": self.events[0].unit if self.events else None,
            "epsilon": spent if math.isfinite(spent) else "inf",
            "delta": self.delta,
            "accountant": ACCOUNTANT,
            "neighbouring": self.events[0].neighbouring if self.events else None,
            "sampling": self.events[0].sampling if self.events else None,
            "releases": len(self.events),
            "per_client": None,  # one guarantee for every client alike
            "assumptions": list(ASSUMPTIONS),
        }


def epsilon(events: list[Event], delta: float) -> float:
    """Return the ε that ``events`` spend together, by privacy loss distributions (PLD).

    The discretisation only errs upwards. It is as fine as dp-accounting's default or, where ε is
    large and that would take minutes, a 100,000th of the bound by Rényi DP, which costs nothing.
    """
    if any(event.noise_multiplier == 0 for event in events):
        return math.inf
    counts = Counter(replace(event, round=0) for event in events)
    renyi = RdpAccountant(orders=_ORDERS, neighboring_relation=_NEIGHBOURS)
    bound = _compose(renyi, counts).get_epsilon(delta)
    step = max(1e-4, bound / 1e5)
    pld = _compose(PLDAccountant(_NEIGHBOURS, value_discretization_interval=step), counts)
    return float(pld.get_epsilon(delta))


def _compose(
    accountant: dp_accounting.PrivacyAccountant, counts: Counter[Event]
) -> dp_accounting.PrivacyAccountant:
    for event, count in counts.items():
        gaussian = dp_accounting.GaussianDpEvent(event.noise_multiplier)
        accountant.compose(dp_accounting.PoissonSampledDpEvent(event.rate, gaussian), count)
    return accountant
