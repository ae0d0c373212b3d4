"""Predictions that are as messy as real ones, and their scores by scikit-learn."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score, roc_curve

from fedmed.evaluation.predictions import Predictions


def predictions(
    scores: np.ndarray, labels: np.ndarray, patients: np.ndarray | Sequence[object], **more: object
) -> Predictions:
    """Name the targets a, b, … and the images after their row."""
    columns = {"image": [str(i) for i in range(len(scores))], "patient": patients, **more}
    targets = tuple("abcdefgh"[: scores.shape[1]])
    return Predictions(targets, scores, labels, pd.DataFrame(columns))


def messy_predictions() -> Predictions:
    """Ties, labels that are not known, a finding of one class, one that nobody knows."""
    rng = np.random.default_rng(0)
    labels = (rng.random((400, 4)) < [0.3, 0.1, 1.0, 0.5]).astype(np.float32)
    scores = np.clip(0.2 * labels + rng.random((400, 4)).round(1), 0, 1).astype(np.float32)
    labels[rng.random((400, 4)) < 0.2] = np.nan
    labels[:, 3] = np.nan
    return predictions(scores, labels, [f"p{i}" for i in rng.integers(0, 150, 400)])


def by_sklearn(score: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    false, true, _ = roc_curve(truth, score, drop_intermediate=False)
    observed, mean = calibration_curve(truth, score, n_bins=10)
    bins = np.searchsorted(np.linspace(0, 1, 11)[1:-1], score)
    images = np.bincount(bins)[np.unique(bins)]
    return {
        "auroc": roc_auc_score(truth, score),
        "auprc": average_precision_score(truth, score),
        "sensitivity_at_90_specificity": true[false <= 0.1 + 1e-9].max(),
        "sensitivity_at_95_specificity": true[false <= 0.05 + 1e-9].max(),
        "brier": brier_score_loss(truth, score),
        "ece": np.average(np.abs(observed - mean), weights=images),
    }
