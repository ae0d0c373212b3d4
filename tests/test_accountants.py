"""ε is what other accountants, publications and closed forms say it is."""

import math
import warnings
from dataclasses import replace
from typing import Any

import dp_accounting
import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from opacus.accountants import PRVAccountant
from opacus.accountants import RDPAccountant as OpacusRdp
from opacus.accountants.analysis import rdp as analysis
from scipy import optimize, stats

from fedmed.privacy import Event, epsilon
from fedmed.privacy.accounting import PRV, RENYI, cross_checks, noise_for

DELTA = 1e-5
#: Two phases of a client: what a run with a changed batch size would leave.
MIXED = [
    *(Event(r, "patient", 1.1, 0.02, client=0, steps=30) for r in range(1, 11)),
    *(Event(r, "patient", 1.5, 0.05, client=0, steps=20) for r in range(11, 16)),
]


def independently(accountant: Any, events: list[Event]) -> float:
    """Compose one event at a time, as the library's own users would."""
    for event in events:
        release = dp_accounting.GaussianDpEvent(event.noise_multiplier)
        sampled = dp_accounting.PoissonSampledDpEvent(event.rate, release)
        accountant.compose(sampled, event.steps)
    return float(accountant.get_epsilon(DELTA))


def test_epsilon_equals_dp_accounting_and_opacus_called_independently() -> None:
    found = epsilon(MIXED, DELTA)
    assert found == pytest.approx(independently(PLDAccountant(), MIXED), rel=1e-3)
    prv = PRVAccountant()
    prv.history = [(1.1, 0.02, 300), (1.5, 0.05, 100)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = prv.get_epsilon(DELTA)
    assert found == pytest.approx(theirs, abs=0.03)  # an upper bound, 0.01 and more above
    assert found <= theirs
    checks = cross_checks(MIXED, DELTA)
    assert checks[PRV] == pytest.approx(theirs, rel=0.02)
    rdp = independently(RdpAccountant(orders=range(2, 65)), MIXED)
    assert checks[RENYI] == pytest.approx(rdp, rel=1e-3)
    assert found < rdp < 1.3 * found


@pytest.mark.parametrize(
    ("z", "epochs", "published"), [(1.12, 60, 2.92), (0.6, 30, 9.74), (1.2, 10, 1.20)]
)
def test_published_epsilons_are_reproduced(z: float, epochs: int, published: float) -> None:
    """TensorFlow Privacy's tutorial on MNIST, its table of parameters: batches of 256 in 60,000.

    They are by Rényi DP with the conversion of Mironov 2017, in which Opacus's code finds them.
    PLD is tighter, by as much as that conversion is loose.
    """
    q, steps = 256 / 60_000, epochs * 60_000 // 256
    orders = [1 + x / 10 for x in range(1, 100)] + list(range(12, 64))
    curve = analysis.compute_rdp(q=q, noise_multiplier=z, steps=steps, orders=orders)
    loose = min(r + math.log(1 / DELTA) / (a - 1) for r, a in zip(curve, orders, strict=True))
    assert loose == pytest.approx(published, rel=0.01)
    ours = epsilon([Event(1, "image", z, q, client=0, steps=steps)], DELTA)
    assert 0.6 * published < ours < published


def test_opacus_published_figures_are_reproduced() -> None:
    """Its accountants' own tests: ε of 90 epochs by Rényi DP, and the noise for an ε of 8."""
    taken = Event(1, "image", 1.5, 0.04, client=0, steps=2250)
    assert cross_checks([taken], DELTA)[RENYI] == pytest.approx(7.32911117143, rel=1e-3)
    assert 0.9 * 7.329 < epsilon([taken], DELTA) < 7.329
    assert 0.9 * 1.4253 < noise_for(replace(taken, noise_multiplier=0.0), 8.0, DELTA) < 1.4253


def test_dp_fedavg_published_figures_are_reproduced() -> None:
    """TensorFlow Federated's tutorial: (2, 1e-5)-DP for its clients takes 120 of 3,383 a round."""

    def rounds(clients: int) -> list[Event]:
        z, rate = 0.01 * clients, clients / 3383
        return [Event(r, "client", z, rate) for r in range(1, 101)]

    fewer, published = (cross_checks(rounds(n), DELTA)[RENYI] for n in (119, 120))
    assert published is not None
    assert fewer is not None
    assert published < 2.0 < fewer
    assert 0.8 * published < epsilon(rounds(120), DELTA) < published


def test_epsilon_of_opacus_rdp_accountant_bounds_ours() -> None:
    accountant = OpacusRdp()
    accountant.history = [(e.noise_multiplier, e.rate, e.steps) for e in MIXED]
    assert epsilon(MIXED, DELTA) < accountant.get_epsilon(DELTA)


def test_pure_mechanisms_add_up() -> None:
    """Laplace and exponential: ε of pure privacy is the sum, and one Laplace has a closed form."""
    one = Event(0, "patient", 2.0, 1.0, mechanism="laplace", client=0)
    assert epsilon([one], 1e-12) == pytest.approx(0.5, rel=1e-3)
    pure = Event(0, "patient", 2.0, 1.0, mechanism="exponential", client=0)
    assert epsilon([pure, pure], 1e-12) == pytest.approx(1.0, rel=1e-3)
    assert epsilon([one, pure, pure], 0.0) == 1.5
    assert epsilon([one, MIXED[0]], 0.0) == math.inf  # a Gaussian has no pure ε
    closed = optimize.brentq(lambda e: 1 - math.exp((e - 0.5) / 2) - 0.01, 0, 0.5)
    assert epsilon([one], 0.01) == pytest.approx(closed, rel=1e-3)


@pytest.mark.parametrize("target", [0.5, 8.0])
def test_noise_found_for_an_epsilon_spends_it_and_no_more(target: float) -> None:
    event = Event(0, "patient", 0.0, 0.1, client=0, steps=150)
    z = noise_for(event, target, DELTA)
    spent = [epsilon([Event(0, "patient", x, 0.1, steps=150)], DELTA) for x in (z, 0.99 * z)]
    assert spent[0] <= target < spent[1]
    assert noise_for(event, math.inf, DELTA) == 0.0
    assert epsilon([event], DELTA) == math.inf


def test_gaussian_closed_form_with_steps() -> None:
    """T full-batch steps are one Gaussian with z/√T; theorem 8 of Balle and Wang 2018."""

    def delta(eps: float, sigma: float) -> float:
        a, b = 1 / (2 * sigma), eps * sigma
        return float(stats.norm.cdf(a - b) - math.exp(eps) * stats.norm.cdf(-a - b))

    exact = optimize.brentq(lambda e: delta(e, 3 / math.sqrt(20)) - DELTA, 1e-6, 100)
    event = Event(1, "patient", 3.0, 1.0, client=0, steps=20)
    assert epsilon([event], DELTA) == pytest.approx(exact, rel=1e-3)
