"""Membership inference: which patients was a model trained on? The patient is what is attacked.

The scores of a patient's images are averaged before any threshold: whoever is in is in with all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import log_expit, logit, ndtr
from sklearn.metrics import roc_auc_score, roc_curve

from fedmed.core.errors import DataError
from fedmed.evaluation.metrics import Floats

Values = NDArray[np.floating[Any]]
Members = NDArray[np.bool_]

FPRS = (0.01, 0.001)
FEWEST_SHADOWS = 2  # without a patient, for its variance
_SURE = 1e-7  # float32 probabilities tell no more


@dataclass(frozen=True)
class Attack:
    """How well members and others are told apart.

    Attributes:
        auc: area under the ROC curve; 0.5 by chance.
        tpr: share of the members found, at each false-positive rate of ``FPRS``.
        members, others: how many patients of each. With fewer others than 1 / FPR, the rate is
            the one at no false positive at all.
    """

    auc: float
    tpr: dict[float, float]
    members: int
    others: int


def attack(scores: Values, members: Members) -> Attack:
    """Return the attack that calls members all patients above a threshold.

    Args:
        scores: one a patient, higher where it seems to be a member.
        members: whether it is.

    Raises:
        DataError: if there are not both members and others.
    """
    if members.all() or not members.any():
        raise DataError(
            "audit: membership takes patients who were trained on and some who were not"
        )
    false, true, _ = roc_curve(members, scores, drop_intermediate=False)
    return Attack(
        auc=float(roc_auc_score(members, scores)),
        tpr={fpr: float(true[false <= fpr].max()) for fpr in FPRS},
        members=int(members.sum()),
        others=int((~members).sum()),
    )


def confidences(scores: Floats, labels: Floats, patients: Sequence[str]) -> "pd.Series[float]":
    """Return each patient's mean logit of the true label, over images and known targets.

    Args:
        scores: probabilities, n×T.
        labels: n×T of 1, 0 and NaN.
        patients: whose each of the n images is.
    """
    return _by_patient(_margins(scores, labels), patients)


def losses(scores: Floats, labels: Floats, patients: Sequence[str]) -> "pd.Series[float]":
    """Return each patient's mean binary cross-entropy, over images and known targets."""
    return _by_patient(-log_expit(_margins(scores, labels)), patients)


def _margins(scores: Floats, labels: Floats) -> Values:
    """Return the logit of the true label, n×T, NaN where it is not known."""
    sure = np.clip(scores.astype(np.float64), _SURE, 1 - _SURE)
    margins: Values = logit(sure) * (2 * labels - 1)
    return margins


def _by_patient(values: Values, patients: Sequence[str]) -> "pd.Series[float]":
    """Average over a patient's images and targets; patients without a label have no score."""
    mean = pd.DataFrame(values).groupby(np.asarray(patients)).agg(["sum", "count"])
    both = mean.T.groupby(level=1).sum().T
    return (both["sum"] / both["count"]).dropna()


def offline_lira(
    target: Values, shadows: Values, out: Members, fixed_variance: bool = False
) -> Values:
    """Return the likelihood-ratio score of each patient, in (0, 1), higher where a member.

    Offline LiRA (Carlini et al. 2022, section VI-C): 1 − P[N(μ, σ²) > φ], where φ is the target
    model's confidence and μ, σ are those of the shadow models that never saw the patient.

    Args:
        target: the target model's :func:`confidences`, N.
        shadows: those of the shadow models, S×N.
        out: which shadow models were trained without which patient, S×N.
        fixed_variance: one σ for all patients: better with few shadow models.

    Raises:
        DataError: if some patient was left out by too few shadow models.
    """
    count = out.sum(axis=0)
    if count.min() < FEWEST_SHADOWS:
        raise DataError(
            f"audit: a patient was left out by {count.min()} shadow models only; "
            f"LiRA needs {FEWEST_SHADOWS}, so run more of them"
        )
    mean = np.where(out, shadows, 0).sum(axis=0) / count
    squares = np.where(out, (shadows - mean) ** 2, 0).sum(axis=0)
    variance = squares / (count - 1)
    if fixed_variance:
        variance = np.full_like(mean, squares.sum() / (count - 1).sum())
    likelihood: Values = ndtr((target - mean) / np.sqrt(variance))
    return likelihood
