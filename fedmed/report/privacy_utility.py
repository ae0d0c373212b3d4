"""What privacy costs: macro AUROC on the test patients against the ε that a run has spent."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from fedmed.core.errors import FedmedError
from fedmed.runs.directory import RunDirectory


def collect(folder: Path, name: str) -> pd.DataFrame:
    """Return a row a finished run: unit, ε spent, δ, seed, AUROC, run.

    Args:
        folder: of the run directories.
        name: of the experiment.

    Raises:
        FedmedError: if there is no finished run of it, or a summary cannot be believed.
    """
    rows = []
    for path in sorted(folder.glob("*/summary.json")):
        summary = RunDirectory(path.parent).summary() or {}
        if summary.get("name") != name or summary["status"] != "finished":
            continue
        if not summary["test"]:
            raise FedmedError(
                f"{path.parent}: has no test scores: parameters stay with the clients"
            )
        spent = summary["privacy"]
        rows.append(
            {
                "unit": spent["unit"],
                "epsilon": float(spent["epsilon"]),
                "delta": spent["delta"],
                "seed": summary["seed"],
                "macro_auroc": summary["test"]["macro_auroc"],
                "run": summary["run_id"],
            }
        )
    if not rows:
        raise FedmedError(f"{folder}: no finished run of {name}")
    return pd.DataFrame(rows).sort_values(["unit", "epsilon", "seed"], ignore_index=True)


def draw(sweeps: Mapping[str, pd.DataFrame], path: Path) -> None:
    """Draw a panel a sweep, a line a unit; several seeds of one point are averaged.

    Args:
        sweeps: rows of :func:`collect` by the name of their experiment; ε of ∞ (clipped, no noise)
            stands at the right end.
        path: of the PNG.
    """
    figure = Figure(figsize=(0.6 + 3.4 * len(sweeps), 3.2), layout="constrained")
    panels = figure.subplots(1, len(sweeps), sharey=True, squeeze=False)
    for axes, (name, runs) in zip(panels[0], sweeps.items(), strict=True):
        _panel(axes, runs)
        axes.set_title(name, fontsize=10)
    panels[0, 0].set_ylabel("test macro AUROC")
    panels[0, -1].legend(title="unit", frameon=False, loc="lower right")
    figure.savefig(path, dpi=120)


def _panel(axes: Axes, runs: pd.DataFrame) -> None:
    points = runs.assign(epsilon=runs["epsilon"].round(1))
    finite = points.loc[points["epsilon"] < float("inf"), "epsilon"]
    end = 2 * finite.max() if len(finite) else 1.0
    for unit, group in points.replace(float("inf"), end).groupby("unit"):
        scores = group.groupby("epsilon")["macro_auroc"].agg(["mean", "min", "max"])
        spread = [scores["mean"] - scores["min"], scores["max"] - scores["mean"]]
        axes.errorbar(scores.index, scores["mean"], spread, marker="o", capsize=3, label=unit)
    ticks = [*sorted(finite.unique()), end]
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [*(f"{e:g}" for e in ticks[:-1]), "∞"])
    axes.axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(f"ε at δ = {runs['delta'].iloc[0]:g}")


def table(name: str, runs: pd.DataFrame) -> Table:
    """Return the mean score of each unit and ε of an experiment's runs, for the terminal."""
    shown = Table(title=name)
    for column in ("unit", "ε", "AUROC", "seeds"):
        shown.add_column(column, justify="right")
    points = runs.assign(epsilon=runs["epsilon"].round(1))
    for (unit, epsilon), group in points.groupby(["unit", "epsilon"]):
        score = f"{group['macro_auroc'].mean():.3f}"
        shown.add_row(str(unit), f"{epsilon:g}", score, str(len(group)))
    return shown
