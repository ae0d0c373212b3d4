"""How well subgroups of patients are served: by sex, age, view and site, and their crossings.

The rule. A finding counts in a group when at least :data:`LEAST` of the group's patients have it
and as many do not. A group in which fewer than half of the scored findings count is too small: it
is named and left out. The groups of one attribute are compared by the mean AUROC over the findings
that count in all of those kept, so that none looks better for lack of a hard finding. Images whose
attribute is not known belong to no group. The worst of many small groups is partly the least lucky.
"""

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedmed.evaluation.bootstrap import score
from fedmed.evaluation.predictions import Predictions

LEAST = 10  # patients with a finding, and without it
SHARE = 0.5  # of the scored findings that a group must be scorable on
AGES = {0: "0-17", 18: "18-39", 40: "40-59", 60: "60-79", 80: "80+"}  # from which age on


def subgroups(predictions: Predictions) -> dict[str, Any]:
    """Return the macro AUROC of each subgroup.

    Returns:
        ``by``: for each attribute and pair of attributes the groups' macro AUROC, the worst group,
        the gap between best and worst, the findings compared, and who was too small. ``worst`` and
        ``gap``: the extremes over all of them, None where nothing could be compared.
    """
    single = attributes(predictions)
    crossed = {
        f"{one} & {other}": single[one].str.cat(single[other], sep=" & ")
        for one, other in combinations(single, 2)
    }
    compared = {
        name: found
        for name, groups in (single | crossed).items()
        if (found := _compare(predictions, groups))
    }
    gaps = {name: found["gap"] for name, found in compared.items() if found["gap"] is not None}
    worst = [
        (found["macro_auroc"][found["worst"]], name, found["worst"])
        for name, found in compared.items()
        if found["worst"] is not None
    ]
    widest = max(gaps, key=lambda name: gaps[name], default=None)
    lowest = min(worst, default=None)
    return {
        "rule": f"at least {LEAST} patients with and {LEAST} without a finding",
        "worst": lowest and {"macro_auroc": lowest[0], "by": lowest[1], "group": lowest[2]},
        "gap": widest and {"macro_auroc": gaps[widest], "by": widest},
        "by": compared,
    }


def attributes(predictions: Predictions) -> dict[str, "pd.Series[str]"]:
    """Return each image's group by attribute, None where it is not known."""
    images = predictions.images
    groups = {
        name: images[name].astype(object) for name in ("sex", "view", "site") if name in images
    }
    if "age" in images:
        bands = pd.cut(
            images["age"].astype(float), [*AGES, np.inf], right=False, labels=[*AGES.values()]
        )
        groups["age"] = bands.astype(object)
    return {name: column.where(column.notna(), None) for name, column in groups.items()}


def _compare(predictions: Predictions, groups: "pd.Series[str]") -> dict[str, Any] | None:
    """Compare the groups of one attribute; None where there are not two of them."""
    names = sorted(groups.dropna().unique())
    if len(names) < 2:
        return None
    members = {name: predictions.of((groups == name).to_numpy()) for name in names}
    scored = score(predictions, replicates=0).findings
    counting = {name: _counting(member) & set(scored) for name, member in members.items()}
    kept = [n for n in names if scored and len(counting[n]) >= SHARE * len(scored)]
    common = set.intersection(*(counting[n] for n in kept)) if kept else set()
    values = {n: _macro(members[n], common) for n in kept} if common else {}
    worst = min(values, key=lambda n: values[n], default=None)
    return {
        "macro_auroc": values,
        "worst": worst,
        "gap": max(values.values()) - min(values.values()) if len(values) > 1 else None,
        "findings": [finding for finding in scored if finding in common],
        "too_small": [name for name in names if name not in values],
    }


def _counting(member: Predictions) -> set[str]:
    """Return the findings that enough of a group's patients have and have not."""
    whose = member.patients
    return {
        target
        for i, target in enumerate(member.targets)
        if min(_patients(whose, member.labels[:, i] == label) for label in (0, 1)) >= LEAST
    }


def _patients(whose: NDArray[np.intp], rows: NDArray[np.bool_]) -> int:
    return len(np.unique(whose[rows]))


def _macro(member: Predictions, findings: set[str]) -> float:
    found = score(member, replicates=0)
    return float(np.mean([found.value("auroc", finding) for finding in sorted(findings)]))
