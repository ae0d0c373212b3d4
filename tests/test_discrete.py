"""The discrete Gaussian: its draws, what a sum of them costs, and that the ledger says so."""

import math

import dp_accounting
import numpy as np
import opendp.prelude as opendp
import pytest
import torch
from dp_accounting.pld import privacy_loss_distribution as pld
from numpy.typing import NDArray
from scipy import optimize, stats
from scipy.signal import fftconvolve

from fedmed.privacy import Event, epsilon
from fedmed.privacy.discrete import LEAST, discrete_gaussian
from fedmed.privacy.noise import Source, source

DRAWS = 400_000
DELTA = 1e-5
Floats = NDArray[np.float64]


def draws_of(secure: bool, seed: int = 1) -> Source:
    return source(seed, torch.device("cpu"), secure)


def exact(deviation: float) -> tuple[NDArray[np.int64], Floats]:
    """Return integers and their probabilities, which are those of the definition."""
    reach = math.ceil(40 * deviation) + 1
    support = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (support / deviation) ** 2)
    return support, weights / math.fsum(weights)


def fit(found: NDArray[np.int64], deviation: float) -> float:
    """Return the p-value of draws as those of a discrete Gaussian: chi-square."""
    support, odds = exact(deviation)
    wide = math.ceil(deviation / 8)  # integers in a cell
    cells, of = support // wide, found // wide
    expected = np.bincount(cells - cells[0], odds) * len(found)
    counted = np.bincount(of - cells[0], minlength=len(expected))
    full = expected >= 20  # the others, all but empty, are counted with the last of these
    table = [x[full] for x in (counted, expected)]
    for kept, x in zip(table, (counted, expected), strict=True):
        kept[-1] += x[~full].sum()
    return float(stats.chisquare(*table).pvalue)


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("deviation", [0.3, 0.6, 1.0, 2.5, 3.0, 17.3, 1000.0])
def test_draws_have_the_exact_probabilities(deviation: float, secure: bool) -> None:
    found = discrete_gaussian(DRAWS, deviation, draws_of(secure))
    assert found.dtype == np.int64
    assert fit(found, deviation) > 1e-6


def test_the_test_tells_what_is_nearly_one() -> None:
    """A rounded Gaussian, a deviation that is 2 % off, one draw in fifty lost."""
    rng = np.random.default_rng(0)
    rounded = np.rint(rng.normal(0, 0.6, DRAWS)).astype(np.int64)
    assert fit(rounded, 0.6) < 1e-12
    assert fit(discrete_gaussian(DRAWS, 17.3 * 1.02, draws_of(False)), 17.3) < 1e-9
    found = discrete_gaussian(DRAWS, 2.5, draws_of(False))
    found[::50] = 0
    assert fit(found, 2.5) < 1e-9


@pytest.mark.parametrize("deviation", [3e4, 1e8])
def test_draws_of_a_fine_grid_are_those_of_a_gaussian(deviation: float) -> None:
    found = discrete_gaussian(DRAWS, deviation, draws_of(False)) / deviation
    assert stats.kstest(found, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(found[1:], found[:-1])[0, 1]) < 5 / math.sqrt(DRAWS)
    assert 4 < np.abs(found).max() < 7


@pytest.mark.parametrize("deviation", [0.8, 3.0, 25.0])
def test_draws_are_as_those_of_opendp(deviation: float) -> None:
    """Whose sampler is exact, in rational arithmetic."""
    opendp.enable_features("contrib")
    n = 40_000
    vectors = opendp.vector_domain(opendp.atom_domain(T="i64"), size=n)
    add = opendp.m.make_gaussian(vectors, opendp.l2_distance(T=float), scale=deviation)
    theirs = np.array(add([0] * n))
    ours = discrete_gaussian(n, deviation, draws_of(False))
    far = math.ceil(3 * deviation)
    cells = np.linspace(-far - 0.5, far + 0.5, min(2 * far + 1, 30) + 1)
    table = [np.histogram(np.clip(x, -far, far), cells)[0] for x in (ours, theirs)]
    assert stats.chi2_contingency(table).pvalue > 1e-6  # theirs are the system's
    assert fit(theirs, deviation) > 1e-6


def test_a_seed_repeats_and_the_operating_system_does_not() -> None:
    n = 100_001  # more than a block
    one, two, other = (discrete_gaussian(n, 9.0, draws_of(False, seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert abs(np.corrcoef(one, other)[0, 1]) < 5 / math.sqrt(n)
    first, second = (discrete_gaussian(n, 9.0, draws_of(True)) for _ in range(2))
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / math.sqrt(n)
    assert discrete_gaussian(0, 9.0, draws_of(False)).shape == (0,)


def sum_of(deviation: float, shares: int) -> Floats:
    """Return the probabilities of the integers that a sum of shares comes to, about 0."""
    support, one = exact(deviation)
    kept = np.abs(support) <= 14 * deviation
    one = one[kept]
    total = one
    for _ in range(shares - 1):
        total = np.maximum(fftconvolve(total, one), 0.0)
    return np.asarray(total / total.sum())


def delta_of(eps: float, odds: Floats, shift: int) -> float:
    """Return δ at ε of noise with these probabilities on a value that moves by a shift."""
    here, there = np.pad(odds, (shift, 0)), np.pad(odds, (0, shift))
    return float(np.maximum(here - math.exp(eps) * there, 0).sum())


def excess(share: float, shares: int, multiplier: float) -> float:
    """Return by how much the ε of a sum exceeds the ledger's, as a part of it.

    By brute force over the sum's distribution, for the direction in which it is coarsest: one
    coordinate.
    """
    total = share * math.sqrt(shares)
    shift = max(1, round(total / multiplier))
    odds = sum_of(share, shares)
    found = optimize.brentq(lambda e: delta_of(e, odds, shift) - DELTA, 0, 60, xtol=1e-12)
    return float(found) / epsilon([Event(1, "client", total / shift, 1.0)], DELTA) - 1


@pytest.mark.parametrize("shares", [1, 3, 6])
@pytest.mark.parametrize("multiplier", [0.5, 1.0, 2.0, 4.0, 16.0, 1e9])
def test_a_sum_of_shares_costs_what_the_ledger_says(shares: int, multiplier: float) -> None:
    assert abs(excess(LEAST, shares, multiplier)) < 1e-4


def test_a_coarser_grid_costs_more_than_the_ledger_would_say() -> None:
    """The control, and the reason for the least deviation."""
    assert excess(3.0, 1, 1.0) > 4e-3
    assert excess(3.0, 3, 1.73) > 1e-3
    assert excess(8.0, 1, 4.0) > 5e-4


@pytest.mark.parametrize("z", [0.5, 1.0, 3.0])
def test_rounds_cost_what_dp_accountings_discrete_gaussian_does(z: float) -> None:
    shift = 64
    theirs = pld.from_discrete_gaussian_mechanism(z * shift, shift).self_compose(5)
    ours = epsilon([Event(r, "client", z, 1.0) for r in range(5)], DELTA)
    assert theirs.get_epsilon_for_delta(DELTA) == pytest.approx(ours, rel=1e-3)


@pytest.mark.parametrize("shares", [3, 8, 100])
@pytest.mark.parametrize("z", [0.5, 1.0, 5.0])
def test_concentrated_privacy_is_that_of_one_gaussian(shares: int, z: float) -> None:
    """Kairouz, Liu and Steinke 2021, theorem 1, of seven million weights at the coarsest grid."""

    def tau(share: float) -> float:
        return 10 * sum(
            math.exp(-2 * math.pi**2 * share**2 * k / (k + 1)) for k in range(1, shares)
        )

    dimension, sensitivity = 7_000_000, LEAST * math.sqrt(shares) / z
    square = sensitivity**2 / (shares * LEAST**2)
    eps = min(
        math.sqrt(square + tau(LEAST) * dimension / 2),
        math.sqrt(square) + tau(LEAST) * math.sqrt(dimension),
    )
    rho = eps**2 / 2
    assert rho == pytest.approx(1 / (2 * z**2), rel=1e-12)
    accountant = dp_accounting.rdp.RdpAccountant()
    accountant.compose(dp_accounting.ZCDpEvent(rho))
    concentrated = accountant.get_epsilon(DELTA)
    gaussian = dp_accounting.rdp.RdpAccountant().compose(dp_accounting.GaussianDpEvent(z))
    assert concentrated == pytest.approx(gaussian.get_epsilon(DELTA), rel=1e-9)
    assert epsilon([Event(1, "client", z, 1.0)], DELTA) <= concentrated
    assert tau(1.0) * dimension > 1  # the control: a grid that would be too coarse


def test_from_two_on_its_deviation_is_its_own() -> None:
    """And below it is not: the control."""

    def variance(sigma: float) -> float:
        support, odds = exact(sigma)
        return math.fsum(odds * support.astype(float) ** 2)

    assert variance(2.0) == pytest.approx(4.0, rel=1e-14)
    assert variance(0.5) < 0.5**2 * 0.9
