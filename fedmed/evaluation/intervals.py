"""95 % intervals that cover at least 93 % in simulations: ``docs/statistics.md`` has the table.

Percentiles of replicates do not: with 6 positive patients they cover an AUROC 85 times in 100, a
calibration error of nil never. What is here takes from the patient bootstrap the noise alone, and
gives no interval below :data:`LEAST` patients of either class.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, norm, t

from fedmed.evaluation.ranked import METRICS

Interval = tuple[float, float]

LEVEL = 0.95
METHOD = "Korn & Graubard's, by the patient bootstrap"
LEAST = 10  # patients with a finding, and without it
UNKNOWN = (float("nan"), float("nan"))
#: Calibration's quantiles: its curve is guessed, so that 0.975 is needed to cover 0.95.
_CALIBRATION_LEVEL = 0.975
_SHIFTS = np.linspace(6, -6, 49)  # standard errors that a bin's error is thought nearer to nil


def proportion(
    value: float, variance: float, patients: float = float("inf"), level: float = LEVEL
) -> Interval:
    """Return the interval of a score between 0 and 1: Korn & Graubard's.

    The exact binomial interval of Clopper & Pearson, of as many independent trials as would have
    the variance (Korn & Graubard 1998, Survey Methodology 24:193), fewer for a variance that is
    itself estimated from few patients. It stays within 0…1, and is an interval
    too where nothing was wrong.

    Args:
        value: the estimate.
        variance: of the estimate.
        patients: from how many that is known; the degrees of freedom are one less.
        level: of confidence.
    """
    if np.isnan(variance) or patients <= 1 or not 0 <= value <= 1:
        return UNKNOWN
    most = value * (1 - value)
    trials = most / variance if variance > 0 and most > 0 else patients
    if np.isinf(trials):
        return value, value
    tail = (1 - level) / 2
    trials *= (norm.ppf(tail) / t.ppf(tail, patients - 1)) ** 2
    hits, misses = value * trials, (1 - value) * trials
    low = beta.ppf(tail, hits, misses + 1) if hits > 0 else 0.0
    high = beta.ppf(1 - tail, hits + 1, misses) if misses > 0 else 1.0
    return float(low), float(high)


def effective_patients(variances: Sequence[float], patients: Sequence[float]) -> float:
    """Return from how many patients the variance of a mean over findings is known.

    Satterthwaite 1946 (Biometrics Bulletin 2:110) over the findings' variances: of findings alike
    as many as all have together, of one that outweighs the others as many as it has alone.

    Args:
        variances: of each finding.
        patients: of each finding's rarer class.
    """
    each, freedom = np.nan_to_num(np.asarray(variances)), np.asarray(patients, float) - 1
    if not each.any() or (freedom <= 0).any():
        return float(min(patients))
    return float(1 + each.sum() ** 2 / (each**2 / freedom).sum())


def variance_of_mean(
    drawn: NDArray[np.float64], patients: NDArray[Any], metric: str
) -> tuple[float, float]:
    """Return the variance of a mean over findings, and from how many patients that is known.

    Replicates of m patients vary by (m - 1) / m of what they should. And where a rare finding's few
    patients happen to be the easy ones, its replicates hardly vary at all: none is taken to vary
    less, patient for patient, than the findings do on average.

    Args:
        drawn: the metric in each replicate, findings × replicates.
        patients: of each finding's rarer class, at least 2.
        metric: its name; what is scored over all images is not thus raised.
    """
    seen = np.nanvar(drawn, axis=1, ddof=1)
    unbiased = seen * patients / (patients - 1)
    raised = unbiased
    if not METRICS[metric].over_all_images:
        raised = np.maximum(unbiased, (unbiased * patients).mean() / patients)
    variance = float(np.nanvar(drawn.mean(axis=0), ddof=1))
    if variance > 0:
        variance *= unbiased.sum() / seen.sum()
    variance += (raised - unbiased).sum() / len(patients) ** 2
    return variance, effective_patients(raised.tolist(), patients.tolist())


def calibration(
    errors: NDArray[np.float64], drawn: NDArray[np.float64]
) -> tuple[float, float, float]:
    """Return a median-unbiased calibration error with its interval: low, estimate, high.

    The sum of the bins' absolute errors is too large, as noise is never negative (Bröcker 2012,
    Climate Dynamics 39:655). Here it is asked for which true errors what was seen would be the
    median, or as extreme as the level allows: a test is inverted along errors in which each bin is
    so many of its standard errors nearer to nil, or farther from it, than was seen.

    Args:
        errors: of each bin, predicted less observed, as a share of all images; parts × bins. The
            calibration error is the mean over the parts (findings, runs).
        drawn: the same in each replicate, parts × bins × replicates.
    """
    noise = drawn - errors[:, :, None]
    noise = noise[:, :, ~np.isnan(noise).any(axis=(0, 1))]
    nearer = _SHIFTS[:, None, None] * noise.std(axis=2)
    true = np.sign(errors) * np.maximum(np.abs(errors) - nearer, 0)  # shifts × parts × bins
    would = np.array([np.abs(one[:, :, None] + noise).sum(axis=1).mean(axis=0) for one in true])
    tail = (1 - _CALIBRATION_LEVEL) / 2
    quantiles = np.quantile(would, [1 - tail, 0.5, tail], axis=1)
    seen, truths = np.abs(errors).sum(axis=1).mean(), np.abs(true).sum(axis=2).mean(axis=1)
    low, middle, high = (float(np.interp(seen, quantile, truths)) for quantile in quantiles)
    return low, middle, high
