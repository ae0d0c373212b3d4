"""The table of patients that a rule divides: one row a patient, what most of their images say."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedmed.core.errors import ConfigError
from fedmed.data.table import COLUMNS, NO_FINDING, labels

RAREST = "rarest"
UNKNOWN = "unknown"
TRAITS = ("site", "view", "sex", "scanner")


def patients_of(table: pd.DataFrame, targets: Sequence[str], key: str = RAREST) -> pd.DataFrame:
    """Return one row a patient, sorted.

    Args:
        table: the images to learn from, a common table.
        targets: what is learnt.
        key: what a label skew goes by; see Returns.

    Returns:
        ``patient``; ``site``, ``view``, ``sex`` and ``scanner``, each the most frequent of the
        patient's images (the first of equals, None where no image says); ``age``, the median in
        years; a column a finding, 1 where any image shows it, 0 where none does, NaN where none
        is known; and ``key``: with ``rarest`` the rarest, counted in patients, of the targets that
        any image shows, or "No Finding"; with a finding positive, negative or unknown; with
        ``age`` its decade; else that column. What is missing is "unknown".

    Raises:
        ConfigError: if there is no such key, or it is known of no patient.
    """
    codes, names = pd.factorize(table["patient"], sort=True)
    patients = pd.DataFrame({"patient": np.asarray(names)})
    for trait in TRAITS:
        patients[trait] = _usual(table[trait], codes, len(names))
    age = pd.to_numeric(table["age"], errors="coerce")
    patients["age"] = age.groupby(codes).median()
    numbers = table.select_dtypes(["number", "bool"])
    findings = [str(column) for column in numbers if column not in COLUMNS]
    patients = patients.join(table[findings].groupby(codes).max())
    if key == RAREST:
        return patients.assign(key=_rarest(labels(table, targets), codes, targets))
    return patients.assign(key=_chosen(patients, key, findings))


def _usual(values: "pd.Series[str]", codes: NDArray[np.intp], n: int) -> NDArray[np.object_]:
    """Return each patient's most frequent value, the first of equals, None if all are missing."""
    which, known = pd.factorize(values)
    usual = np.full(n, None, object)
    counts = np.zeros((n, len(known)), np.int32)
    there = which >= 0
    np.add.at(counts, (codes[there], which[there]), 1)
    if not len(known):
        return usual
    first = np.full((n, len(known)), len(which), np.int64)
    np.minimum.at(first, (codes[there], which[there]), np.flatnonzero(there))
    ties = counts == counts.max(axis=1, keepdims=True)
    best = np.where(ties, first, len(which)).argmin(axis=1)
    seen = counts.any(axis=1)
    usual[seen] = np.asarray(known, object)[best[seen]]
    return usual


def _rarest(
    values: NDArray[np.float32], codes: NDArray[np.intp], targets: Sequence[str]
) -> "pd.Series[str]":
    positive = pd.DataFrame(values == 1, columns=list(targets)).groupby(codes).any()
    by_rarity = positive.sum().sort_values(kind="stable").index
    return positive[by_rarity].idxmax(axis=1).where(positive.any(axis=1), NO_FINDING)


def _chosen(patients: pd.DataFrame, key: str, findings: Sequence[str]) -> "pd.Series[str]":
    if key not in (*TRAITS, "age", *findings):
        takes = ", ".join((RAREST, *TRAITS, "age", *findings))
        raise ConfigError(f"partition.key: {key} is unknown; it takes {takes}")
    values = patients[key]
    if values.isna().all():
        raise ConfigError(f"partition.key: {key} is known of no patient; choose another")
    if key in findings:
        return values.map({1: "positive", 0: "negative"}).fillna(UNKNOWN)
    if key == "age":
        decade = values // 10 * 10
        return decade.map(lambda since: f"{since:.0f}-{since + 9:.0f}", "ignore").fillna(UNKNOWN)
    return values.fillna(UNKNOWN)
