"""Paired tests: is a model better than the baseline on the same test patients?

Both tests condition on the trained models: they say whether other patients would have told the
models apart, not whether other seeds would. With several seeds the difference is the mean over the
pairs of runs of one seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedmed.errors import FedmedError
from fedmed.evaluation.bootstrap import Scored, interval
from fedmed.evaluation.delong import areas

Test = Literal["bootstrap", "delong"]


@dataclass(frozen=True)
class Comparison:
    """A difference to the baseline.

    Attributes:
        difference: ours less the baseline's.
        low, high: its 95 % interval.
        p: two-sided, of no difference; not corrected.
    """

    difference: float
    low: float
    high: float
    p: float


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
    pairs = list(zip(ours, baseline, strict=True))
    difference = np.mean([a.value(metric, finding) - b.value(metric, finding) for a, b in pairs])
    drawn = np.mean([a.drawn(metric, finding) - b.drawn(metric, finding) for a, b in pairs], axis=0)
    known = drawn[~np.isnan(drawn)]
    tails = (1 + np.sum(known <= 0), 1 + np.sum(known >= 0))
    p = min(1.0, 2 * min(tails) / (1 + len(known)))
    return Comparison(float(difference), *interval(drawn), p if len(known) else float("nan"))


def _delong(ours: Sequence[Scored], baseline: Sequence[Scored], finding: str | None) -> Comparison:
    findings = baseline[0].findings if finding is None else (finding,)
    found = areas([one.predictions for one in (*ours, *baseline)], findings)
    weights = np.full((len(ours) + len(baseline), len(findings)), 1 / len(ours) / len(findings))
    weights[len(ours) :] *= -1
    difference, error, p = found.contrast(weights)
    return Comparison(difference, difference - 1.96 * error, difference + 1.96 * error, p)


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
