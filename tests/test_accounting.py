"""ε of groups, of a unit's data and of very little noise, against losses rounded by hand."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import optimize
from scipy.special import log_ndtr, logsumexp
from scipy.stats import binom, norm

from fedmed.privacy import Event, epsilon
from fedmed.privacy.accounting import cross_checks, noise_for

DELTA = 1e-5
Mixture = list[tuple[float, float]]  # weights and means of Gaussians of one deviation


def spent(z: float, rate: float, steps: int, **far: Any) -> float:
    return epsilon([Event(0, "image", z, rate, steps=steps)], DELTA, **far)


def gaussian(mu: float, delta: float = DELTA) -> float:
    """Return ε of N(0, 1) against N(μ, 1): theorem 8 of Balle and Wang 2018, in logarithms."""

    def excess(eps: float) -> float:
        near, far = log_ndtr(mu / 2 - eps / mu), eps + log_ndtr(-mu / 2 - eps / mu)
        return float(math.exp(near) * -math.expm1(min(far - near, 0.0))) - delta

    return float(optimize.brentq(excess, 0, mu**2 / 2 + 40 * mu + 10, rtol=1e-13))


def bracket(p: Mixture, q: Mixture, z: float, steps: int, h: float = 5e-4) -> tuple[float, float]:
    """Return bounds below and above ε: losses cut into cells, rounded down and up, and composed."""
    means = [mean for _, mean in (*p, *q)]
    x = np.linspace(min(means) - 9 * z, max(means) + 9 * z, 200_001)

    def density(of: Mixture) -> np.ndarray:
        weights = [math.log(w) for w, _ in of]
        each = [w + norm.logpdf(x, m, z) for w, (_, m) in zip(weights, of, strict=True)]
        return np.asarray(logsumexp(each, 0))

    def mass(of: Mixture) -> np.ndarray:
        return np.asarray(sum(w * np.diff(norm.cdf(x, m, z)) for w, m in of))

    loss = density(p) - density(q)  # grows with x
    found = []
    for up in (False, True):
        both = []
        for sign, odds in ((1, mass(p)), (-1, mass(q))):
            high, low = (loss[1:], loss[:-1]) if sign == 1 else (-loss[:-1], -loss[1:])
            cell = (np.ceil(high / h) if up else np.floor(low / h)).astype(int)
            one = np.bincount(cell - cell.min(), odds)
            size = 1 << ((len(one) - 1) * steps + 1).bit_length()
            whole = np.fft.irfft(np.fft.rfft(one, size) ** steps, size).clip(0)
            at = (np.arange(size) + steps * int(cell.min())) * h
            lost = 1 - odds.sum() ** steps  # beyond nine deviations
            both.append(_solve(at, whole, max(lost, 0) if up else 0.0))
        found.append(max(both))
    return found[0], found[1]


def _solve(losses: np.ndarray, odds: np.ndarray, lost: float) -> float:
    def excess(eps: float) -> float:
        over = losses > eps
        return lost + float(odds[over] @ -np.expm1(eps - losses[over])) - DELTA

    return float(optimize.brentq(excess, 0, losses.max())) if excess(0) > 0 else 0.0


@pytest.mark.parametrize(
    ("z", "rate", "steps", "group"), [(0.7, 0.3, 1, 3), (3.0, 0.05, 20, 4), (1.5, 0.5, 5, 2)]
)
def test_a_group_is_drawn_unit_by_unit(z: float, rate: float, steps: int, group: int) -> None:
    drawn = [(float(binom.pmf(b, group, rate)), float(b)) for b in range(group + 1)]
    low, high = bracket(drawn, [(1.0, 0.0)], z, steps)
    found = spent(z, rate, steps, group=group)
    assert low <= found * 1.001
    assert found <= high * 1.001
    assert high < 1.02 * low


@pytest.mark.parametrize(("z", "rate", "steps"), [(2.0, 0.1, 1), (1.0, 0.5, 10), (1.5, 0.2, 30)])
def test_what_a_units_data_are_is_farther_than_whether_they_count(
    z: float, rate: float, steps: int
) -> None:
    p, q = ([(1 - rate, 0.0), (rate, sign)] for sign in (1.0, -1.0))
    low, high = bracket(p, q, z, steps)
    found = spent(z, rate, steps, replaced=True)
    assert low <= found * 1.001
    assert found <= high * 1.001
    assert found > spent(z, rate, steps)


@pytest.mark.parametrize("group", [1, 2, 10, 50])
def test_groups_without_sampling_have_a_closed_form(group: int) -> None:
    assert spent(4.0, 1.0, 9, group=group) == pytest.approx(gaussian(group * 3 / 4), rel=2e-4)
    assert spent(4.0, 1.0, 9, replaced=True) == pytest.approx(gaussian(2 * 3 / 4), rel=2e-4)
    pure = Event(0, "content", 2.0, 1.0, mechanism="laplace", neighbouring="replace-one", steps=3)
    assert epsilon([pure], 0.0, group=group) == group * 1.5
    assert epsilon([pure], 0.0, replaced=True) == 1.5  # which it is of already


def test_a_group_is_bounded_by_the_property_that_any_mechanism_has() -> None:
    """k units of (ε, δ) are (kε, δ·(e^kε - 1)/(e^ε - 1)), and at the same δ more than kε."""
    z, rate, steps, group = 3.339, 16 / 500, 720, 10
    found = spent(z, rate, steps, group=group)

    def delta(one: float) -> float:  # of one unit that leaves the group δ
        return DELTA * math.expm1(one) / math.expm1(group * one)

    def excess(one: float) -> float:
        return epsilon([Event(0, "image", z, rate, steps=steps)], delta(one)) - one

    black_box = group * float(optimize.brentq(excess, 0.5, 2, xtol=1e-3))
    assert group * spent(z, rate, steps) < found < black_box


@pytest.mark.parametrize(
    ("z", "steps"), [(0.01, 1), (0.01, 30), (1.0, 300_000), (0.1, 3000), (1e-4, 1), (1e-9, 5)]
)
def test_little_noise_is_counted_to_a_ten_thousandth(z: float, steps: int) -> None:
    assert spent(z, 1.0, steps) == pytest.approx(gaussian(math.sqrt(steps) / z), rel=2e-4)


@pytest.mark.parametrize("z", [0.1, 0.01, 0.003, 1e-4])
def test_little_noise_on_samples(z: float) -> None:
    """δ lies between those of whoever is told the draws, with and without their prior odds."""
    drawn, rate, steps = np.arange(1, 37), 0.5, 36

    def delta(eps: float) -> float:
        mu = np.sqrt(drawn) / z
        near, far = log_ndtr(mu / 2 - eps / mu), eps + log_ndtr(-mu / 2 - eps / mu)
        each = np.exp(near) * -np.expm1(np.minimum(far - near, 0))
        return float(binom.pmf(drawn, steps, rate) @ each) - DELTA

    high = float(optimize.brentq(delta, 1, 36 / z**2 + 1e4, rtol=1e-13))
    found = spent(z, rate, steps)
    assert found <= high * (1 + 1e-6)
    assert found >= (high - 36 * math.log(1 / rate)) * (1 - 1e-6)


@pytest.mark.parametrize("target", [1e3, 1e7, 1e12])
def test_noise_is_found_for_an_epsilon_that_protects_nobody(target: float) -> None:
    event = Event(0, "patient", 0.0, 0.5, client=0, steps=36)
    z = noise_for(event, target, DELTA)
    assert 0.99 * target < spent(z, 0.5, 36) <= target
    checks = cross_checks([Event(0, "patient", z, 0.5, steps=36)], DELTA)
    assert all(value is None or value > 0.99 * target for value in checks.values())


def test_no_noise_and_unlike_releases() -> None:
    assert spent(1e-300, 0.5, 36) == math.inf
    unlike = [Event(0, "image", 1e-3, 0.5, steps=36), Event(0, "image", 1e-4, 1.0, steps=2)]
    together = epsilon(unlike, DELTA)
    assert together == pytest.approx(gaussian(math.sqrt(30e6 + 2e8)), rel=3e-2)
    assert together >= spent(1e-4, 1.0, 2) + 18e6 / 2
    mixed = [*unlike, Event(0, "image", 2.0, 1.0, mechanism="laplace")]
    assert epsilon(mixed, DELTA) == pytest.approx(together + 0.5, rel=1e-9)
