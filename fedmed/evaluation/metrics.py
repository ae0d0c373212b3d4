"""Scores of predicted probabilities against labels that may be unknown.

Groups (sites, clients) are compared by their macro AUROC over the same findings, those with both
classes in every one of them, so that none looks better for lack of a hard finding.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float32]
AUROC, POSITIVES = "auroc", "positives"  # in a client's reply, lists of one a target
FEW = 10  # patients with a finding: a group's mean over fewer is told to be of few


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
    from sklearn.metrics import average_precision_score, roc_auc_score  # slow; training needs none

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


@dataclass(frozen=True)
class Compared:
    """Groups side by side.

    Attributes:
        findings: what they are compared over, those with both classes in every group that is not
            left out; none where there is no such finding.
        macro: of each group the mean AUROC over the findings, NaN where it is left out.
        positives: of each group that is not left out, its patients with the rarest of the findings.
    """

    findings: tuple[str, ...] = ()
    macro: dict[str, float] = field(default_factory=dict)
    positives: dict[str, int] = field(default_factory=dict)

    @property
    def left_out(self) -> list[str]:
        """The groups that are not compared."""
        return [name for name in self.macro if name not in self.positives]


def compared(
    auroc: Mapping[str, Mapping[str, float]], positives: Mapping[str, Mapping[str, int]]
) -> Compared:
    """Compare groups over the findings that they share.

    A group without any finding of both classes is left out. Where the others share none, those
    with fewer than :data:`FEW` patients with any of the findings are left out too.

    Args:
        auroc: by group and finding, as far as both classes are there.
        positives: by group and finding, how many patients have it.
    """
    able = [name for name, values in auroc.items() if values]
    if not _shared(auroc, able):
        able = [name for name in able if sum(positives[name].values()) >= FEW]
    findings = _shared(auroc, able)
    nothing = float("nan")
    macros = {
        name: macro({f: values[f] for f in findings}) if findings and name in able else nothing
        for name, values in auroc.items()
    }
    rarest = {name: min(positives[name].get(f, 0) for f in findings) for name in able if findings}
    return Compared(findings, macros, rarest)


def _shared(auroc: Mapping[str, Mapping[str, float]], names: list[str]) -> tuple[str, ...]:
    if not names:
        return ()
    return tuple(f for f in auroc[names[0]] if all(f in auroc[name] for name in names))


def by_group(
    scores: Floats,
    labels: Floats,
    targets: tuple[str, ...],
    groups: "pd.Series[str]",
    patients: "pd.Series[str] | None" = None,
) -> Compared:
    """Compare groups of examples by their macro AUROC over the findings that they share.

    Args:
        scores: probabilities, n×T.
        labels: n×T of 1, 0 and NaN.
        targets: the T names.
        groups: the group of each of the n examples.
        patients: whose each of them is; None where each is of another.
    """
    whose = np.arange(len(labels)) if patients is None else patients.to_numpy()
    members = {str(name): (groups == name).to_numpy() for name in sorted(groups.dropna().unique())}
    auroc = {k: per_target(scores[r], labels[r], targets)["auroc"] for k, r in members.items()}
    counts = {k: positives(labels[r], whose[r], targets) for k, r in members.items()}
    return compared(auroc, counts)


def positives(
    labels: Floats, patients: NDArray[np.generic], targets: tuple[str, ...]
) -> dict[str, int]:
    """Return how many patients have an image that shows each target."""
    return {t: len(np.unique(patients[labels[:, i] == 1])) for i, t in enumerate(targets)}


def per_group(
    scores: Floats, labels: Floats, targets: tuple[str, ...], groups: "pd.Series[str]"
) -> dict[str, float]:
    """Return the macro AUROC within each group of examples: see :func:`by_group`."""
    return by_group(scores, labels, targets, groups).macro


def accuracy_by_group(scores: Floats, labels: Floats, groups: "pd.Series[str]") -> dict[str, float]:
    """Return the share of known labels that a threshold of 0.5 gets right, in each group.

    It is the mean over the targets that are known in every group.

    Args:
        scores: probabilities, n×T.
        labels: n×T of 1, 0 and NaN.
        groups: the group of each of the n examples; one whose labels are not known is left out.
    """
    right = pd.DataFrame(np.where(np.isnan(labels), np.nan, (scores > 0.5) == (labels == 1)))
    shares = right.groupby(groups.to_numpy()).mean().dropna(how="all")
    means = shares.dropna(axis=1).mean(axis=1).dropna()
    return {str(group): float(value) for group, value in means.items()}


def bce(scores: Floats, labels: Floats) -> float:
    """Return the mean binary cross-entropy over the known labels, NaN if none is known."""
    known = ~np.isnan(labels)
    p = np.clip(scores[known], 1e-7, 1 - 1e-7)
    y = labels[known]
    return float(-(y * np.log(p) + (1 - y) * np.log(1 - p)).mean()) if known.any() else float("nan")
