"""Paired tests: is a method better than the baseline, for other patients and for other seeds?

Every run is tested on the same patients, so that patients and seeds are crossed, as cases and
readers are in a reading study. The variance of the mean difference over the seeds is that of the
spread over seeds and what patients add to all of them alike (Obuchowski & Rockette 1995,
Communications in Statistics 24:285; degrees of freedom by Hillis 2007, Statistics in Medicine
26:596). Two seeds alike by chance would make their spread too small, and one test in eight wrong
(``docs/statistics.md``): it is taken from the differences or from both methods' own spreads,
whichever is larger. With one seed only the patients are known: whether another seed would have told
the same nobody can say.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from fedmed.core.errors import FedmedError
from fedmed.evaluation.bootstrap import Scored
from fedmed.evaluation.delong import areas
from fedmed.evaluation.intervals import LEVEL, effective_patients

Test = Literal["bootstrap", "delong"]


@dataclass(frozen=True)
class Comparison:
    """A difference to the baseline.

    Attributes:
        difference: ours less the baseline's.
        low, high: its 95 % interval.
        p: two-sided, of no difference; not corrected.
        seeds: how many pairs of runs; with one their spread is not known.
    """

    difference: float
    low: float
    high: float
    p: float
    seeds: int


def compare(
    ours: Sequence[Scored],
    baseline: Sequence[Scored],
    metric: str,
    finding: str | None = None,
    test: Test = "bootstrap",
) -> Comparison:
    """Compare runs with the baseline's, pair by pair, on the same patients.

    Args:
        ours: runs, scored with the baseline's seed.
        baseline: as many runs, in pairs with ours.
        metric: one of :data:`~fedmed.evaluation.ranked.METRICS`; DeLong takes ``auroc`` alone.
        finding: None for the mean over all scored findings.
        test: the paired patient bootstrap, or DeLong's with patients as clusters.

    Raises:
        FedmedError: if the runs were not tested on the same images.
    """
    first = baseline[0].predictions
    for one in (*ours, *baseline):
        if not first.same_test(one.predictions):
            raise FedmedError("the runs were tested on other images: they cannot be compared")
    if test == "delong":
        if metric != "auroc":
            raise FedmedError(f"--test delong: is of AUROC alone, not of {metric}; use bootstrap")
        return _delong(ours, baseline, finding)
    return _bootstrap(ours, baseline, metric, finding)


def _bootstrap(
    ours: Sequence[Scored], baseline: Sequence[Scored], metric: str, finding: str | None
) -> Comparison:
    findings = baseline[0].findings if finding is None else (finding,)
    pairs = list(zip(ours, baseline, strict=True))
    values = np.array([[run.value(metric, finding) for run in pair] for pair in pairs])
    drawn = np.array([a.drawn(metric, finding) - b.drawn(metric, finding) for a, b in pairs])
    known = drawn[:, ~np.isnan(drawn).any(axis=0)]
    if known.shape[1] < 2:
        nothing = float("nan")
        difference = float(np.mean(values[:, 0] - values[:, 1]))
        return Comparison(difference, nothing, nothing, nothing, len(pairs))
    covariance = np.cov(known).reshape(len(pairs), len(pairs))
    each = [[a.drawn(metric, f) - b.drawn(metric, f) for a, b in pairs] for f in findings]
    variances = np.nanvar(np.mean(each, axis=1), axis=1, ddof=1)
    patients = effective_patients(variances.tolist(), _rarer(baseline[0], findings))
    return _crossed(values, covariance, patients)


def _delong(ours: Sequence[Scored], baseline: Sequence[Scored], finding: str | None) -> Comparison:
    findings = baseline[0].findings if finding is None else (finding,)
    found = areas([one.predictions for one in (*ours, *baseline)], findings)
    pairs = len(ours)
    contrasts = np.zeros((pairs, 2 * pairs, len(findings)))
    for pair in range(pairs):
        contrasts[pair, pair], contrasts[pair, pairs + pair] = 1, -1
    means = contrasts.reshape(pairs, -1) / len(findings)
    only = np.eye(len(findings))
    variances = [found.contrast(contrasts.mean(axis=0) * one)[1] ** 2 for one in only]
    patients = effective_patients(variances, _rarer(baseline[0], findings))
    values = found.auroc.mean(axis=1).reshape(2, pairs).T
    return _crossed(values, means @ found.covariance @ means.T, patients)


def _rarer(scored: Scored, findings: Sequence[str]) -> list[int]:
    """Return of each finding how many patients the rarer class has."""
    return [min(scored.patients[scored.findings.index(finding)]) for finding in findings]


def _crossed(
    values: NDArray[np.float64], covariance: NDArray[np.float64], patients: float
) -> Comparison:
    """Return the mean difference over seeds with its interval and p.

    Args:
        values: seeds × 2, ours and the baseline's.
        covariance: of the differences over patients, for these models; seeds squared.
        patients: from how many it is known.
    """
    differences = values[:, 0] - values[:, 1]
    seeds, mean = len(differences), float(np.mean(differences))
    freedom = max(patients - 1, 1.0)
    variance = float(covariance.mean())  # for these models
    if seeds > 1:
        own = np.var(values, axis=0, ddof=1).sum()
        apart = float(max(np.var(differences, ddof=1), own)) / seeds
        alike = max((covariance.sum() - np.trace(covariance)) / (seeds * (seeds - 1)), 0.0)
        if apart + alike >= variance and apart > 0:
            variance = apart + alike
            freedom = variance**2 / (apart**2 / (seeds - 1) + alike**2 / freedom)
    error = variance**0.5
    if error == 0:  # each patient says the same: a sign test of the rarer class's
        p = 1.0 if mean == 0 else min(1.0, 2.0 ** (1 - patients))
    else:
        p = float(2 * t.sf(abs(mean) / error, freedom))
    half = float(t.ppf((1 + LEVEL) / 2, freedom)) * error
    return Comparison(mean, mean - half, mean + half, p, seeds)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979); NaNs are no tests and stay."""
    p = np.asarray(p_values, float)
    corrected = np.full(len(p), np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1, np.maximum.accumulate(steps)) if len(order) else []
    return [float(value) for value in corrected]


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of the mean over seeds, NaN for fewer than two."""
    n = len(values)
    return float(np.std(values, ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
