"""How well subgroups of patients are served: by sex, age, view and site, and their crossings.

The rule. A finding counts in a group when at least :data:`LEAST` of the group's patients have it
and as many do not. A group in which fewer than half of the scored findings count is too small: it
is named and left out. The groups of one attribute are compared by the mean AUROC over the findings
that count in all of those kept, so that none looks better for lack of a hard finding. Images whose
attribute is not known belong to no group.

The worst of many small groups is the least lucky one, and the widest of many gaps is wide by chance
alone. Beside each gap therefore stands what it would be if it were chance: the patients' attributes
are dealt anew among the patients, :data:`DEALS` times, and the same groups are compared over the
same findings. Patients are dealt those of others with the same rarest finding, so that a group in
which a finding is rare stays one: else its noise would be taken for a gap. The widest gap is set
beside the widest of each deal.
"""

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedmed.core.seeding import generator
from fedmed.evaluation.bootstrap import score
from fedmed.evaluation.predictions import Predictions
from fedmed.evaluation.ranked import Ranked

LEAST = 10  # patients with a finding, and without it
SHARE = 0.5  # of the scored findings that a group must be scorable on
DEALS = 400  # of the attributes
AGES = {0: "0-17", 18: "18-39", 40: "40-59", 60: "60-79", 80: "80+"}  # from which age on


def subgroups(predictions: Predictions, deals: int = DEALS, seed: int = 0) -> dict[str, Any]:
    """Return the macro AUROC of each subgroup.

    Args:
        predictions: of n images.
        deals: how often the attributes are dealt anew.
        seed: of that.

    Returns:
        ``by``: for each attribute and pair of attributes the groups' macro AUROC, the worst group,
        the gap between best and worst with its ``chance`` (the median of the gap when dealt anew)
        and ``p``, the findings compared, and who was too small. ``worst`` and ``gap``: the extremes
        over all of them, None where nothing could be compared.
    """
    single = attributes(predictions)
    crossed = {
        f"{one} & {other}": single[one].str.cat(single[other], sep=" & ")
        for one, other in combinations(single, 2)
    }
    compared, dealt_gaps = {}, []
    dealt = _deal(predictions, deals, seed)
    for name, groups in (single | crossed).items():
        if found := _compare(predictions, groups):
            compared[name] = found
            if found["gap"] is not None:
                dealt_gaps.append(_dealt_gaps(predictions, groups, found, dealt))
                found |= _beside(found["gap"], dealt_gaps[-1])
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
        "deals": deals,
        "worst": lowest and {"macro_auroc": lowest[0], "by": lowest[1], "group": lowest[2]},
        "gap": widest
        and {
            "macro_auroc": gaps[widest],
            "by": widest,
            **_beside(gaps[widest], np.max(dealt_gaps, axis=0)),
        },
        "by": compared,
    }


def _deal(predictions: Predictions, deals: int, seed: int) -> NDArray[np.intp]:
    """Return, images × deals, the image whose attributes an image is dealt.

    A patient is dealt the attributes of a patient with the same rarest finding, image by image in
    a random order; one with more images than the other has them over again.
    """
    whose = predictions.patients
    count = int(whose.max(initial=-1)) + 1
    shown = np.zeros((count, len(predictions.targets)), bool)
    for i in range(len(predictions.targets)):
        shown[whose[predictions.labels[:, i] == 1], i] = True
    rarity = np.argsort(np.argsort(shown.sum(axis=0)))
    rarest = np.where(shown, rarity, len(rarity)).min(axis=1, initial=len(rarity))
    alike = [np.flatnonzero(rarest == key) for key in np.unique(rarest)]
    images = np.argsort(whose, kind="stable")  # patient by patient
    sizes = np.bincount(whose, minlength=count)
    first = np.cumsum(sizes) - sizes
    place = np.arange(len(whose)) - first[whose[images]]  # among the patient's images
    rng = generator(seed, "subgroups", len(whose))
    dealt = np.empty((len(whose), deals), np.intp)
    for deal in range(deals):
        other = np.empty(count, np.intp)
        for patients in alike:
            other[patients] = rng.permutation(patients)
        theirs = other[whose[images]]
        begin = rng.integers(0, sizes)[theirs]
        dealt[images, deal] = images[first[theirs] + (place + begin) % sizes[theirs]]
    return dealt


def _dealt_gaps(
    predictions: Predictions,
    groups: "pd.Series[str]",
    found: dict[str, Any],
    dealt: NDArray[np.intp],
) -> NDArray[np.float64]:
    """Return the gap between the same groups over the same findings, in each deal."""
    numbers = {group: i for i, group in enumerate(found["macro_auroc"])}
    codes = groups.map(numbers).fillna(-1).to_numpy(np.intp)[dealt]  # -1: of none that is compared
    each = np.arange(len(codes))
    macros = np.zeros((len(found["macro_auroc"]), dealt.shape[1]))
    for finding in found["findings"]:
        i = predictions.targets.index(finding)
        ranked = Ranked(predictions.scores[:, i], predictions.labels[:, i], each, len(each))
        for group in range(len(macros)):
            macros[group] += ranked.auroc((codes == group).astype(float)) / len(found["findings"])
    return np.asarray(macros.max(axis=0) - macros.min(axis=0))


def _beside(gap: float, dealt: NDArray[np.float64]) -> dict[str, float | None]:
    """Return what chance makes of a gap: its median, and how often it is as wide (p)."""
    known = dealt[~np.isnan(dealt)]
    if not len(known):
        return {"chance": None, "p": None}
    p = (1 + np.sum(known >= gap - 1e-12)) / (1 + len(known))
    return {"chance": float(np.median(known)), "p": float(p)}


def gap_beside_chance(gap: dict[str, Any]) -> str:
    """Return a gap in words: how wide, between whom, and what it is when dealt by chance."""
    if gap["p"] is None:
        return f"{gap['macro_auroc']:.3f} ({gap['by']})"
    return (
        f"{gap['macro_auroc']:.3f} ({gap['by']}; by chance {gap['chance']:.3f}, p = {gap['p']:.3f})"
    )


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
