"""One target's predictions, ranked once, so that any weighting of the patients is scored at once.

A bootstrap replicate is a weight for each patient: how often they were drawn. All metrics here are
sums over images of a patient, so that they follow from a few sparse matrices (threshold × patient)
times the patients' weights, for many replicates in one product. With weights of one they are the
ordinary metrics, and equal scikit-learn's.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from fedmed.evaluation.metrics import Floats

Weights = NDArray[np.float64]  # patients × replicates
Values = NDArray[np.float64]  # one a replicate
SPECIFICITIES = (90, 95)  # per cent


class Metric(NamedTuple):
    """What must be known of a metric beside its value.

    Attributes:
        head: of its column where scores are listed; empty where it is none of them.
        lower_is_better: whether it is an error.
        over_all_images: whether it is scored over all images, so that a rare finding's is known as
            well as a common one's.
        biased: whether it is too large where positives are few; as much more in a replicate, in
            which they are fewer still.
        share_of_patients: of the rarer class's, what its variance is known by.
    """

    head: str
    lower_is_better: bool = False
    over_all_images: bool = False
    biased: bool = False
    share_of_patients: float = 1.0


#: The metrics by name. What they are is in :meth:`Ranked.evaluate`.
METRICS: Mapping[str, Metric] = {
    # few of the placements, those of the hard cases, make most of its variance
    "auroc": Metric("AUROC", share_of_patients=0.5),
    "auprc": Metric("AUPRC", biased=True),
    **{f"sensitivity_at_{s}_specificity": Metric(f"sens@{s}%") for s in SPECIFICITIES},
    "accuracy": Metric("accuracy", over_all_images=True),
    "brier": Metric("Brier", lower_is_better=True, over_all_images=True),
    "ece": Metric("", lower_is_better=True, over_all_images=True),  # the debiased one is listed
}
BINS = 10  # of equal width, for the calibration error and the reliability curve
_EDGES = np.linspace(0, 1, BINS + 1)[1:-1]


class Ranked:
    """One target's predictions.

    Args:
        scores: probabilities of n images.
        labels: n of 1, 0 and NaN; images whose label is not known are left out.
        patients: the number of each image's patient.
        count: of the patients.

    Attributes:
        both_classes: whether any image shows the target and any does not.
        patients: how many have an image that shows it, and how many one that does not.
    """

    def __init__(
        self, scores: Floats, labels: Floats, patients: NDArray[np.intp], count: int
    ) -> None:
        known = ~np.isnan(labels)
        score, whose = scores[known].astype(np.float64), patients[known]
        truth = labels[known] == 1
        self.both_classes = bool(truth.any() and not truth.all())
        self.patients = len(np.unique(whose[truth])), len(np.unique(whose[~truth]))
        self.thresholds, rank = np.unique(score[truth], return_inverse=True)
        left = np.searchsorted(self.thresholds, score[~truth], "left")
        right = np.searchsorted(self.thresholds, score[~truth], "right")
        negative, tied = whose[~truth], left < right
        levels = len(self.thresholds)
        self._positive = _counts(rank, whose[truth], (levels, count))
        self._below = _counts(right, negative, (levels + 1, count))
        self._tied = _counts(left[tied], negative[tied], (levels, count))
        bins, everyone = np.searchsorted(_EDGES, score), (BINS, count)
        self._scored = _counts(bins, whose, everyone)
        self._score = _counts(bins, whose, everyone, score)
        self._excess = _counts(bins, whose, everyone, score - truth)
        self._correct = np.bincount(whose, (score > 0.5) == truth, count)
        self._squares = np.bincount(whose, (score - truth) ** 2, count)

    def evaluate(self, weights: Weights) -> dict[str, Values]:
        """Return each of :data:`METRICS` under each weighting of the patients.

        AUROC counts ties by half. AUPRC is the average precision. The sensitivity is the highest
        of any threshold whose specificity is at least as asked. Accuracy is at a
        threshold of 0.5. Brier is the mean squared error.
        ECE is the expected calibration error over :data:`BINS` bins (Guo et al. 2017).

        Args:
            weights: patients × replicates, not negative.

        Returns:
            Values by metric, NaN where a replicate lacks a class.
        """
        positive = self._positive @ weights
        below = np.cumsum(self._below @ weights, axis=0)
        negatives, below = below[-1], below[:-1]
        positives = positive.sum(axis=0)
        hits = np.cumsum(positive[::-1], axis=0)[::-1]  # positives from a threshold upwards
        false = negatives - below
        flagged = hits + false
        precision = np.divide(hits, flagged, out=np.zeros_like(hits), where=flagged > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            wins = (positive * (below + 0.5 * (self._tied @ weights))).sum(axis=0)
            values = {
                "auroc": wins / (positives * negatives),
                "auprc": (positive * precision).sum(axis=0) / positives,
            }
            for specificity in SPECIFICITIES:
                allowed = false <= (1 - specificity / 100) * negatives * (1 + 1e-12)
                found = np.where(allowed, hits, 0).max(axis=0, initial=0)
                values[f"sensitivity_at_{specificity}_specificity"] = found / positives
            total = positives + negatives
            values["accuracy"] = self._correct @ weights / total
            values["brier"] = self._squares @ weights / total
            values["ece"] = np.abs(self.errors(weights)).sum(axis=0)
        lacking = (positives == 0) | (negatives == 0)
        return {name: np.where(lacking, np.nan, values[name]) for name in METRICS}

    def auroc(self, weights: Weights) -> Values:
        """Return the AUROC alone under each weighting, NaN where it lacks a class.

        Args:
            weights: patients × replicates, not negative.
        """
        positive = self._positive @ weights
        below = np.cumsum(self._below @ weights, axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            wins = (positive * (below[:-1] + 0.5 * (self._tied @ weights))).sum(axis=0)
            return np.asarray(wins / (positive.sum(axis=0) * below[-1]))

    def errors(self, weights: Weights) -> NDArray[np.float64]:
        """Return each bin's calibration error: predicted less observed, as a share of all images.

        Args:
            weights: patients × replicates, not negative.

        Returns:
            Bins × replicates; the sum of their absolute values is the ECE.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            errors = self._excess @ weights / (self._scored @ weights).sum(axis=0)
        return np.asarray(errors)

    def reliability(self) -> dict[str, list[float]]:
        """Return the reliability curve: of each bin in use, mean score, share observed, images."""
        images = self._scored.sum(axis=1)
        used = images > 0
        score = self._score.sum(axis=1)
        observed = score - self._excess.sum(axis=1)
        return {
            "score": (score[used] / images[used]).tolist(),
            "observed": (observed[used] / images[used]).tolist(),
            "images": images[used].tolist(),
        }


def _counts(
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
    shape: tuple[int, int],
    values: Values | None = None,
) -> csr_array:
    """Return a matrix with the sum of the values, or the number, of the entries at each place."""
    filled = np.ones(len(rows)) if values is None else values
    return csr_array((filled, (rows, columns)), shape=shape)
