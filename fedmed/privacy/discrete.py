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
#: The least deviation of a share, in steps of the grid, with which a sum of shares is accounted for
#: as one Gaussian. Its concentrated privacy is a Gaussian's but for τ = 10·Σ exp(-2π²σ²k/(k+1)),
#: over k below the number of shares (Kairouz et al. 2021, theorem 1), which is nothing from 3 on.
#: But at a given δ a discrete Gaussian of 3 steps can cost 0.5 % more ε than a Gaussian; from 32 on
#: it is less than the 1e-4 to which ε is known.
LEAST = 32.0


def discrete_gaussian(n: int, deviation: float, source: Source) -> NDArray[np.int64]:
    """Return ``n`` integers, y with a probability in proportion to exp(-y²/2σ²).

    By rejection from a discrete Laplace distribution (Canonne et al. 2020, algorithm 3), with
    probabilities in double precision where theirs are exact.

    Args:
        n: how many.
        deviation: σ, above 0; the distribution's own is the same in double precision from 2 on.
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
