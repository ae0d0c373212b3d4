"""The discrete Gaussian: noise for integers, of which several clients each add a share.

Canonne, Kamath and Steinke, The Discrete Gaussian for Differential Privacy, NeurIPS 2020; sums of
shares: Kairouz, Liu and Steinke, The Distributed Discrete Gaussian Mechanism for Federated Learning
with Secure Aggregation, ICML 2021.
"""

import math

import numpy as np
from numpy.typing import NDArray

from fedmed.privacy.noise import Source

BLOCK = 1 << 16  # draws at a time: their arrays stay in the cache
#: The least deviation of a share, in steps of the grid: from here on a sum of shares is told from
#: one discrete Gaussian with less than 1e-37 of what it costs (:func:`discreteness`).
FINEST = 3.0


def discrete_gaussian(n: int, deviation: float, source: Source) -> NDArray[np.int64]:
    """Return ``n`` integers, y with a probability in proportion to exp(-y²/2σ²).

    By rejection from a discrete Laplace distribution (Canonne et al. 2020, algorithm 3), with
    probabilities in double precision where theirs are exact.

    Args:
        n: how many.
        deviation: σ, above 0; the distribution's own is the same to 1e-37 from :data:`FINEST` on.
        source: of uniform draws.
    """
    scale = math.floor(deviation) + 1
    found = np.empty(n, np.int64)
    done = 0
    while done < n:
        size = min(BLOCK, math.ceil((n - done) * 1.4) + 16)
        draws = source.uniform(2 * size).reshape(2, size)
        doubled = draws[0] * 2  # one bit for the sign, the rest for the magnitude
        negative = doubled >= 1
        magnitude = np.floor(-scale * np.log1p(-(doubled - negative)))
        distance = magnitude - deviation * deviation / scale
        likely = np.exp(distance * distance * (-0.5 / deviation**2))
        kept = (draws[1] < likely) & ~(negative & (magnitude == 0))
        some = np.where(negative, -magnitude, magnitude)[kept][: n - done]
        found[done : done + some.size] = some
        done += some.size
    return found


def discreteness(deviation: float, shares: int) -> float:
    """Return τ, by which a sum of discrete Gaussians is worse than one (Kairouz et al., theorem 1).

    The sum of n of them in d dimensions satisfies ε²/2-concentrated privacy, with ε the least of
    sqrt(Δ²/nσ² + τd/2) and Δ/(σ·sqrt(n)) + τ·sqrt(d).

    Args:
        deviation: σ of each share, in steps of the grid.
        shares: how many are added.
    """
    exponents = (-2 * math.pi**2 * deviation**2 * k / (k + 1) for k in range(1, shares))
    return 10 * math.fsum(math.exp(exponent) for exponent in exponents)
