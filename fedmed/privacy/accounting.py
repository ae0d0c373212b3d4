"""The ε that releases add up to, and the noise that an ε asks for.

The accountant is that of privacy loss distributions (PLD; Koskela et al. 2020, Doroshenko et al.
2022). Its discretisation only errs upwards. Rényi DP (Mironov 2017) and Opacus's PRV accountant
(Gopi et al. 2021) are other code for the same figure, and stand beside it as cross-checks.

A group of k units, each drawn by itself, moves a noisy sum by as many clipping norms as were drawn:
a mixture of Gaussians with a binomial number (Ganesh 2024, arXiv 2401.10294), whose privacy loss
distribution gives the group's ε at the same δ. It grows faster than k.
"""

import math
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import version
from typing import Any, NamedTuple

import dp_accounting
import numpy as np
from dp_accounting.pld import privacy_loss_distribution as pld
from dp_accounting.pld.common import DifferentialPrivacyParameters
from dp_accounting.rdp import RdpAccountant
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import log_ndtr
from scipy.stats import binom

from fedmed.privacy.events import Event

ACCOUNTANT = f"PLD (dp-accounting {version('dp-accounting')})"
RENYI = f"RDP (dp-accounting {version('dp-accounting')})"
PURE = "sum of pure ε"
PRV = f"PRV (Opacus {version('opacus')})"
#: Where nothing but the sum tells of a unit, zeroing it out and leaving it out are the same pair of
#: distributions, and dp-accounting's Rényi code knows only the second by name.
_NEIGHBOURS = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
_ORDERS = [*range(2, 33), 40, 48, 64, 96, 128, 256, 512]  # integers: closed forms
_FINEST = 2.0**-13  # of the privacy loss, about 1e-4 as is dp-accounting's default
_FINEST_OF_MANY = 2.0**-17  # with very many steps, whose errors add up
_PRECISION = 1e-4  # of ε
_LARGEST_DISCRETE = 1e6  # ε up to which losses are discretised
_LARGEST_EXACT = 600.0  # ε up to which e^-ε is a number
_UNLIKELY = 1e-40  # no δ is so small
_BINS = 4096  # of the number of draws of unlike releases, where they are told apart
_LARGEST_Z = 1e6

Floats = NDArray[np.float64]
Counts = frozenset[tuple[Event, int]]


class Distance(NamedTuple):
    """How far apart the data are that ε compares: so many units of them, left out or replaced."""

    group: int = 1
    replaced: bool = False

    @property
    def most(self) -> int:
        """By how many clipping norms the sums differ at most."""
        return self.group * (1 + self.replaced)


_ONE = Distance()


def epsilon(events: Iterable[Event], delta: float, group: int = 1, replaced: bool = False) -> float:
    """Return the ε that ``events`` spend together at ``delta``, infinite without noise.

    At δ = 0 the ε of pure mechanisms add up, and a Gaussian has none. Losses are discretised so
    finely that ε is right to a ten-thousandth. Beyond a million the number of draws is taken for
    known, which costs less than that and has a closed form.

    Args:
        events: of one unit.
        delta: of (ε, δ).
        group: of how many units together; each is drawn by itself.
        replaced: whether to ask what a unit's data are, not whether they count: other data in
            their place instead of none, which is up to twice as far.

    Raises:
        ValueError: if a group is to be replaced.
    """
    if replaced and group > 1:
        raise ValueError("what a group's data are has no accountant here")
    if replaced:
        events = list(events)
        already = [event for event in events if event.neighbouring == "replace-one"]
        if already and len(already) < len(events):
            raise ValueError("releases of two relations do not add up")
        replaced = not already
    counts, far = _counts(events), Distance(group, replaced)
    if delta == 0:
        return group * (1 + replaced) * sum(_pure(event, count) for event, count in counts)
    return _pld_epsilon(counts, delta, far) if counts else 0.0


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
def _pld_epsilon(counts: Counts, delta: float, far: Distance = _ONE) -> float:
    if _noiseless(counts):
        return math.inf
    bound = _told_draws_epsilon(counts, delta, far)
    one = bound if far.group == 1 else _told_draws_epsilon(counts, delta, _ONE)
    if one > _LARGEST_DISCRETE:
        return bound
    if far == _ONE:
        bound = min(bound, _renyi_epsilon(counts, delta))
    found = _discrete_epsilon(counts, delta, far, bound)
    return found if found > bound / 2 else _discrete_epsilon(counts, delta, far, found)


def _discrete_epsilon(counts: Counts, delta: float, far: Distance, scale: float) -> float:
    # losses of a mixture are inverted one by one, and what lies between them is interpolated
    mixed = far.group > 1 and any(event.rate < 1 for event, _ in counts)
    precision = 10 * _PRECISION if mixed else _PRECISION
    interval = _interval(scale, sum(count for _, count in counts), precision)
    composed = None
    for event, count in sorted(counts, key=repr):
        one = _loss(event, interval, far)
        several = one.self_compose(count) if count > 1 else one
        composed = several if composed is None else composed.compose(several)
    assert composed is not None
    found = float(composed.get_epsilon_for_delta(delta))
    if found < _LARGEST_EXACT or composed.get_delta_for_epsilon(found) >= delta:
        return found

    def excess(eps: float) -> float:
        return float(composed.get_delta_for_epsilon(eps)) - delta

    # there get_epsilon_for_delta's exponentials of losses underflow, and it leaves them out
    tolerance = _PRECISION / 10
    return float(brentq(excess, 0.0, found, rtol=tolerance)) * (1 + tolerance)


def _interval(scale: float, steps: int, precision: float) -> float:
    """Return how finely to discretise the loss of a step, where ε is of that scale.

    Rounding within an interval h raises a step's mean loss by at most h²/8, and these add up.
    """
    if not scale:
        return _FINEST
    widest = max(_FINEST, precision * scale)
    together = max(_FINEST_OF_MANY, math.sqrt(8 * _PRECISION * scale / steps))
    # powers of two, so that the distribution of one release serves many rounds
    return float(2.0 ** math.floor(math.log2(min(widest, together))))


@lru_cache(maxsize=512)
def _loss(event: Event, interval: float, far: Distance) -> Any:
    fine = {"value_discretization_interval": interval}
    z, rate = event.noise_multiplier, event.rate
    if event.mechanism == "gaussian" and far.group == 1:
        relation = dp_accounting.NeighboringRelation.REPLACE_ONE if far.replaced else _NEIGHBOURS
        return pld.from_gaussian_mechanism(
            z, sampling_prob=rate, neighboring_relation=relation, **fine
        )
    if event.mechanism == "gaussian" and rate == 1:
        return pld.from_gaussian_mechanism(z / far.group, **fine)
    if event.mechanism == "gaussian":
        drawn = np.arange(far.group + 1)
        odds = binom.pmf(drawn, far.group, rate)
        return pld.from_mixture_gaussian_mechanism(z, drawn.tolist(), odds.tolist(), **fine)
    if event.mechanism == "laplace" and far == _ONE:
        return pld.from_laplace_mechanism(z, sampling_prob=rate, **fine)
    return pld.from_privacy_parameters(DifferentialPrivacyParameters(far.most / z, 0.0), **fine)


def _told_draws_epsilon(counts: Counts, delta: float, far: Distance) -> float:
    """Return ε to whoever is told how often a unit was drawn, which is never less.

    What was drawn b times is a Gaussian mechanism of √b/z, so that δ is a mean over b of theirs
    (Balle and Wang 2018, theorem 8). Where ε is large the number of draws is plain to see anyway.
    """
    if _noiseless(counts):
        return math.inf
    lengths, odds, pure = np.zeros(1), np.ones(1), 0.0  # squared distances over the noise
    with np.errstate(over="ignore", invalid="ignore"):
        for event, count in counts:
            if event.mechanism != "gaussian":
                pure += far.most * _pure(event, count)
                continue
            # of a group: whether anyone was drawn, and then as if all were
            rate = -math.expm1(far.group * math.log1p(-event.rate)) if event.rate < 1 else 1.0
            drawn = np.arange(count + 1)
            likely = binom.pmf(drawn, count, rate)
            drawn, likely = drawn[likely > _UNLIKELY], likely[likely > _UNLIKELY]
            square = drawn * np.square(far.most / np.float64(event.noise_multiplier))
            lengths, odds = _together(lengths, odds, square, likely)
    most = float(lengths.max())
    if not math.isfinite(most):
        return math.inf
    if most == 0:
        return pure
    lengths, odds = lengths[lengths > 0], odds[lengths > 0]
    mu = np.sqrt(lengths)

    def excess(eps: float) -> float:
        near, beyond = log_ndtr(mu / 2 - eps / mu), eps + log_ndtr(-mu / 2 - eps / mu)
        gap = -np.expm1(np.minimum(beyond - near, 0.0))
        return float(odds @ (np.exp(near) * gap)) - delta

    high = most / 2 + 40 * math.sqrt(most)  # where even the tail of the longest is spent
    if excess(0.0) <= 0:
        return pure
    return pure + float(brentq(excess, 0.0, high, xtol=1e-9 * high, rtol=1e-12))


def _together(lengths: Floats, odds: Floats, more: Floats, likely: Floats) -> tuple[Floats, Floats]:
    """Return the distribution of the sum of two independent lengths, rounded up to few values."""
    sums = np.add.outer(lengths, more).ravel()
    weights = np.multiply.outer(odds, likely).ravel()
    if len(lengths) == 1 or not np.isfinite(sums).all():
        return sums, weights
    edges = np.linspace(0, sums.max(), _BINS)
    where = np.searchsorted(edges, sums).clip(max=_BINS - 1)
    together = np.zeros(_BINS)
    np.add.at(together, where, weights)
    return edges, together


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
