"""What an audit found, beside what the run claims: ``audit.json``, ``audit.png`` and a line."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedmed.audit.figures import draw
from fedmed.audit.findings import Audit, above, implied_of_data, present, refuted
from fedmed.core.errors import FedmedError
from fedmed.core.files import write_atomically
from fedmed.privacy.ledger import of_its_data
from fedmed.runs.directory import RunDirectory

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
