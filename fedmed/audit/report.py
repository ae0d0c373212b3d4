"""The audit as an evaluation of a run: what it found, beside what the run claims."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fedmed.audit import perform
from fedmed.audit.figures import draw
from fedmed.audit.findings import Audit, above, implied_of_data, present, refuted
from fedmed.audit.finished import Finished
from fedmed.audit.membership import FPRS
from fedmed.privacy.ledger import of_its_data
from fedmed.runs.directory import RunDirectory
from fedmed.runs.evaluations import Attack, Section

if TYPE_CHECKING:
    from fedmed.runs.run import Run

PICTURE = "audit.png"

#: Each bound of :class:`Bound`: its name, and what it rests on besides chance.
METHODS = {
    "epsilon": ("one run", "nothing else"),
    "gaussian": ("f-DP", "the trade-off curve of a Gaussian mechanism"),
    "independent": ("independent", "the same, and canaries that do not disturb each other"),
}


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
    if unit := present(spent):
        claim = f"claimed ε = {_shown(spent['epsilon'])} (unit {unit.name}, δ = {spent['delta']:g})"
        if (data := implied_of_data(spent)) is not None:
            claim += f", {_shown(data)} of {of_its_data(unit)}"
    audited = [
        f"≥ {bound.epsilon:.2f} ({access}, {bound.canaries} canaries, {bound.confidence:.0%})"
        for access, bound in found.bounds.items()
    ]
    verdict = " — THE CLAIM IS REFUTED" if refuted(found) else ""
    if unit and unit.extent == "part" and above(found):
        verdict = f" — a patient's privacy is less than {unit.one}'s"
    return f"{claim} / audited ε {', '.join(audited) or 'not bounded: no canaries'}{verdict}"


def _shown(value: float | str) -> str:
    return "∞" if isinstance(value, str) else f"{value:.2f}"


def content(found: Audit) -> dict[str, Any]:
    """Return what ``evaluations/audit.json`` holds as the result."""
    bounds = [bound.epsilon for bound in found.bounds.values()]
    largest = {"epsilon": max(bounds)} if bounds else {}
    return largest | {
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


class PrivacyAudit(Attack):
    """Every bound on ε and every membership attack that a run allows.

    Args:
        shadows: directories of runs that differ in the coins alone; with them, LiRA too.
        confidence: of the lower bounds on ε, of all accesses together.

    Attributes:
        found: in the run that was audited last.
    """

    name: ClassVar[str] = "audit"
    access: ClassVar[str] = (
        "the final model: its answers to images of known patients (black box), and where marked "
        "canaries were planted its weights (updates); with shadow runs, models like it as well"
    )
    found: Audit

    def __init__(self, shadows: Sequence[Path] = (), confidence: float = 0.95) -> None:
        self._shadows, self._confidence = shadows, confidence

    def __call__(self, run: "Run") -> Mapping[str, Any]:
        """Audit a finished run; see :func:`fedmed.audit.perform.audit`."""
        shadows = [Finished.open(path) for path in self._shadows]
        self.found = perform.audit(Finished.open(run.folder), shadows, self._confidence)
        return content(self.found)

    def section(self, result: Mapping[str, Any]) -> Section:
        """Return a row a membership attack, below the line of claim and bounds."""
        rows = [
            (name, attack["auc"], *attack["tpr"].values(), attack["members"], attack["others"])
            for name, attack in result["membership"].items()
        ]
        rates = [f"TPR at {fpr:.1%} FPR" for fpr in FPRS]
        columns = ("attack", "AUC", *rates, "members", "others")
        return Section("Audit", statement(self.found), columns, rows)

    def leave(self, run_dir: RunDirectory, result: Mapping[str, Any]) -> None:
        """Draw ``audit.png``, and put the bounds beside the claim in ``summary.json``."""
        draw(self.found, run_dir.path / PICTURE)
        summary = run_dir.summary() or {}
        summary["privacy"]["audited"] = in_summary(self.found)
        run_dir.write_summary(summary)
