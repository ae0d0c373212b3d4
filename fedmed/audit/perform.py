"""An audit of a finished run: every bound and attack that it allows."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fedmed.audit import canaries, membership, one_run
from fedmed.audit.findings import BLACK_BOX, UPDATES, Audit, Scored, present
from fedmed.audit.finished import Bench, Finished
from fedmed.config import identity
from fedmed.core.errors import FedmedError

DELTA = 1e-5  # of the bounds on a run that claims nothing
LOSS, LIRA, LIRA_FIXED = "loss threshold", "offline LiRA", "offline LiRA, one variance"


def audit(run: Finished, shadows: Sequence[Finished] = (), confidence: float = 0.95) -> Audit:
    """Audit a finished run as far as it allows.

    Args:
        run: the run.
        shadows: runs that differ from it in the coins alone; with them, LiRA too.
        confidence: of the lower bounds on ε, of all accesses together: where there are two, each
            has half of the error probability (Bonferroni), so that any may refute the claim.

    Raises:
        FedmedError: if a shadow run is none, or there are too few canaries or shadow models, or
            parameters of the run never left its clients.
    """
    if run.config.strategy.keeps_parameters:
        raise FedmedError(
            f"{run.folder}: has no whole model to attack: parameters stay with the clients "
            "(strategy.state)"
        )
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
    unit = present(run.summary["privacy"])
    if unit is None:
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
    if unit and unit.extent == "group":
        notes.append(
            f"the claim is for {unit.one}; a patient in or out changes which data it has, and the "
            "bounds are set against the ε of that"
        )
    if unit and unit.extent == "part":
        notes.append(
            f"the claim is for {unit.one}; what is audited is a patient with all {unit.several}"
        )
    return notes
