"""Scores with their bootstrap replicates, in which patients are drawn, not images.

A replicate draws as many patients as there are, with replacement, and takes all images of each
(Efron & Tibshirani 1993). What intervals are made of them says
:mod:`~fedmed.evaluation.intervals`. The draws depend on the seed and the
number of patients alone, so that two models on the same patients are compared in the same draws.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedmed.core.seeding import generator
from fedmed.evaluation.intervals import (
    LEAST,
    LEVEL,
    UNKNOWN,
    Interval,
    calibration,
    proportion,
    variance_of_mean,
)
from fedmed.evaluation.predictions import Predictions
from fedmed.evaluation.ranked import BINS, METRICS, Ranked, Values, Weights

REPLICATES = 1000
DEBIASED = "ece_debiased"  # beside METRICS: a calibration error that noise does not enlarge
ENOUGH = 0.5  # of the replicates must have both classes for an interval to be given
_CHUNK = 32  # replicates that are weighed in one product


@dataclass(frozen=True)
class Scored:
    """All metrics of some predictions.

    Attributes:
        predictions: what was scored.
        findings: the targets with both classes; only they are scored.
        values: by metric, one a finding.
        replicates: by metric, findings × replicates.
        patients: of each finding, how many have it and how many have not.
        errors: each bin's calibration error, findings × bins.
        drawn_errors: the same in the replicates, findings × bins × replicates.
    """

    predictions: Predictions
    findings: tuple[str, ...]
    values: dict[str, Values]
    replicates: dict[str, NDArray[np.float64]]
    patients: tuple[tuple[int, int], ...]
    errors: NDArray[np.float64]
    drawn_errors: NDArray[np.float64]

    def value(self, metric: str, finding: str | None = None) -> float:
        """Return a metric of a finding, or the mean over all that are scored, NaN if none is.

        The metric is one of :data:`~fedmed.evaluation.ranked.METRICS`, or :data:`DEBIASED`, which
        needs replicates.
        """
        if metric == DEBIASED:
            return _calibration([self], finding)[1]
        values = self._of(self.values[metric], finding)
        return float(values.mean()) if len(values) else float("nan")

    def drawn(self, metric: str, finding: str | None = None) -> Values:
        """Return the metric in each replicate, NaN in those where a finding lacks a class."""
        drawn = self._of(self.replicates[metric], finding)
        return drawn.mean(axis=0) if len(drawn) else np.full(drawn.shape[1], np.nan)

    def interval(self, metric: str, finding: str | None = None) -> Interval:
        """Return a metric's interval over patients; see :func:`interval_of`."""
        return interval_of([self], metric, finding)

    def _of(self, values: NDArray[np.float64], finding: str | None) -> NDArray[np.float64]:
        return values if finding is None else values[[self.findings.index(finding)]]


def score(predictions: Predictions, replicates: int = REPLICATES, seed: int = 0) -> Scored:
    """Score predictions, and again in each bootstrap replicate.

    Args:
        predictions: of n images.
        replicates: how many; 0 for the scores alone.
        seed: of the draws.
    """
    whose = predictions.patients
    count = int(whose.max(initial=-1)) + 1
    ranked = {
        target: Ranked(predictions.scores[:, i], predictions.labels[:, i], whose, count)
        for i, target in enumerate(predictions.targets)
    }
    able = {target: one for target, one in ranked.items() if one.both_classes}
    everyone, errors = _evaluate(list(able.values()), np.ones((count, 1)))
    drawn = [_evaluate(list(able.values()), w) for w in resamples(count, replicates, seed)]
    none = np.empty((len(able), BINS, 0))
    return Scored(
        predictions,
        tuple(able),
        {metric: values[:, 0] for metric, values in everyone.items()},
        {
            metric: np.concatenate(
                [np.empty((len(able), 0)), *(values[metric] for values, _ in drawn)], axis=1
            )
            for metric in METRICS
        },
        tuple(one.patients for one in able.values()),
        errors[:, :, 0],
        np.concatenate([none, *(chunk for _, chunk in drawn)], axis=2),
    )


def resamples(patients: int, replicates: int, seed: int) -> Iterator[Weights]:
    """Yield how often each patient is drawn, patients × at most a chunk of replicates."""
    rng = generator(seed, "bootstrap", patients)
    for start in range(0, replicates, _CHUNK):
        width = min(_CHUNK, replicates - start)
        drawn = rng.integers(0, patients, (patients, width)) * width + np.arange(width)
        counts = np.bincount(drawn.ravel(), minlength=patients * width)
        yield counts.reshape(patients, width).astype(np.float64)


def interval(drawn: Values, level: float = LEVEL) -> Interval:
    """Return the interval of a score by its replicates alone: see :func:`interval_of`.

    How few patients it rests on is not known here. Replicates without a value, in which a class is
    absent, are left out; where more than half of them are, or there are none, no interval is given
    (NaN).
    """
    known = drawn[~np.isnan(drawn)]
    if len(known) < max(2, ENOUGH * len(drawn)):
        return UNKNOWN
    return proportion(float(known.mean()), float(known.var(ddof=1)), level=level)


def interval_of(runs: Sequence[Scored], metric: str, finding: str | None = None) -> Interval:
    """Return the interval, over patients, of a metric's mean over runs on the same patients.

    None is given (NaN) below :data:`~fedmed.evaluation.intervals.LEAST` patients of either class;
    of a mean over findings, below as many that its variance is known by. A calibration error's is
    that of :data:`DEBIASED`: the plain one is too large, and may lie above it.

    Args:
        runs: scored in the same draws.
        metric: one of :data:`~fedmed.evaluation.ranked.METRICS`, or :data:`DEBIASED`.
        finding: None for the mean over all that are scored.
    """
    first = runs[0]
    which = slice(None) if finding is None else [first.findings.index(finding)]
    rarer = np.min(first.patients, axis=1)[which] if first.patients else np.zeros(0)
    name = "ece" if metric == DEBIASED else metric
    each = np.mean([run.replicates[name][which] for run in runs], axis=0)
    if each.shape[1] < 2 or each.size == 0 or np.isnan(each).any(axis=0).mean() > ENOUGH:
        return UNKNOWN
    if rarer.min() < 2:
        return UNKNOWN
    variance, patients = variance_of_mean(each, rarer, name)
    if patients < LEAST:
        return UNKNOWN
    if name == "ece":
        low, _, high = _calibration(runs, finding)
        return low, high
    value = float(np.mean([run.value(metric, finding) for run in runs]))
    if METRICS[name].biased:
        value = min(max(2 * value - float(np.nanmean(each)), 0), 1)
    return proportion(value, variance, 1 + (patients - 1) * METRICS[name].share_of_patients)


def _calibration(runs: Sequence[Scored], finding: str | None) -> tuple[float, float, float]:
    which = slice(None) if finding is None else [runs[0].findings.index(finding)]
    errors = np.concatenate([run.errors[which] for run in runs])
    drawn = np.concatenate([run.drawn_errors[which] for run in runs])
    if not drawn.size:
        return (float("nan"),) * 3
    return calibration(errors, drawn)


def _evaluate(
    ranked: list[Ranked], weights: Weights
) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.float64]]:
    """Return each metric, findings × replicates, and the findings' calibration errors by bin."""
    found = [one.evaluate(weights) for one in ranked]
    width = weights.shape[1]
    values = {m: np.array([f[m] for f in found]).reshape(-1, width) for m in METRICS}
    errors = np.array([one.errors(weights) for one in ranked]).reshape(-1, BINS, width)
    return values, errors
