"""What a page tells of one run. It names no patient, file, user or host.

What a private run withholds from wandb it withholds here too: who has how many of what, and what
tells how many clients joined its rounds where that is its secret.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import yaml

from fedmed.config import NOT_IDENTITY
from fedmed.core.errors import ConfigError, DataError, FedmedError
from fedmed.privacy.disclosure import Disclosure
from fedmed.privacy.plan import CLIENT
from fedmed.report import curves
from fedmed.report.cells import HASHES
from fedmed.runs.cost import to_reach
from fedmed.runs.directory import RunDirectory
from fedmed.runs.run import FINISHED, Run
from fedmed.runs.scrub import scrub, scrub_text

FACETS = ("strategy", "dataset", "partition", "privacy")
OTHERS = ("protocol", "aggregation", "model", "client", "faults")
Facets = dict[str, str]


def facets(runs: Sequence[Run]) -> dict[str, Facets]:
    """Return, by run id, what tells a run from the others of its experiment.

    Of each facet that is the choice, and those of its settings in which runs with the same choice
    differ.
    """
    settings = {run.run_id: scrub(run.identity()) for run in runs}
    values: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for run in runs:
        for key, value in settings[run.run_id].items():
            values[_alike(run, key)].add(str(value))
        for group in OTHERS:
            values[_name(run), group].add(_choice(run, group))
    return {run.run_id: _facets(run, settings[run.run_id], values) for run in runs}


def _facets(
    run: Run, settings: dict[str, Any], values: Mapping[tuple[str, ...], set[str]]
) -> Facets:
    varied = {key: v for key, v in settings.items() if len(values[_alike(run, key)]) > 1}
    found = {"experiment": _name(run)}
    for facet in FACETS:
        first = unit(run) if facet == "privacy" else _choice(run, facet)
        mine = {key.partition(".")[2]: v for key, v in varied.items() if _group(key) == facet}
        said = [_said(key, value) for key, value in mine.items() if key != "unit"]
        found[facet] = ", ".join([first, *said])
    other = [_said(g, _choice(run, g)) for g in OTHERS if len(values[_name(run), g]) > 1]
    rest = [_said(key, value) for key, value in varied.items() if _group(key) not in FACETS]
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
    privacy = run.summary["privacy"]
    return known | {
        **_tested(run),
        "epsilon": privacy["epsilon"],
        "delta": privacy["delta"],
        "audited": privacy.get("audited"),
        "partition": run.summary["partition_sha256"][:12],
        "cost": _cost(run, target),
    }


def _tested(run: Run) -> dict[str, Any]:
    """Return scores and curves on the test patients; without a whole model there are none."""
    if not run.tested:
        return {"auroc": None, "interval": [None, None]}
    test = run.summary["test"]
    return {
        "auroc": test["macro_auroc"],
        "interval": test["intervals"]["macro_auroc"],
        "findings": curves.by_finding(run.scored.predictions),
        "subgroups": test["subgroups"],
    }


def partition(run: Run) -> dict[str, Any]:
    """Return who has what, by client; only why not where the clients do not tell."""
    clients = pd.read_csv(RunDirectory(run.folder).check("clients.csv"))
    targets = [target for target in run.resolved["dataset"]["targets"] if target in clients]
    if not (Disclosure.recorded(run.summary).counts and targets):
        return {"withheld": "who has how many of what does not leave the clients"}
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
        "caveats": [
            scrub_text(c) for c in (*summary.get("caveats", []), *privacy.get("caveats", []))
        ],
        "privacy": {k: v for k, v in privacy.items() if k in _CLAIM and v is not None}
        | {f"epsilon of {one['of']}": one["epsilon"] for one in privacy.get("implied", [])},
        "assumptions": privacy.get("assumptions", []),
        "sections": [_section(one) for one in run.evaluations.values() if one["section"]],
        "patients": summary.get("patients", {}),
        "device": summary.get("device"),
    }


def _section(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a page shows of an evaluation, without what names a patient or a file."""
    section = found["section"]
    access = f"An attacker has {found['access']}." if found["access"] else ""
    return {
        "title": scrub_text(section["title"]),
        "text": scrub_text(" ".join(filter(None, [section["text"], access]))),
        "columns": [scrub_text(head) for head in section["columns"]],
        "rows": [[_cell(value) for value in row] for row in section["rows"]],
    }


def _cell(value: float | str | None) -> str:
    if value is None:
        return "–"
    if isinstance(value, str):
        return scrub_text(value)
    return str(value) if isinstance(value, int) else f"{value:.3f}"


_CLAIM = ("unit", "epsilon", "delta", "accountant", "neighbouring", "sampling", "releases", "noise")


def unit(run: Run) -> str:
    """Return the unit of the run's privacy, ``none`` where there is none.

    Of a run that has released nothing yet it is what its configuration asks for.
    """
    recorded = run.summary.get("privacy", {})
    if "unit" in recorded:
        return str(recorded["unit"] or "none")
    noisy = "noise_multiplier" in run.resolved["strategy"]
    return str(run.resolved["privacy"].get("unit") or (CLIENT if noisy else "none"))


def synthetic(run: Run) -> bool:
    """Say whether the run's patients are phantoms."""
    return "phantom" in str(run.resolved["dataset"]).lower()


def _cost(run: Run, target: float | None) -> dict[str, Any]:
    spent: dict[str, Any] = {
        "rounds": run.summary["rounds_done"],
        "seconds": run.summary["time"]["rounds_s"],
        "bytes": run.summary["bytes_up"] + run.summary["bytes_down"],
    }
    told = Disclosure.recorded(run.summary).cohorts
    hidden = {} if told else dict.fromkeys(("seconds", "bytes"))
    reached = None if target is None else to_reach(run.folder, target)
    if reached is None:
        return spent | hidden | {"reached": None}
    moved = reached.bytes_up + reached.bytes_down
    until = {"rounds": reached.rounds, "seconds": reached.seconds, "bytes": moved}
    return spent | hidden | {"reached": until | hidden}


def _error(text: str) -> str:
    """Return why a run failed: fedmed's own words, but only the kind of any other error."""
    kind, _, said = text.partition(": ")
    ours = [error.__name__ for error in (FedmedError, ConfigError, DataError)]
    return scrub_text(said) if kind in ours else kind and f"{kind}; its run.log says more"


def _name(run: Run) -> str:
    return str(run.config["name"])


def _choice(run: Run, group: str) -> str:
    return run.choices.get(group, "")


def _alike(run: Run, key: str) -> tuple[str, ...]:
    """Return what is common to the runs among which a setting is compared."""
    return _name(run), _choice(run, _group(key)), key


def _group(key: str) -> str:
    return key.partition(".")[0]


def _said(key: str, value: Any) -> str:
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{key}\u00a0{shown}"
