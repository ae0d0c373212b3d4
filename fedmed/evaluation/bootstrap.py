"""Scores with their bootstrap replicates, in which patients are drawn, not images.

Percentile intervals (Efron & Tibshirani 1993, chapter 13). A replicate draws as many patients as
there are, with replacement, and takes all images of each. The draws depend on the seed and the
number of patients alone, so that two models on the same patients are compared in the same draws.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedmed.evaluation.predictions import Predictions
from fedmed.evaluation.ranked import METRICS, Ranked, Values, Weights
from fedmed.seeding import generator

REPLICATES = 1000
LEVEL = 0.95
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
    """

    predictions: Predictions
    findings: tuple[str, ...]
    values: dict[str, Values]
    replicates: dict[str, NDArray[np.float64]]

    def value(self, metric: str, finding: str | None = None) -> float:
        """Return a metric of a finding, or the mean over all that are scored, NaN if none is."""
        values = self._of(self.values[metric], finding)
        return float(values.mean()) if len(values) else float("nan")

    def drawn(self, metric: str, finding: str | None = None) -> Values:
        """Return the metric in each replicate, NaN in those where a finding lacks a class."""
        drawn = self._of(self.replicates[metric], finding)
        return drawn.mean(axis=0) if len(drawn) else np.full(drawn.shape[1], np.nan)

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
    everyone = _evaluate(list(able.values()), np.ones((count, 1)))
    drawn = [_evaluate(list(able.values()), w) for w in resamples(count, replicates, seed)]
    return Scored(
        predictions,
        tuple(able),
        {metric: values[:, 0] for metric, values in everyone.items()},
        {
            metric: np.concatenate([chunk[metric] for chunk in drawn], axis=1)
            if drawn
            else np.empty((len(able), 0))
            for metric in METRICS
        },
    )


def resamples(patients: int, replicates: int, seed: int) -> Iterator[Weights]:
    """Yield how often each patient is drawn, patients × at most a chunk of replicates."""
    rng = generator(seed, "bootstrap", patients)
    for start in range(0, replicates, _CHUNK):
        width = min(_CHUNK, replicates - start)
        drawn = rng.integers(0, patients, (patients, width)) * width + np.arange(width)
        counts = np.bincount(drawn.ravel(), minlength=patients * width)
        yield counts.reshape(patients, width).astype(np.float64)


def interval(drawn: Values, level: float = LEVEL) -> tuple[float, float]:
    """Return the percentile interval of replicates.

    Replicates without a value, in which a class is absent, are left out; where more than half of
    them are, or there are none, no interval is given (NaN).
    """
    known = drawn[~np.isnan(drawn)]
    if len(known) < max(1, ENOUGH * len(drawn)):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _evaluate(ranked: list[Ranked], weights: Weights) -> dict[str, NDArray[np.float64]]:
    """Return each metric, findings × replicates."""
    found = [one.evaluate(weights) for one in ranked]
    width = weights.shape[1]
    return {m: np.array([f[m] for f in found]).reshape(-1, width) for m in METRICS}
