"""The strategies do what their papers say, checked by hand."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from flwr.app import RecordDict
from scipy import integrate, optimize, stats

from fedmed.config import compose
from fedmed.data.examples import Examples
from fedmed.privacy import Event, epsilon
from fedmed.strategies.fedprox import ProximalTerm
from fedmed.training.hooks import LocalHooks
from fedmed.training.sgd import train

DELTA = 1e-5


def test_fedprox_gradient_is_that_of_the_squared_norm() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    anchor = [p.detach().clone() for p in network.parameters()]
    rule = ProximalTerm(mu=0.3)
    rule.start(network, RecordDict())
    with torch.no_grad():
        for p in network.parameters():
            p.add_(torch.randn_like(p))
    x, y = torch.randn(7, 5), torch.randn(7, 2)
    loss = (network(x) - y).square().mean()
    loss.backward()
    rule.gradient(network)
    ours = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    assert len(ours) == len(anchor)
    network.zero_grad()
    squared = sum((p - a).square().sum() for p, a in zip(network.parameters(), anchor, strict=True))
    ((network(x) - y).square().mean() + 0.3 / 2 * squared).backward()
    for mine, p in zip(ours, network.parameters(), strict=True):
        torch.testing.assert_close(mine, p.grad)


def test_fedprox_holds_clients_near_the_global_weights() -> None:
    def distance(rule: LocalHooks) -> float:
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 1))
        before = [p.detach().clone() for p in network.parameters()]
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (40, 8, 8), dtype=np.uint8)
        labels = rng.integers(0, 2, (40, 1)).astype(np.float32)
        examples = Examples(pixels, labels, np.arange(40))
        how = compose(["client=sgd", "client.lr=0.01", "client.epochs=5"]).client
        train(network, examples, how, rule, RecordDict(), seed=0)
        moved = zip(network.parameters(), before, strict=True)
        return math.sqrt(sum(float((p.detach() - b).square().sum()) for p, b in moved))

    free, loose, tight = (distance(r) for r in (LocalHooks(), ProximalTerm(0.0), ProximalTerm(5.0)))
    assert free == loose
    assert tight < 0.8 * free


@pytest.mark.parametrize(("z", "rounds"), [(1.0, 1), (2.0, 10), (5.0, 100)])
def test_epsilon_without_sampling_is_the_gaussian_mechanisms(z: float, rounds: int) -> None:
    """T Gaussian releases are one with z/sqrt(T); theorem 8 of Balle and Wang 2018."""
    sigma = z / math.sqrt(rounds)

    def delta(eps: float) -> float:
        a, b = 1 / (2 * sigma), eps * sigma
        return float(stats.norm.cdf(a - b) - math.exp(eps) * stats.norm.cdf(-a - b))

    exact = optimize.brentq(lambda eps: delta(eps) - DELTA, 1e-6, 200)
    events = [Event(r, "client", z, 1.0) for r in range(rounds)]
    assert epsilon(events, DELTA) == pytest.approx(exact, rel=2e-3)


@pytest.mark.parametrize(("z", "q"), [(0.7, 0.5), (1.0, 0.1), (2.0, 0.01)])
def test_epsilon_of_a_sampled_release_is_its_integral(z: float, q: float) -> None:
    """One Poisson-sampled release: δ(ε) by integrating the hockey stick, in both directions."""

    def delta(eps: float) -> float:
        def with_unit(x: float) -> float:
            return float((1 - q) * stats.norm.pdf(x, 0, z) + q * stats.norm.pdf(x, 1, z))

        def without(x: float) -> float:
            return float(stats.norm.pdf(x, 0, z))

        def stick(p: Callable[[float], float], other: Callable[[float], float]) -> float:
            value, _ = integrate.quad(
                lambda x: max(0.0, p(x) - math.exp(eps) * other(x)), -30, 30, limit=2000
            )
            return float(value)

        return max(stick(with_unit, without), stick(without, with_unit))

    exact = optimize.brentq(lambda eps: delta(eps) - DELTA, 1e-4, 60, xtol=1e-4)
    assert epsilon([Event(1, "client", z, q)], DELTA) == pytest.approx(exact, rel=1e-2)


def test_epsilon_of_little_noise_is_large_and_quick() -> None:
    assert epsilon([Event(r, "client", 0.01, 0.5) for r in range(30)], DELTA) > 1e5
