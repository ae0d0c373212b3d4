"""The mechanisms have the noise, the calibration and the odds that their papers state."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from dp_accounting.pld.common import DifferentialPrivacyParameters
from dp_accounting.pld.privacy_loss_mechanism import GaussianPrivacyLoss
from scipy import integrate, stats

from fedmed.privacy import mechanisms

CHOICES = (mechanisms.exponential, mechanisms.report_noisy_max)
UTILITIES = np.array([0.0, 1.0, 3.0, 3.5])


@pytest.mark.parametrize("delta", [1e-12, 1e-5, 0.1, 0.9])
@pytest.mark.parametrize("epsilon", [1e-3, 0.1, 1.0, 10.0, 1000.0])
def test_gaussian_calibration_is_exact(epsilon: float, delta: float) -> None:
    ours = mechanisms.gaussian_deviation(epsilon, delta, sensitivity=3.0)
    params = DifferentialPrivacyParameters(epsilon, delta)
    theirs = GaussianPrivacyLoss.from_privacy_guarantee(params, 3.0).standard_deviation
    assert ours == pytest.approx(theirs, rel=2e-6)
    assert mechanisms.gaussian_delta(epsilon, ours, 3.0) == pytest.approx(delta, rel=1e-6)


def test_gaussian_calibration_at_known_points() -> None:
    assert mechanisms.gaussian_deviation(1.0, 1e-5) == pytest.approx(3.730632, abs=1e-6)
    classical = math.sqrt(2 * math.log(1.25 / 1e-5))  # Dwork and Roth 2014, theorem A.1, ε = 1
    assert mechanisms.gaussian_deviation(1.0, 1e-5) < 0.78 * classical
    for epsilon, deviation in ((0.5, 2.0), (2.0, 0.7), (4.0, 0.4)):

        def stick(x: float, epsilon: float = epsilon, deviation: float = deviation) -> float:
            with_unit, without = stats.norm.pdf(x, 1, deviation), stats.norm.pdf(x, 0, deviation)
            return max(0.0, float(with_unit - math.exp(epsilon) * without))

        area, _ = integrate.quad(stick, -20, 20, limit=2000, points=[0.0, 1.0])
        assert mechanisms.gaussian_delta(epsilon, deviation) == pytest.approx(area, rel=1e-6)


def test_noise_has_the_stated_distribution() -> None:
    rng = np.random.default_rng(0)
    zeros = np.zeros((200, 100))
    drawn = mechanisms.laplace(zeros + 5, 3.0, 0.5, rng) - 5
    assert drawn.shape == zeros.shape
    assert stats.kstest(drawn.ravel(), "laplace", args=(0, 6.0)).pvalue > 0.001
    drawn = mechanisms.gaussian(zeros, 3.0, 0.5, 1e-5, rng).ravel()
    deviation = mechanisms.gaussian_deviation(0.5, 1e-5, 3.0)
    assert stats.kstest(drawn, "norm", args=(0, deviation)).pvalue > 0.001


def test_geometric_noise_is_the_discrete_laplace() -> None:
    drawn = mechanisms.geometric(np.zeros(40_000), 2, 1.0, np.random.default_rng(0))
    alpha = math.exp(-1.0 / 2)  # P(k + 1) / P(k): e^-ε over every step of the sensitivity
    k = np.arange(-8, 9)
    expected = (1 - alpha) / (1 + alpha) * alpha ** np.abs(k) * len(drawn)
    observed = np.array([(drawn == i).sum() for i in k])
    rest = len(drawn) - expected.sum(), len(drawn) - observed.sum()
    p = stats.chisquare([*observed, rest[1]], [*expected, rest[0]]).pvalue
    assert p > 0.001


def odds(choice: Callable[..., int], utilities: np.ndarray, scale: float) -> np.ndarray:
    """Return each option's exact probability when utilities get noise of that scale."""
    scaled = utilities / scale
    if choice is mechanisms.exponential:
        weights = np.exp(scaled - scaled.max())
        return np.asarray(weights / weights.sum())
    top = scaled.max()  # the maximum of value + Exp(1) lies above every value

    def density(x: float, i: int) -> float:
        below = np.clip(-np.expm1(-(x - np.delete(scaled, i))), 0, None)
        return float(math.exp(-(x - scaled[i])) * below.prod())

    areas = [
        integrate.quad(density, top, top + 60, args=(i,), epsabs=0, limit=200)[0]
        for i in range(len(utilities))
    ]
    return np.array(areas)


@pytest.mark.parametrize("monotonic", [False, True])
@pytest.mark.parametrize("choice", CHOICES)
def test_choices_have_their_exact_odds(choice: Callable[..., int], monotonic: bool) -> None:
    rng = np.random.default_rng(1)
    drawn = [choice(UTILITIES, 2.0, 1.5, rng, monotonic) for _ in range(20_000)]
    expected = odds(choice, UTILITIES, (2.0 if monotonic else 4.0) / 1.5)
    assert expected.sum() == pytest.approx(1)
    observed = np.bincount(drawn, minlength=len(UTILITIES))
    assert stats.chisquare(observed, expected * len(drawn)).pvalue > 0.001


@pytest.mark.parametrize("choice", CHOICES)
def test_choices_are_private_and_at_best_so(choice: Callable[..., int]) -> None:
    """Over neighbouring utilities no option's odds change by more than e^ε, and some nearly do."""
    epsilon, steps = 1.0, (-1.0, 0.0, 1.0)
    worst = {False: 0.0, True: 0.0}
    for monotonic in worst:
        shifts = np.array(np.meshgrid(*[steps[1:] if monotonic else steps] * 3)).T.reshape(-1, 3)
        for base in (np.zeros(3), np.array([0.0, 2.0, 2.5]), np.array([-8.0, 0.0, 0.0])):
            before = odds(choice, base, (1.0 if monotonic else 2.0) / epsilon)
            for shift in shifts:
                after = odds(choice, base + shift, (1.0 if monotonic else 2.0) / epsilon)
                worst[monotonic] = max(worst[monotonic], *np.abs(np.log(after / before)))
    assert all(0.8 * epsilon < loss <= epsilon + 1e-6 for loss in worst.values())


def test_permute_and_flip_is_never_worse_than_the_exponential_mechanism() -> None:
    for scale in (0.3, 1.0, 3.0):
        expected = [float(odds(choice, UTILITIES, scale) @ UTILITIES) for choice in CHOICES]
        assert expected[1] > expected[0]


def test_what_cannot_be_private_is_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="sensitivity must be positive"):
        mechanisms.laplace([1.0], 0.0, 1.0, rng)
    with pytest.raises(ValueError, match="epsilon must be positive"):
        mechanisms.exponential([1.0], 1.0, math.nan, rng)
    with pytest.raises(ValueError, match="delta must be less than 1"):
        mechanisms.gaussian_deviation(1.0, 1.0)
    with pytest.raises(ValueError, match="finite"):
        mechanisms.report_noisy_max([0.0, math.inf], 1.0, 1.0, rng)
