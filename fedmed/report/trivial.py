"""What says nothing of an image, on a run's own test data: the figures that a model must beat."""

from collections.abc import Iterator

import numpy as np

from fedmed.evaluation.metrics import Floats, accuracy_by_group, macro, per_group
from fedmed.evaluation.predictions import Predictions
from fedmed.evaluation.ranked import METRICS, Ranked
from fedmed.runs.run import Run

ONE, BY_SITE = "one answer", "by site"
_CHANCE = 0.5  # AUROC of one answer to all: every pair of a positive and a negative is a tie


def trivial(run: Run, value: str) -> dict[str, float]:
    """Return the figure of answers that know nothing, or only where an image comes from.

    ``one answer`` is the best of yes to all, no to all, and each target's more frequent label.
    ``by site`` answers with the share of positives at the image's site. Both go by the test labels
    themselves: it is as good as such an answer can be.

    Args:
        run: that is finished.
        value: a key of ``summary.json``.

    Returns:
        Figures by name; none where the figure has no such meaning.
    """
    if value.startswith("val."):  # whose labels a run does not keep
        auroc = value in ("val.mean", "val.worst")
        return {ONE: _CHANCE} if auroc else {}
    key = value.removeprefix("test.")
    metric = METRICS.get(key.removeprefix("macro_").split(".")[0])
    if metric and metric.lower_is_better:
        return {}
    found = run.scored.predictions
    figures = [_figure(found, scores, key) for scores in _answers(found.labels)]
    known = [figure for figure in figures if figure is not None]
    if not known:
        return {}
    by_site = _figure(found, _site_shares(found), key)
    more = found.images["site"].nunique() > 1 and by_site is not None
    return {ONE: max(known), **({BY_SITE: by_site} if more and by_site is not None else {})}


def _answers(labels: Floats) -> Iterator[Floats]:
    for answer in (0.0, 1.0):
        yield np.full_like(labels, answer)
    yield np.broadcast_to(np.nanmean(labels, axis=0) > 0.5, labels.shape).astype(labels.dtype)


def _site_shares(found: Predictions) -> Floats:
    scores = np.full_like(found.labels, _CHANCE)
    sites = found.images["site"].to_numpy()
    for site in np.unique(sites):
        mine = found.labels[sites == site]
        known = ~np.isnan(mine)
        sums, counts = np.where(known, mine, 0).sum(axis=0), known.sum(axis=0)
        scores[sites == site] = np.divide(
            sums, counts, out=np.full_like(sums, _CHANCE), where=counts > 0
        )
    return scores


def _figure(found: Predictions, scores: Floats, key: str) -> float | None:
    """Return a figure of ``summary.json``'s ``test`` for other scores, None if it is none."""
    sites, labels = found.images["site"], found.labels
    if key == "mean_site_accuracy":
        return macro(accuracy_by_group(scores, labels, sites))
    group, _, name = key.partition(".")
    if group == "accuracy_by_site":
        return accuracy_by_group(scores, labels, sites).get(name)
    if group == "by_site":
        return per_group(scores, labels, found.targets, sites).get(name)
    metric = key.removeprefix("macro_").split(".")[0]
    if metric not in METRICS:
        return None
    values = {}
    for at, target in enumerate(found.targets):
        whose = found.patients
        ranked = Ranked(scores[:, at], labels[:, at], whose, int(whose.max(initial=-1)) + 1)
        if ranked.both_classes:
            ones = np.ones((int(whose.max()) + 1, 1))
            values[target] = float(ranked.evaluate(ones)[metric][0])
    if key.startswith("macro_"):
        return macro(values)
    return values.get(name)
