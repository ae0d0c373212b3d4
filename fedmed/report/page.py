"""One page of many runs, which needs no network and no other file: ``fedmed report``."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from fedmed.core import jsontext
from fedmed.evaluation.comparison import standard_error
from fedmed.report.cells import Cell, fill, unlike_means
from fedmed.report.entry import Facets, details, entry, facets, partition, synthetic
from fedmed.runs.run import FAILED, FINISHED, Run
from fedmed.runs.scrub import scrub_text
from fedmed.sweep.grid import GRIDS, Grid

VALUES = ["test.macro_auroc", "test.macro_auprc", "test.macro_ece_debiased"]
FILTERS = ("experiment", "strategy", "dataset", "partition", "privacy")


def page(runs: Sequence[Run], folders: Sequence[Path], target: float | None = None) -> str:
    """Return the page of some runs, as HTML.

    Args:
        runs: of the page, as :func:`fedmed.runs.run.find` found them.
        folders: where they were found; what their grids lack is told.
        target: the test macro AUROC whose cost is told; None: of each experiment, the median
            of its finished runs.
    """
    told = facets(runs)
    conditions = _conditions(runs, told)
    targets = {name: target or _median(runs, name) for name in _values(told, "experiment")}
    entries = [
        entry(run, targets[told[run.run_id]["experiment"]]) | {"condition": at}
        for at, condition in enumerate(conditions)
        for run in condition["runs"]
    ]
    data = {
        "conditions": [{k: c[k] for k in ("facets", "label")} for c in conditions],
        "runs": entries,
        "partitions": _partitions(runs),
        "targets": targets,
    }
    return _template().render(
        data=Markup(jsontext.dumps(data, indent=None).replace("<", "\\u003c")),
        conditions=conditions,
        options={name: _values(told, name) for name in FILTERS},
        details={run.run_id: details(run) for run in runs},
        counts=_counts(runs),
        lacking=_lacking(runs, told, folders),
        synthetic=[n for n in _values(told, "experiment") if _all_synthetic(runs, told, n)],
        targets=targets,
        given=target is not None,
    )


def _conditions(runs: Sequence[Run], told: dict[str, Facets]) -> list[dict[str, Any]]:
    """Return the runs that differ in the seed alone, together: of an experiment the best first."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        key = json.dumps([told[run.run_id], run.identity()], sort_keys=True, default=str)
        groups.setdefault(key, []).append(run)
    seeds: dict[str, set[int]] = {}
    for run in runs:
        seeds.setdefault(told[run.run_id]["experiment"], set()).add(run.seed)
    found = [_condition(of, told[of[0].run_id], seeds) for of in groups.values()]
    for name in seeds:
        mine = [c for c in found if c["facets"]["experiment"] == name]
        done = [run for c in mine for run in c["runs"] if run.status == FINISHED]
        mine[0]["notes"] += [f"{name}: {note}" for note in unlike_means(done)]
    worst = {"mean": -1.0}
    return sorted(found, key=lambda c: (c["facets"]["experiment"], -(c["auroc"] or worst)["mean"]))


def _condition(runs: list[Run], mine: Facets, seeds: dict[str, set[int]]) -> dict[str, Any]:
    cell = Cell({}, {}, sorted(runs, key=lambda r: r.seed), sorted(seeds[mine["experiment"]]))
    fill(cell, VALUES, "last")
    done = cell.finished
    gaps = [run.summary["test"]["subgroups"]["gap"] for run in done if run.tested]
    audits = [run.audit["epsilon"] for run in done if "epsilon" in run.audit]
    claims = [float(e) for r in done if (e := r.summary["privacy"]["epsilon"]) is not None]
    figures = [_figure(cell.values.get(key, [])) for key in VALUES]
    return {
        "facets": mine,
        "label": " · ".join(filter(None, [mine["strategy"], _privacy(mine), mine["other"]])),
        "runs": cell.runs,
        "seeds": len(cell.seeds),
        "finished": len(done),
        "failed": sum(run.status == FAILED for run in runs),
        "auroc": figures[0],
        "interval": None if np.isnan(cell.interval[0]) else cell.interval,
        "auprc": figures[1],
        "ece": figures[2],
        "epsilon": max(claims, default=None),
        "audited": max(audits, default=None),
        "refuted": any(run.audit.get("refuted", False) for run in done),
        "gap": max((gap for gap in gaps if gap), key=lambda g: g["macro_auroc"], default=None),
        "notes": cell.notes,
    }


def _figure(values: Sequence[float | None]) -> dict[str, float | None] | None:
    """Return mean and standard error; None where no run has a figure."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    error = standard_error(known)
    return {"mean": float(np.mean(known)), "error": None if np.isnan(error) else error}


def _privacy(mine: Facets) -> str:
    return "" if mine["privacy"] == "none" else mine["privacy"]


def _partitions(runs: Sequence[Run]) -> dict[str, Any]:
    """Return each partition once, by its hash."""
    found: dict[str, Any] = {}
    for run in runs:
        if run.status == FINISHED:
            name = run.summary["partition_sha256"][:12]
            if name not in found or "withheld" in found[name]:
                found[name] = partition(run)
    return found


def _lacking(
    runs: Sequence[Run], told: dict[str, Facets], folders: Sequence[Path]
) -> list[dict[str, str]]:
    """Return the runs that are not finished, and the cells of the folders' grids without a run."""
    files = {p.resolve() for f in folders for p in f.rglob(f"{GRIDS}/*.json")}
    found: dict[str, dict[str, str]] = {}
    for grid in map(Grid.load, sorted(files)):
        for cell in grid.cells:
            varied = " ".join(map(scrub_text, cell.varied)) or cell.run_id
            said = {"experiment": grid.name, "cell": varied, "state": cell.state()}
            found[cell.run_id] = said | {"id": cell.run_id}
    for run in runs:
        if run.run_id not in found:
            cell_ = {"experiment": told[run.run_id]["experiment"], "cell": run.run_id}
            state = "done" if run.status == FINISHED else run.status
            found[run.run_id] = cell_ | {"state": state, "id": run.run_id}
    return [said for said in found.values() if said["state"] != "done"]


def _median(runs: Sequence[Run], experiment: str) -> float | None:
    mine = [run for run in runs if run.tested and run.config["name"] == experiment]
    scores = [score for run in mine if (score := run.summary["test"]["macro_auroc"]) is not None]
    return round(float(np.median(scores)), 2) if scores else None


def _values(told: dict[str, Facets], facet: str) -> list[str]:
    return sorted({mine[facet] for mine in told.values()})


def _all_synthetic(runs: Sequence[Run], told: dict[str, Facets], experiment: str) -> bool:
    return all(synthetic(r) for r in runs if told[r.run_id]["experiment"] == experiment)


def _counts(runs: Sequence[Run]) -> dict[str, int]:
    states = [run.status for run in runs]
    return {state: states.count(state) for state in dict.fromkeys(states)}


def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("fedmed.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = _shown
    return environment.get_template("report.html")


def _shown(value: float | None, digits: int = 3) -> str:
    if value is None or np.isnan(value):
        return "–"
    return "∞" if np.isinf(value) else f"{value:.{digits}f}" if value < 1000 else f"{value:,.0f}"
