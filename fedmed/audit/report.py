"""What an audit found, beside what the run claims: ``audit.json``, ``audit.png`` and a line."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from fedmed.audit import canaries, membership, one_run
from fedmed.audit.finished import Bench, Finished
from fedmed.audit.membership import Attack
from fedmed.audit.one_run import Bound
from fedmed.config import identity
from fedmed.core.errors import FedmedError
from fedmed.core.files import write_atomically
from fedmed.privacy.ledger import OF_ITS_DATA
from fedmed.runs.directory import RunDirectory

#: Each bound of :class:`Bound`: its name, and what it rests on besides chance.
METHODS = {
    "epsilon": ("one run", "nothing else"),
    "gaussian": ("f-DP", "the trade-off curve of a Gaussian mechanism"),
    "independent": ("independent", "the same, and canaries that do not disturb each other"),
}
PRESENCE = {
    "image",
    "patient",
    "client",
}  # units whose presence is hidden, which is what is audited
DELTA = 1e-5  # of the bounds on a run that claims nothing
UPDATES, BLACK_BOX = "updates", "black box"
LOSS, LIRA, LIRA_FIXED = "loss threshold", "offline LiRA", "offline LiRA, one variance"


@dataclass(frozen=True)
class Scored:
    """Scores of some patients, higher where they seem to be members, and whether they are."""

    scores: one_run.Scores
    members: one_run.Members


@dataclass(frozen=True)
class Audit:
    """All that was found in a run.

    Attributes:
        claimed: the run's own statement of its privacy.
        bounds: lower bounds on ε by access: :data:`UPDATES`, :data:`BLACK_BOX`.
        canaries: the scores behind them.
        attacks: membership inference by method.
        attacked: the scores behind them.
        notes: what a reader must know.
    """

    claimed: Mapping[str, Any]
    bounds: Mapping[str, Bound]
    canaries: Mapping[str, Scored]
    attacks: Mapping[str, Attack]
    attacked: Mapping[str, Scored]
    notes: Sequence[str]


def audit(run: Finished, shadows: Sequence[Finished] = (), confidence: float = 0.95) -> Audit:
    """Audit a finished run as far as it allows.

    Args:
        run: the run.
        shadows: runs that differ from it in the coins alone; with them, LiRA too.
        confidence: of the lower bounds on ε, of all accesses together: where there are two, each
            has half of the error probability (Bonferroni), so that any may refute the claim.

    Raises:
        FedmedError: if a shadow run is none, or there are too few canaries or shadow models.
    """
    marked, tossed = run.marked(), run.tossed()
    members = tossed if len(tossed) else run.trained()
    bench = Bench.of(run, members.index)
    attacked = {LOSS: _by_loss(bench, run, members)}
    if shadows:
        attacked |= _by_lira(bench, run, shadows, members)
    scored = {}
    if len(marked):
        moved = canaries.scores_of(run.weights, marked.index.tolist())
        scored[UPDATES] = Scored(moved, marked.to_numpy())
    if len(tossed):
        scored[BLACK_BOX] = attacked[LIRA if shadows else LOSS]
    delta = float(run.summary["privacy"]["delta"] or DELTA)
    each = 1 - (1 - confidence) / max(1, len(scored))
    return Audit(
        claimed=run.summary["privacy"],
        bounds={k: one_run.audit(s.scores, s.members, delta, each) for k, s in scored.items()},
        canaries=scored,
        attacks={k: membership.attack(s.scores, s.members) for k, s in attacked.items()},
        attacked=attacked,
        notes=_notes(run, bool(len(tossed))),
    )


def _by_loss(bench: Bench, run: Finished, members: "pd.Series[bool]") -> Scored:
    lost = membership.losses(bench.query(run.weights), bench.labels, bench.patients)
    return Scored(-lost.to_numpy(), members[lost.index].to_numpy())


def _by_lira(
    bench: Bench, run: Finished, shadows: Sequence[Finished], members: "pd.Series[bool]"
) -> dict[str, Scored]:
    def confidences(of: Finished) -> "pd.Series[float]":
        return membership.confidences(bench.query(of.weights), bench.labels, bench.patients)

    for i, shadow in enumerate(shadows):
        _check_shadow(run, shadow)
        for other in shadows[:i]:
            if shadow.patients.equals(other.patients):
                raise FedmedError(f"{shadow.folder}: tossed the same coins as {other.folder}")
    target = confidences(run)
    theirs = np.stack([confidences(shadow).to_numpy() for shadow in shadows])
    roles = [shadow.patients.set_index("patient")["role"][target.index] for shadow in shadows]
    out = np.stack([(role != "train").to_numpy() for role in roles])
    truth = members[target.index].to_numpy()
    ratios = (membership.offline_lira(target.to_numpy(), theirs, out, fix) for fix in (False, True))
    return {name: Scored(r, truth) for name, r in zip((LIRA, LIRA_FIXED), ratios, strict=True)}


def _check_shadow(run: Finished, shadow: Finished) -> None:
    """Refuse a shadow run that differs in more than its coins."""
    one, other = (identity.decisive(each.config) for each in (run, shadow))
    for values in (one, other):
        values["partition"].pop("toss", None)
    if one != other:
        key = next(key for key in one if one[key] != other[key])
        raise FedmedError(f"{shadow.folder}: is no shadow run of {run.folder}: its {key} differs")
    if run.patients.equals(shadow.patients):
        raise FedmedError(f"{shadow.folder}: tossed the same coins as {run.folder}")


def _notes(run: Finished, tossed: bool) -> list[str]:
    notes = ["a patient's images are scored together: the unit is the patient"]
    if run.summary["privacy"]["unit"] not in PRESENCE:
        notes.append(
            "the run claims no ε of who took part: the bounds say what it leaks, at the least"
        )
    if len(run.marked()) or tossed:
        notes.append(
            "only the bound of one run holds for any mechanism; f-DP takes a Gaussian's trade-off "
            "curve, and independent also that canaries do not disturb each other"
        )
        notes.append("how many were trained on is taken for known, as the claim takes it")
    if len(run.marked()):
        notes.append("marked canaries are worst cases by design: each has a weight of its own")
        if run.config.partition.arguments.get("clients") != 1:
            notes.append("with several clients their noises mix in the final model: looser bounds")
        if run.config.client.optimizer != "sgd" or run.config.client.weight_decay:
            notes.append("without plain SGD the final weights are no sum of updates: looser bounds")
    if run.tossed().index.str.startswith(canaries.FLIPPED).any():
        notes.append("flipped canaries have wrong labels: atypical, so easier to find than others")
    if not tossed:
        notes.append("no coin was tossed: others are the test patients, who may differ otherwise")
    if run.summary["privacy"]["unit"] == "client":
        notes.append(
            "the claim is for a client; a patient in or out changes which data it has, and the "
            "bounds are set against the ε of that"
        )
    if run.summary["privacy"]["unit"] == "image":
        notes.append("the claim is for an image; what is audited is a patient with all images")
    return notes


def in_summary(found: Audit) -> dict[str, Any]:
    """Return what ``summary.json`` holds beside the claim: bounds and how attacks fared."""
    return {
        "refuted": refuted(found),
        "bounds": [
            {
                "access": access,
                "method": method,
                "epsilon": getattr(bound, attribute),
                "delta": bound.delta,
                "confidence": bound.confidence,
                "canaries": bound.canaries,
                "rests_on": premise,
            }
            for access, bound in found.bounds.items()
            for attribute, (method, premise) in METHODS.items()
        ],
        "membership": {
            name: {"auc": attack.auc, "tpr": {f"{fpr:g}": tpr for fpr, tpr in attack.tpr.items()}}
            for name, attack in found.attacks.items()
        },
    }


def statement(found: Audit) -> str:
    """Return claimed and audited ε in a line."""
    spent = found.claimed
    claim = "no ε claimed" if spent["unit"] is None else "no ε of who took part claimed"
    if spent["unit"] in PRESENCE:
        claim = (
            f"claimed ε = {_shown(spent['epsilon'])} (unit {spent['unit']}, δ = {spent['delta']:g})"
        )
        if (data := _of_its_data(spent)) is not None:
            claim += f", {_shown(data)} of {OF_ITS_DATA}"
    audited = [
        f"≥ {bound.epsilon:.2f} ({access}, {bound.canaries} canaries, {bound.confidence:.0%})"
        for access, bound in found.bounds.items()
    ]
    verdict = " — THE CLAIM IS REFUTED" if refuted(found) else ""
    if spent["unit"] == "image" and _above(found):
        verdict = " — a patient's privacy is less than an image's"
    return f"{claim} / audited ε {', '.join(audited) or 'not bounded: no canaries'}{verdict}"


def refuted(found: Audit) -> bool:
    """Say whether some lower bound lies above the claim, which must be of more than an image."""
    return found.claimed["unit"] in PRESENCE - {"image"} and _above(found)


def _above(found: Audit) -> bool:
    claim = _claim(found)
    return claim is not None and any(bound.epsilon > claim for bound in found.bounds.values())


def _claim(found: Audit) -> float | None:
    """Return the ε that the bounds may be set against, None if there is no finite one.

    A patient more or less changes which data a client has, and not whether it counts.
    """
    spent = found.claimed
    if spent["unit"] not in PRESENCE:
        return None
    value = spent["epsilon"]
    if spent["unit"] == "client" and spent["neighbouring"] != "replace-one":
        value = _of_its_data(spent)
    return None if value is None or value == "inf" else float(value)


def _of_its_data(spent: Mapping[str, Any]) -> float | str | None:
    implied = {other["of"]: other["epsilon"] for other in spent.get("implied", [])}
    return implied.get(OF_ITS_DATA)


def _shown(value: float | str) -> str:
    return "∞" if isinstance(value, str) else f"{value:.2f}"


def content(found: Audit) -> dict[str, Any]:
    """Return what ``audit.json`` holds."""
    return {
        "claimed": {key: found.claimed[key] for key in ("unit", "epsilon", "delta")},
        "refuted": refuted(found),
        "one_run": {
            access: asdict(bound) | {"guesses": bound.guesses._asdict()}
            for access, bound in found.bounds.items()
        },
        "membership": {name: asdict(attack) for name, attack in found.attacks.items()},
        "notes": list(found.notes),
    }


def metrics(found: Audit) -> dict[str, float]:
    """Return the figures of an audit by name, for tables and wandb."""
    values = {f"audit/epsilon/{access}": b.epsilon for access, b in found.bounds.items()}
    for name, attack in found.attacks.items():
        values[f"audit/auc/{name}"] = attack.auc
        values |= {f"audit/tpr@{fpr:g}/{name}": tpr for fpr, tpr in attack.tpr.items()}
    return {name.replace(",", "").replace(" ", "_"): value for name, value in values.items()}


def write(found: Audit, folder: Path) -> Path:
    """Write the audit into a run directory; return the picture's path.

    ``audit.json`` and ``audit.png`` have all of it; ``privacy.audited`` of ``summary.json`` has the
    bounds beside the claim, in place of those of an earlier audit.

    Raises:
        FedmedError: if the run is not finished any more, or another process is running it.
    """
    here = RunDirectory(folder)
    with here.locked():
        summary = here.summary()
        if summary is None or summary["status"] != "finished":
            raise FedmedError(f"{folder}: the run was begun anew during its audit")
        text = json.dumps(content(found), indent=2, ensure_ascii=False, allow_nan=False)
        write_atomically(folder / "audit.json", lambda new: new.write_text(text + "\n"))
        picture = folder / "audit.png"
        draw(found, picture)
        summary["privacy"]["audited"] = in_summary(found)
        here.write_summary(summary)
    return picture


def draw(found: Audit, path: Path) -> None:
    """Draw claimed beside audited ε, the canaries' scores, and the attacks' ROC curves."""
    panels = 2 * bool(found.bounds) + 1
    figure = Figure(figsize=(4.2 * panels, 3.4), dpi=130, layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    if found.bounds:
        _draw_bounds(axes[0], found)
        access = next(iter(found.canaries))
        _draw_scores(axes[1], found.canaries[access], access)
    _draw_roc(axes[-1], found.attacked)
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
        each.tick_params(labelsize=8)
    figure.savefig(path)


_BLUE, _ORANGE, _GREY = "#3b6fb6", "#d9822b", "#888888"


def _draw_bounds(axes: Axes, found: Audit) -> None:
    names, values, colors = [], [], []
    for access, bound in found.bounds.items():
        kinds = {"one run": bound.epsilon, "f-DP": bound.gaussian, "independent": bound.independent}
        for kind, value in kinds.items():
            names.append(f"{access}, {kind}")
            values.append(value)
            colors.append(_BLUE if kind == "one run" else "#a9c1e0")
    axes.barh(names, values, color=colors, height=0.7)
    axes.invert_yaxis()
    for row, value in enumerate(values):
        axes.text(value, row, f" {value:.2f}", va="center", fontsize=8)
    claim = _claim(found)
    if claim is not None:
        axes.axvline(claim, color=_ORANGE, linewidth=1.5)
    axes.set_xlim(0, 1.18 * max(0.1, *values, claim or 0.0))
    shown = "no finite claim" if claim is None else f"claimed {claim:.2f} (line)"
    axes.set_title(f"audited ε, at least; {shown}", fontsize=9)


def _draw_scores(axes: Axes, scored: Scored, access: str) -> None:
    bins = np.histogram_bin_edges(scored.scores, 40).tolist()
    for members, label, color in ((True, "in", _BLUE), (False, "out", _GREY)):
        mine = scored.scores[scored.members == members]
        axes.hist(mine, bins, color=color, alpha=0.6, label=f"{label} ({len(mine)})")
    axes.legend(fontsize=8, frameon=False)
    axes.set_title(f"canaries' scores, {access}", fontsize=9)
    axes.set_ylabel("canaries", fontsize=8)


def _draw_roc(axes: Axes, attacked: Mapping[str, Scored]) -> None:
    least = 0.5 / max(int((~s.members).sum()) for s in attacked.values())
    for name, scored in attacked.items():
        false, true, _ = roc_curve(scored.members, scored.scores, drop_intermediate=False)
        axes.plot(np.maximum(false, least), np.maximum(true, least), label=name, linewidth=1.3)
    axes.plot([least, 1], [least, 1], color=_GREY, linewidth=0.8, linestyle=":")
    axes.set(xscale="log", yscale="log", xlim=(least, 1), ylim=(least, 1))
    axes.set_xlabel("false-positive rate", fontsize=8)
    axes.set_ylabel("true-positive rate", fontsize=8)
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    axes.set_title("membership inference, patients", fontsize=9)
