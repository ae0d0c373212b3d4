"""A lower bound on ε from one run (Steinke, Nasr, Jagielski 2023, arXiv 2305.08846).

Each of m canary patients was in the training set or not by a fair coin. The auditor scores them,
guesses "in" for the highest scores and "out" for the lowest, and abstains for the rest. If the run
were (ε, δ)-DP for whether one patient counts, the number of correct guesses could not be large.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr, ndtri
from scipy.stats import binom
from sklearn.metrics import roc_auc_score

from fedmed.core.errors import DataError

Scores = NDArray[np.floating[Any]]
Members = NDArray[np.bool_]

FEWEST = 16  # canaries, and guesses of the smallest candidate rule
LARGEST = 50.0  # ε beyond which a bound is of no interest to anyone


class Guesses(NamedTuple):
    """How an auditor guessed: ``correct`` of ``made``, ``ins`` of which said "in"."""

    made: int
    ins: int
    correct: int


@dataclass(frozen=True)
class Bound:
    """What one run proves about its ε.

    Attributes:
        epsilon: the lower bound.
        gaussian: the same by f-DP (:func:`gaussian_bound`), which is tighter and rests on more.
        independent: the tightest (:func:`independent_bound`), which rests on the most.
        delta: of (ε, δ).
        confidence: of each bound by itself.
        canaries: how many coins were tossed.
        guesses: those that gave ``epsilon``.
        ceiling: what ``epsilon`` would be had every guess of the largest rule been correct.
    """

    epsilon: float
    gaussian: float
    independent: float
    delta: float
    confidence: float
    canaries: int
    guesses: Guesses
    ceiling: float


def audit(scores: Scores, members: Members, delta: float, confidence: float = 0.95) -> Bound:
    """Return the best bound of several rules of guessing that were fixed before any was tried.

    The rules (:func:`rules`) share the error probability equally, so the best of them may be
    reported (union bound).

    Args:
        scores: one a canary, higher where it seems to have been in the training set.
        members: whether it was.
        delta: δ of the claim.
        confidence: 1 − β, the probability with which the bound holds.

    Raises:
        DataError: if there are too few canaries, a score is not a number, or all canaries were in
            or all were out, which no fair coin does.
    """
    m = len(scores)
    if m < FEWEST:
        raise DataError(f"audit: at least {FEWEST} canaries are needed, there are {m}")
    if members.all() or not members.any():
        which = "in" if members.all() else "out"
        raise DataError(f"audit: every canary was {which}: no coin was tossed, and nothing follows")
    if np.isnan(scores).any():
        raise DataError("audit: a canary's score is not a number; the model is broken")
    tried = [guess(scores, members, *rule) for rule in rules(m)]
    beta = (1 - confidence) / len(tried)
    bounds = [epsilon_bound(m, g.made, g.correct, delta, beta) for g in tried]
    gaussians = (gaussian_bound(m, g.made, g.correct, delta, beta) for g in tried)
    best = int(np.argmax(bounds))
    ceiling = epsilon_bound(m, tried[0].made, tried[0].made, delta, beta)
    return Bound(
        epsilon=bounds[best],
        gaussian=max(gaussians),
        independent=independent_bound(scores, members, delta, 1 - confidence),
        delta=delta,
        confidence=confidence,
        canaries=m,
        guesses=tried[best],
        ceiling=ceiling,
    )


def rules(m: int) -> list[tuple[int, int]]:
    """Return the candidates for (k+, k−): as many "in" as "out", from nearly all down by quarters.

    Nearly: two standard deviations of the number of members short of a half each, since whoever
    guesses "in" more often than there are members cannot be right.
    """
    each = m // 2 - math.isqrt(m)
    sizes: list[tuple[int, int]] = []
    while not sizes or 2 * each >= FEWEST:
        sizes.append((each, each))
        each //= 4
    return sizes


def guess(scores: Scores, members: Members, highest: int, lowest: int) -> Guesses:
    """Guess "in" for the k+ highest scores and "out" for the k− lowest; the first win ties."""
    order = np.argsort(-scores, kind="stable")
    correct = members[order[:highest]].sum() + (~members[order[len(order) - lowest :]]).sum()
    return Guesses(highest + lowest, highest, int(correct))


def p_value(m: int, made: int, correct: int, epsilon: float, delta: float) -> float:
    """Return the largest probability of so many correct guesses under (ε, δ)-DP.

    Theorem 5.2: with f(v) = P[Binomial(r, e^ε / (1 + e^ε)) ≥ v] it is at most
    f(v) + 2 m δ · max over i ≥ 1 of (f(v − i) − f(v)) / i.

    Args:
        m: canaries.
        made: r, guesses made.
        correct: v, those that were correct.
        epsilon: ε of the guarantee that is doubted.
        delta: its δ.
    """
    chance = 1 / (1 + math.exp(-epsilon))
    below = np.cumsum(binom.pmf(np.arange(correct - 1, -1, -1), made, chance))
    steepest = np.max(below / np.arange(1, correct + 1), initial=0.0)
    return float(min(1.0, binom.sf(correct - 1, made, chance) + 2 * m * delta * steepest))


def epsilon_bound(m: int, made: int, correct: int, delta: float, beta: float) -> float:
    """Return the smallest ε at which the guesses are no surprise: p ≥ β. 0 if none is.

    At δ = 0 and with every guess correct it is logit(β^(1/r)), about ln(r / ln(1/β)).
    """
    return _smallest(lambda epsilon: p_value(m, made, correct, epsilon, delta) - beta)


def gaussian_bound(m: int, made: int, correct: int, delta: float, beta: float) -> float:
    """Return the same bound if the run's trade-off curve is a Gaussian mechanism's.

    Mahloujifar, Melis, Chaudhuri 2024 (arXiv 2410.22235), algorithm 3: it audits a whole trade-off
    curve, here the one of a Gaussian mechanism, N(0, 1) against N(μ, 1), and so loses far less
    than a bound for any (ε, δ). It is exact theory for one Gaussian release without sampling, and
    approximate for the composition of many sampled ones.
    """
    mu = _smallest(lambda mu: 1.0 if _gaussian_plausible(mu, m, made, correct, beta) else -1.0)
    return gaussian_epsilon(mu, delta)


def _gaussian_plausible(mu: float, m: int, made: int, correct: int, beta: float) -> bool:
    """Say whether so many correct guesses are no surprise under the Gaussian trade-off curve."""
    missed = beta * (made - correct) / m
    hit = beta * correct / m
    for i in range(correct - 1, -1, -1):
        before = missed
        missed = max(missed, float(ndtr(ndtri(min(hit, 1.0)) - mu)))
        hit += i / (made - i) * (missed - before)
        if hit + missed > made / m:  # neither ever falls
            return False
    return True


def independent_bound(scores: Scores, members: Members, delta: float, beta: float) -> float:
    """Return the bound if, besides, the canaries do not disturb each other.

    Then each canary stands for a run of its own, as in Nasr et al. 2023 (arXiv 2302.07956). The
    area under the ROC curve of N(0, 1) against N(μ, 1) is Φ(μ/√2), which gives μ; its lower limit
    is Wilson's with the largest variance that the area can have (Birnbaum and Klose 1957). The
    premise holds for marked canaries in a correct DP-SGD, which samples and noises each alone. So
    a bound above the claim proves the implementation wrong, though not by how much.
    """
    n = int(min(members.sum(), (~members).sum()))
    if n == 0:
        return 0.0
    area = float(roc_auc_score(members, scores))
    z2 = float(ndtri(1 - beta)) ** 2
    spread = math.sqrt(z2 * (area * (1 - area) / n + z2 / (4 * n * n)))
    least = (area + z2 / (2 * n) - spread) / (1 + z2 / n)
    return gaussian_epsilon(max(0.0, math.sqrt(2) * float(ndtri(least))), delta)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Return ε(δ) of N(0, 1) against N(μ, 1) (Balle and Wang 2018, theorem 8)."""
    if mu == 0:
        return 0.0

    def excess(epsilon: float) -> float:
        far = np.exp(epsilon + log_ndtr(-mu / 2 - epsilon / mu))
        return delta - float(ndtr(mu / 2 - epsilon / mu) - far)

    return _smallest(excess)


def _smallest(excess: Callable[[float], float]) -> float:
    """Return where an increasing function passes zero, at least 0 and at most ``LARGEST``."""
    if excess(0.0) >= 0:
        return 0.0
    if excess(LARGEST) < 0:
        return LARGEST
    return float(brentq(excess, 0.0, LARGEST, xtol=1e-6))
