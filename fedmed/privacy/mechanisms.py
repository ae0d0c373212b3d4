"""The mechanisms of differential privacy that fedmed uses outside of training, as functions.

A mechanism is as private as its sensitivity is true. ``sensitivity`` is therefore always an
argument, and with it goes a proof that is the caller's to give: for *every* two neighbouring data
sets, not only for the one at hand, the query's values differ by at most that much. It must follow
from how the query is made (clipped, bounded, counted), never from looking at the data: a
sensitivity that is estimated from the data is itself a leak, and is wrong for the data not seen.

Noise comes from the generator that is given: whoever knows its seed can subtract it. It is keyed by
the mechanism and all of its arguments as well, so that a generator which is made again for another
value or another ε gives other noise: with the same, the two would add up to the value. It is
floating-point noise, whose last bits can betray the value (Mironov 2012); for integers
:func:`geometric` has no such bits.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import log_ndtr

from fedmed.core.seeding import fingerprint

Floats = NDArray[np.float64]


def laplace(
    value: ArrayLike, sensitivity: float, epsilon: float, rng: np.random.Generator
) -> Floats:
    """Return ``value`` plus Laplace noise: (ε, 0)-private (Dwork et al. 2006).

    Args:
        value: of the query, of any shape.
        sensitivity: Δ₁, the largest L1 distance of the values of two neighbouring data sets;
            the caller proves it (see above).
        epsilon: more than 0.
        rng: where the noise comes from; its scale is Δ₁/ε.

    Raises:
        ValueError: if ``sensitivity`` or ``epsilon`` is not positive and finite.
    """
    _check(sensitivity=sensitivity, epsilon=epsilon)
    value = np.asarray(value, np.float64)
    rng = _keyed(rng, "laplace", value, sensitivity, epsilon)
    return value + rng.laplace(0.0, sensitivity / epsilon, value.shape)


def geometric(
    counts: ArrayLike, sensitivity: int, epsilon: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return whole numbers plus two-sided geometric noise: (ε, 0)-private (Ghosh et al. 2009).

    The discrete Laplace: P(noise = k) is proportional to exp(-ε·|k|/Δ₁).

    Args:
        counts: whole numbers, of any shape.
        sensitivity: Δ₁ as for :func:`laplace`, a whole number.
        epsilon: more than 0.
        rng: where the noise comes from.

    Raises:
        ValueError: as :func:`laplace` does.
    """
    _check(sensitivity=sensitivity, epsilon=epsilon)
    counts = np.asarray(counts, np.int64)
    rng = _keyed(rng, "geometric", counts, sensitivity, epsilon)
    stop = -math.expm1(-epsilon / sensitivity)
    return counts + rng.geometric(stop, counts.shape) - rng.geometric(stop, counts.shape)


def gaussian(
    value: ArrayLike, sensitivity: float, epsilon: float, delta: float, rng: np.random.Generator
) -> Floats:
    """Return ``value`` plus the least Gaussian noise that is (ε, δ)-private.

    Args:
        value: of the query, of any shape.
        sensitivity: Δ₂, the largest L2 distance of the values of two neighbouring data sets;
            the caller proves it (see above).
        epsilon: more than 0.
        delta: in (0, 1).
        rng: where the noise comes from.

    Raises:
        ValueError: if an argument is out of its range.
    """
    value = np.asarray(value, np.float64)
    rng = _keyed(rng, "gaussian", value, sensitivity, epsilon, delta)
    return value + rng.normal(0.0, gaussian_deviation(epsilon, delta, sensitivity), value.shape)


def gaussian_deviation(epsilon: float, delta: float, sensitivity: float = 1.0) -> float:
    """Return the least standard deviation of Gaussian noise that is (ε, δ)-private.

    Balle and Wang, Improving the Gaussian Mechanism for Differential Privacy, ICML 2018,
    algorithm 1. Unlike the classical sqrt(2·ln(1.25/δ))·Δ₂/ε it is exact, and holds for ε > 1.

    Raises:
        ValueError: if an argument is out of its range.
    """
    _check(sensitivity=sensitivity, epsilon=epsilon, delta=delta)
    if delta >= 1:
        raise ValueError(f"delta must be less than 1, got {delta}")

    def excess(log_multiplier: float) -> float:
        return _log_delta(epsilon, math.exp(log_multiplier)) - math.log(delta)

    low = high = -0.5 * math.log(epsilon + 1)  # the order of the answer: 1/sqrt(ε) or less noise
    while excess(low) < 0:
        low -= 1.0
    while excess(high) > 0:
        high += 1.0
    return sensitivity * math.exp(float(brentq(excess, low, high, xtol=1e-13)))


def gaussian_delta(epsilon: float, deviation: float, sensitivity: float = 1.0) -> float:
    """Return the exact δ of Gaussian noise at ε (Balle and Wang 2018, theorem 8)."""
    _check(sensitivity=sensitivity, deviation=deviation)
    return math.exp(_log_delta(epsilon, deviation / sensitivity))


def _log_delta(epsilon: float, multiplier: float) -> float:
    """Return ln(Φ(1/2z - εz) - e^ε·Φ(-1/2z - εz)), with both terms far out in the tails or not."""
    half, shift = 0.5 / multiplier, epsilon * multiplier
    first, second = float(log_ndtr(half - shift)), epsilon + float(log_ndtr(-half - shift))
    gap = -math.expm1(second - first) if second < first else 0.0
    return first + math.log(gap) if gap > 0 else -math.inf


def exponential(
    utilities: Sequence[float] | Floats,
    sensitivity: float,
    epsilon: float,
    rng: np.random.Generator,
    monotonic: bool = False,
) -> int:
    """Return the index of a good option: (ε, 0)-private (McSherry and Talwar 2007).

    Option i is drawn with a probability proportional to exp(ε·uᵢ/2Δ), or exp(ε·uᵢ/Δ) if monotonic.

    Args:
        utilities: how good each option is on the data.
        sensitivity: Δ, the most by which *any one* option's utility differs between two
            neighbouring data sets; the caller proves it (see above).
        epsilon: more than 0.
        rng: where the choice comes from.
        monotonic: whether it is proven that one more record lowers no utility (or raises none),
            as with counts; then half the noise does.

    Raises:
        ValueError: if an argument is out of its range or a utility is not finite.
    """
    scaled = _scaled(utilities, sensitivity, epsilon, monotonic)
    rng = _keyed(rng, "exponential", scaled, sensitivity, epsilon)
    return int(np.argmax(scaled + rng.gumbel(size=scaled.shape)))  # the Gumbel-max trick


def report_noisy_max(
    utilities: Sequence[float] | Floats,
    sensitivity: float,
    epsilon: float,
    rng: np.random.Generator,
    monotonic: bool = False,
) -> int:
    """Return the index of the largest utility after exponential noise: (ε, 0)-private.

    It is permute-and-flip (McKenna and Sheldon 2020; Ding et al. 2021), whose expected utility is
    never below that of :func:`exponential`. Arguments and errors as there.
    """
    scaled = _scaled(utilities, sensitivity, epsilon, monotonic)
    rng = _keyed(rng, "permute and flip", scaled, sensitivity, epsilon)
    return int(np.argmax(scaled + rng.exponential(size=scaled.shape)))


def _scaled(
    utilities: Sequence[float] | Floats, sensitivity: float, epsilon: float, monotonic: bool
) -> Floats:
    _check(sensitivity=sensitivity, epsilon=epsilon)
    values = np.asarray(utilities, np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError("utilities must be a row of at least one number, all of them finite")
    return values * (epsilon / (sensitivity if monotonic else 2 * sensitivity))


def _keyed(
    rng: np.random.Generator, mechanism: str, value: NDArray[Any], *arguments: float
) -> np.random.Generator:
    """Return a generator that a draw from ``rng`` decides, and all that is released."""
    key = fingerprint(rng.bytes(32), mechanism, value, [float(one) for one in arguments])
    return np.random.default_rng(int(key, 16))


def _check(**positive: float) -> None:
    for name, value in positive.items():
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be positive and finite, got {value}")
