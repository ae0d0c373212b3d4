"""Curves of a run, thinned for a page: how it learnt, its ROC and its reliability."""

from typing import Any

import numpy as np
from sklearn.metrics import roc_curve

from fedmed.evaluation.predictions import Predictions
from fedmed.evaluation.ranked import Ranked
from fedmed.runs.run import Run

Points = list[list[float]]
POINTS = 61  # of a ROC curve, evenly spaced along it


def learning(run: Run) -> Points:
    """Return round and test macro AUROC, as far as the run came."""
    if not (run.folder / "metrics.csv").exists():
        return []
    rows = run.metrics
    test = rows[(rows["scope"] == "test") & (rows["metric"] == "macro_auroc")]
    test = test[test["value"].notna()]
    return [[int(r), rounded(v)] for r, v in zip(test["round"], test["value"], strict=True)]


def by_finding(predictions: Predictions) -> dict[str, dict[str, Any]]:
    """Return the ROC and the reliability curve of each finding with both classes.

    A ROC curve is :data:`POINTS` points on it; between them lie patients, of whom none is told.
    """
    whose = predictions.patients
    found = {}
    for at, target in enumerate(predictions.targets):
        scores, labels = predictions.scores[:, at], predictions.labels[:, at]
        ranked = Ranked(scores, labels, whose, int(whose.max(initial=-1)) + 1)
        if ranked.both_classes:
            known = ~np.isnan(labels)
            false, true, _ = roc_curve(labels[known], scores[known])
            along = np.linspace(0, 2, POINTS)
            curve = [np.interp(along, false + true, axis) for axis in (false, true)]
            found[target] = {
                "roc": np.stack(curve, axis=1).round(4).tolist(),
                "reliability": {
                    k: [rounded(v) for v in column] for k, column in ranked.reliability().items()
                },
            }
    return found


def rounded(value: float) -> float:
    """Return a figure with the digits that a picture shows."""
    return round(float(value), 4)
