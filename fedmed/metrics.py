"""Scores of predicted probabilities against labels that may be unknown."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

Floats = NDArray[np.float32]


def per_target(
    scores: Floats, labels: Floats, targets: tuple[str, ...]
) -> dict[str, dict[str, float]]:
    """Return AUROC and AUPRC of each target, over the examples whose label is known.

    Args:
        scores: probabilities, n×T.
        labels: n×T of 1, 0 and NaN.
        targets: the T names.

    Returns:
        ``{"auroc": {target: value}, "auprc": …}``; targets without both classes are left out.
    """
    values: dict[str, dict[str, float]] = {"auroc": {}, "auprc": {}}
    for i, target in enumerate(targets):
        known = ~np.isnan(labels[:, i])
        truth, score = labels[known, i], scores[known, i]
        if len(np.unique(truth)) == 2:
            values["auroc"][target] = float(roc_auc_score(truth, score))
            values["auprc"][target] = float(average_precision_score(truth, score))
    return values


def macro(values: dict[str, float]) -> float:
    """Return the unweighted mean over targets, NaN if there is none."""
    return float(np.mean(list(values.values()))) if values else float("nan")


def per_group(
    scores: Floats, labels: Floats, targets: tuple[str, ...], groups: "pd.Series[str]"
) -> dict[str, float]:
    """Return the macro AUROC within each group of examples, NaN where no target has both classes.

    Args:
        scores: probabilities, n×T.
        labels: n×T of 1, 0 and NaN.
        targets: the T names.
        groups: the group of each of the n examples.
    """
    members = {name: (groups == name).to_numpy() for name in sorted(groups.unique())}
    return {
        name: macro(per_target(scores[rows], labels[rows], targets)["auroc"])
        for name, rows in members.items()
    }


def accuracy_by_group(scores: Floats, labels: Floats, groups: "pd.Series[str]") -> dict[str, float]:
    """Return the share of known labels that a threshold of 0.5 gets right, in each group.

    Args:
        scores: probabilities, n×T.
        labels: n×T of 1, 0 and NaN.
        groups: the group of each of the n examples; one whose labels are not known is left out.
    """
    right = pd.DataFrame(np.where(np.isnan(labels), np.nan, (scores > 0.5) == (labels == 1)))
    means = right.groupby(groups.to_numpy()).mean().mean(axis=1).dropna()
    return {str(group): float(value) for group, value in means.items()}


def bce(scores: Floats, labels: Floats) -> float:
    """Return the mean binary cross-entropy over the known labels, NaN if none is known."""
    known = ~np.isnan(labels)
    p = np.clip(scores[known], 1e-7, 1 - 1e-7)
    y = labels[known]
    return float(-(y * np.log(p) + (1 - y) * np.log(1 - p)).mean()) if known.any() else float("nan")
