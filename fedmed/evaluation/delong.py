"""The covariance of AUROCs without resampling: DeLong's, for images that cluster in patients.

DeLong, DeLong & Clarke-Pearson 1988 (Biometrics 44:837) give the covariance of the areas under
correlated ROC curves from each image's placement among those of the other class; midranks make it
fast (Sun & Xu 2014, IEEE Signal Processing Letters 21:1389). Obuchowski 1997 (Biometrics 53:567)
sums the placements of a patient's images first, and adds what a patient's positive and negative
images have in common. With one image a patient both are the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

from fedmed.evaluation.metrics import Floats
from fedmed.evaluation.predictions import Predictions
from fedmed.evaluation.ranked import Values


@dataclass(frozen=True)
class Areas:
    """AUROCs of models on findings, and their covariance.

    Attributes:
        auroc: models × findings.
        covariance: of all of them, model by model, (models · findings) squared.
    """

    auroc: NDArray[np.float64]
    covariance: NDArray[np.float64]

    def contrast(self, weights: NDArray[np.float64]) -> tuple[float, float, float]:
        """Return a weighted sum of the areas, its standard error and the two-sided p of zero.

        Args:
            weights: models × findings.
        """
        flat = weights.ravel()
        value = float(flat @ self.auroc.ravel())
        error = max(float(flat @ self.covariance @ flat), 0.0) ** 0.5
        p = 2 * norm.sf(abs(value) / error) if error else float(value == 0)
        return value, error, float(p)


def areas(models: Sequence[Predictions], findings: Sequence[str]) -> Areas:
    """Return the AUROCs of several models on the same test, with their covariance.

    Across findings a patient may be positive for one and negative for another; the same sums
    over patients then give the covariance, so that a macro AUROC has a standard error too.

    Args:
        models: predictions on the same images.
        findings: targets with both classes.
    """
    whose = models[0].patients
    at = [models[0].targets.index(finding) for finding in findings]
    parts = [_placements(m.scores[:, i], m.labels[:, i], whose) for m in models for i in at]
    positive = np.stack([part.positive for part in parts])
    negative = np.stack([part.negative for part in parts])
    scale_p = np.array([part.scale_positive for part in parts])[:, None]
    scale_n = np.array([part.scale_negative for part in parts])[:, None]
    clusters = positive.shape[1]
    shared = positive @ negative.T * (clusters / (clusters - 1))
    covariance = (
        (positive * scale_p) @ (positive * scale_p).T
        + (negative * scale_n) @ (negative * scale_n).T
        + shared
        + shared.T
    )
    auroc = np.array([part.auroc for part in parts]).reshape(len(models), len(at))
    return Areas(auroc, covariance)


@dataclass(frozen=True)
class _Placements:
    """A finding's AUROC, and each patient's centred sum of placements over the class's images."""

    auroc: float
    positive: Values
    negative: Values
    scale_positive: float
    scale_negative: float


def _placements(scores: Floats, labels: Floats, patients: NDArray[np.intp]) -> _Placements:
    count = int(patients.max()) + 1
    known = ~np.isnan(labels)
    score, truth, whose = scores[known], labels[known] == 1, patients[known]
    m, n = int(truth.sum()), int((~truth).sum())
    rank = rankdata(score)
    v10 = (rank[truth] - rankdata(score[truth])) / n
    v01 = 1 - (rank[~truth] - rankdata(score[~truth])) / m
    auroc = float(v10.mean())
    positive = np.bincount(whose[truth], v10 - auroc, count) / m
    negative = np.bincount(whose[~truth], v01 - auroc, count) / n
    return _Placements(auroc, positive, negative, _unbiased(whose[truth]), _unbiased(whose[~truth]))


def _unbiased(patients: NDArray[np.intp]) -> float:
    """Return the root of I / (I - 1) for I patients."""
    clusters = len(np.unique(patients))
    return float(np.sqrt(clusters / (clusters - 1))) if clusters > 1 else float("nan")
