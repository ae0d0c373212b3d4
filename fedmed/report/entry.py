"""What a page tells of one run. It names no patient, file, user or host.

What a private run withholds from wandb it withholds here too: who has how many of what.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import yaml

from fedmed.config import NOT_IDENTITY
from fedmed.errors import ConfigError, DataError, FedmedError
from fedmed.evaluation.cost import to_reach
from fedmed.report import curves
from fedmed.report.runs import FINISHED, Run
from fedmed.report.table import HASHES
from fedmed.scrub import scrub, scrub_text

FACETS = ("strategy", "dataset", "partition", "privacy")
OTHERS = ("model", "client", "faults")
Facets = dict[str, str]


def facets(run: Run, runs: Sequence[Run]) -> Facets:
    """Return what tells a run from the others: of each facet its choice, and what varies of it.

    Args:
        run: one of them.
        runs: all of the page.
    """
    mine = scrub(run.identity())
    varied = [key for key in mine if _varies(key, run, runs)]
    found = {"experiment": _name(run)}
    for facet in FACETS:
        first = unit(run) if facet == "privacy" else run.choices.get(facet, "")
        said = [_said(k.partition(".")[2], mine[k]) for k in varied if _group(k) == facet]
        found[facet] = ", ".join([first, *(s for s in said if not s.startswith("unit\u00a0"))])
    fellows = [r for r in runs if _name(r) == _name(run)]
    other = [
        _said(group, run.choices.get(group))
        for group in OTHERS
        if len({r.choices.get(group) for r in fellows}) > 1
    ]
    rest = [_said(k, mine[k]) for k in varied if _group(k) not in FACETS]
    return found | {"other": ", ".join(other + rest)}


def entry(run: Run, target: float | None) -> dict[str, Any]:
    """Return a run's figures and curves, for the charts.

    Args:
        run: finished or not.
        target: the test macro AUROC whose cost is told.
    """
    common = {"id": run.run_id, "seed": run.seed, "status": run.status, "unit": unit(run)}
    known: dict[str, Any] = {**common, "learning": curves.learning(run)}
    if run.status != FINISHED:
        return known
    test, privacy = run.summary["test"], run.summary["privacy"]
    return known | {
        "auroc": test["macro_auroc"],
        "interval": test["intervals"]["macro_auroc"],
        "epsilon": privacy["epsilon"],
        "delta": privacy["delta"],
        "audited": privacy.get("audited"),
        "findings": curves.by_finding(run.scored.predictions),
        "subgroups": test["subgroups"],
        "partition": run.summary["partition_sha256"][:12],
        "cost": _cost(run, target),
    }


def partition(run: Run) -> dict[str, Any]:
    """Return who has what, by client; only why not where a private run withholds it."""
    if _withholds(run):
        return {"withheld": "a private run: who has how many of what does not leave the clients"}
    clients = pd.read_csv(run.folder / "clients.csv")
    targets = run.resolved["dataset"]["targets"]
    measured = run.summary["partition"]
    return {
        "targets": targets,
        "clients": clients["client"].tolist(),
        "patients": clients["patients"].tolist(),
        "images": clients["images"].tolist(),
        "positive": clients[targets].to_numpy().tolist(),
        "gini": curves.rounded(measured["size_gini"]),
        "js": measured.get("js_divergence", {}).get("mean"),
    }


def details(run: Run) -> dict[str, Any]:
    """Return what a run rests on: configuration, hashes, versions, caveats and assumptions."""
    kept = {k: v for k, v in run.resolved.items() if k not in NOT_IDENTITY}
    summary, privacy = run.summary, run.summary.get("privacy", {})
    return {
        "id": run.run_id,
        "config": yaml.safe_dump(scrub(kept), sort_keys=False, allow_unicode=True),
        "hashes": {k.removesuffix("_sha256"): summary[k] for k in HASHES if k in summary},
        "versions": summary.get("versions", {}),
        "error": _error(summary.get("error", "")),
        "caveats": [scrub_text(c) for c in summary.get("caveats", [])],
        "privacy": {k: v for k, v in privacy.items() if k in _CLAIM and v is not None},
        "assumptions": privacy.get("assumptions", []),
        "patients": summary.get("patients", {}),
        "device": summary.get("device"),
    }


_CLAIM = ("unit", "epsilon", "delta", "accountant", "neighbouring", "sampling", "releases")


def unit(run: Run) -> str:
    """Return the unit of the run's privacy, ``none`` where there is none."""
    said = run.summary.get("privacy", {}).get("unit") or run.resolved["privacy"].get("unit")
    return str(said or ("client" if "noise_multiplier" in run.resolved["strategy"] else "none"))


def synthetic(run: Run) -> bool:
    """Say whether the run's patients are phantoms."""
    return "phantom" in str(run.resolved["dataset"]).lower()


def _withholds(run: Run) -> bool:
    privacy = run.resolved["privacy"]
    return privacy["mechanism"] == "dpsgd" and not privacy["release_metrics"]


def _cost(run: Run, target: float | None) -> dict[str, Any]:
    spent = {
        "rounds": run.summary["rounds_done"],
        "seconds": run.summary["time"]["rounds_s"],
        "bytes": run.summary["bytes_up"] + run.summary["bytes_down"],
    }
    reached = None if target is None else to_reach(run.folder, target)
    if reached is None:
        return spent | {"reached": None}
    moved = reached.bytes_up + reached.bytes_down
    return spent | {
        "reached": {"rounds": reached.rounds, "seconds": reached.seconds, "bytes": moved}
    }


def _error(text: str) -> str:
    """Return why a run failed: fedmed's own words, but only the kind of any other error."""
    kind, _, said = text.partition(": ")
    ours = [error.__name__ for error in (FedmedError, ConfigError, DataError)]
    return scrub_text(said) if kind in ours else kind and f"{kind}; its run.log says more"


def _name(run: Run) -> str:
    return str(run.config["name"])


def _varies(key: str, run: Run, runs: Sequence[Run]) -> bool:
    """Say whether a setting differs between runs of the experiment with the same choice of it."""
    group = _group(key)
    alike = [
        r for r in runs if _name(r) == _name(run) and r.choices.get(group) == run.choices.get(group)
    ]
    return len({str(r.identity().get(key)) for r in alike}) > 1


def _group(key: str) -> str:
    return key.partition(".")[0]


def _said(key: str, value: Any) -> str:
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{key}\u00a0{shown}"
