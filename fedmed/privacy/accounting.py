"""The ε that releases add up to, and the noise that an ε asks for.

The accountant is that of privacy loss distributions (PLD; Koskela et al. 2020, Doroshenko et al.
2022). Its discretisation only errs upwards. Rényi DP (Mironov 2017) and Opacus's PRV accountant
(Gopi et al. 2021) are other code for the same figure, and stand beside it as cross-checks.
"""

import math
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import dp_accounting
from dp_accounting.pld import privacy_loss_distribution as pld
from dp_accounting.pld.common import DifferentialPrivacyParameters
from dp_accounting.rdp import RdpAccountant
from scipy.optimize import brentq

from fedmed.privacy.events import Event

ACCOUNTANT = f"PLD (dp-accounting {version('dp-accounting')})"
RENYI = f"RDP (dp-accounting {version('dp-accounting')})"
PURE = "sum of pure ε"
PRV = f"PRV (Opacus {version('opacus')})"
_NEIGHBOURS = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
_ORDERS = [*range(2, 33), 40, 48, 64, 96, 128, 256, 512]  # integers: closed forms
_FINEST = 2.0**-13  # of the privacy loss, about 1e-4 as is dp-accounting's default
_LARGEST_Z = 1e6

Counts = frozenset[tuple[Event, int]]


def epsilon(events: Iterable[Event], delta: float) -> float:
    """Return the ε that ``events`` spend together at ``delta``, infinite without noise.

    At δ = 0 the ε of pure mechanisms add up, and a Gaussian has none. Losses are discretised as
    finely as dp-accounting's default or, where ε is large and that would take minutes, in
    ten-thousandths of the bound by Rényi DP, which costs nothing.
    """
    counts = _counts(events)
    if delta == 0:
        return sum(_pure(event, count) for event, count in counts)
    return _pld_epsilon(counts, delta) if counts else 0.0


def cross_checks(events: Iterable[Event], delta: float) -> dict[str, float | None]:
    """Return the ε of ``events`` by other accountants; None where one cannot tell."""
    counts = _counts(events)
    if delta == 0:  # neither knows of it
        return {}
    return {RENYI: _renyi_epsilon(counts, delta), PRV: _prv_epsilon(counts, delta)}


def noise_for(event: Event, target: float, delta: float) -> float:
    """Return the least noise multiplier, to three digits, with which ``event`` spends ``target``.

    Args:
        event: with the rate and the number of steps; its noise multiplier does not count.
        target: the ε not to exceed; 0 noise is enough for an infinite one.
        delta: of (ε, δ).
    """
    if math.isinf(target):
        return 0.0

    def excess(z: float) -> float:
        return epsilon([replace(event, noise_multiplier=z)], delta) - target

    low, high = 0.5, 1.0
    while excess(low) < 0:
        low /= 2
    while excess(high) > 0 and high < _LARGEST_Z:
        high *= 2
    z = float(brentq(excess, low, high, rtol=1e-4)) if excess(high) < 0 else high
    digit = 10.0 ** (math.floor(math.log10(z)) - 3)
    z = math.ceil(z / digit) * digit
    while excess(z) > 0:  # the root is only found to a tolerance
        z += digit
    return float(f"{z:.4g}") if excess(float(f"{z:.4g}")) <= 0 else z


def _counts(events: Iterable[Event]) -> Counts:
    counts: Counter[Event] = Counter()
    for event in events:
        counts[replace(event, round=0, client=None, steps=1, attempt=0)] += event.steps
    return frozenset(counts.items())


def _pure(event: Event, count: int) -> float:
    if event.mechanism == "gaussian" or event.noise_multiplier == 0:
        return math.inf
    return count / event.noise_multiplier


def _noiseless(counts: Counts) -> bool:
    return any(event.noise_multiplier == 0 for event, _ in counts)


@lru_cache(maxsize=4096)
def _pld_epsilon(counts: Counts, delta: float) -> float:
    if _noiseless(counts):
        return math.inf
    bound = _renyi_epsilon(counts, delta)
    # powers of two, so that the distribution of one release serves many rounds
    fine = 2.0 ** math.floor(math.log2(bound / 1e4)) if 0 < bound < math.inf else _FINEST
    interval = max(_FINEST, fine)
    composed = None
    for event, count in sorted(counts, key=repr):
        one = _loss(event, interval)
        several = one.self_compose(count) if count > 1 else one
        composed = several if composed is None else composed.compose(several)
    assert composed is not None
    return float(composed.get_epsilon_for_delta(delta))


@lru_cache(maxsize=512)
def _loss(event: Event, interval: float) -> Any:
    sampled = {"value_discretization_interval": interval, "sampling_prob": event.rate}
    if event.mechanism == "gaussian":
        return pld.from_gaussian_mechanism(
            event.noise_multiplier, neighboring_relation=_NEIGHBOURS, **sampled
        )
    if event.mechanism == "laplace":
        return pld.from_laplace_mechanism(event.noise_multiplier, **sampled)
    whole = DifferentialPrivacyParameters(1 / event.noise_multiplier, 0.0)
    return pld.from_privacy_parameters(whole, value_discretization_interval=interval)


@lru_cache(maxsize=4096)
def _renyi_epsilon(counts: Counts, delta: float) -> float:
    if _noiseless(counts):
        return math.inf
    accountant = RdpAccountant(orders=_ORDERS, neighboring_relation=_NEIGHBOURS)
    pure = 0.0
    for event, count in counts:
        if event.mechanism == "gaussian":
            release = dp_accounting.GaussianDpEvent(event.noise_multiplier)
            accountant.compose(dp_accounting.PoissonSampledDpEvent(event.rate, release), count)
        else:  # pure ε adds up
            pure += _pure(event, count)
    return pure + float(accountant.get_epsilon(delta))


def _prv_epsilon(counts: Counts, delta: float) -> float | None:
    """Return Opacus's upper bound, which errs by 0.01 or a hundredth: Gaussian releases only."""
    from opacus.accountants import PRVAccountant  # takes a second, and is needed once

    if _noiseless(counts):
        return math.inf
    if any(event.mechanism != "gaussian" for event, _ in counts):
        return None
    accountant = PRVAccountant()
    ordered = sorted(counts, key=repr)
    accountant.history = [(event.noise_multiplier, event.rate, n) for event, n in ordered]
    error = max(0.01, _renyi_epsilon(counts, delta) / 100)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = float(accountant.get_epsilon(delta, eps_error=error))
    except (ValueError, RuntimeError, MemoryError, OverflowError, FloatingPointError):
        return None
    return found if math.isfinite(found) else None
