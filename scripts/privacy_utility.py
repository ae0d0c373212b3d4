"""Draw what privacy costs: macro AUROC on the test patients against ε, a line a unit.

Reads the run directories of a sweep and nothing else; several seeds of one point are averaged.

    python -m fedmed.run -m +experiment=privacy_utility
    python scripts/privacy_utility.py runs [--name privacy_utility …] [--out privacy_utility]
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from rich.console import Console
from rich.table import Table

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from fedmed.core.terminal import tolerate


def collect(folder: Path, name: str) -> pd.DataFrame:
    """Return a row a finished run: unit, ε spent, δ, seed, AUROC, run."""
    rows = []
    for path in sorted(folder.glob("*/summary.json")):
        summary = json.loads(path.read_text())
        if summary.get("name") != name or summary["status"] != "finished":
            continue
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
        raise SystemExit(f"{folder}: no finished run of {name}")
    return pd.DataFrame(rows).sort_values(["unit", "epsilon", "seed"], ignore_index=True)


def draw(sweeps: Mapping[str, pd.DataFrame], path: Path) -> None:
    """Draw a panel a sweep; ε of ∞ (clipped, no noise) stands at the right end."""
    figure, panels = plt.subplots(
        1,
        len(sweeps),
        figsize=(0.6 + 3.4 * len(sweeps), 3.2),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axes, (name, runs) in zip(panels[0], sweeps.items(), strict=True):
        _panel(axes, runs)
        axes.set_title(name, fontsize=10)
    panels[0, 0].set_ylabel("test macro AUROC")
    panels[0, -1].legend(title="unit", frameon=False, loc="lower right")
    figure.savefig(path, dpi=120)
    plt.close(figure)


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


def main(argv: Sequence[str]) -> None:
    """Print the table; write it as CSV and the figure as PNG."""
    tolerate()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--name", nargs="+", default=["privacy_utility"], help="a panel each")
    parser.add_argument("--out", type=Path, default=Path("privacy_utility"))
    how = parser.parse_args(argv)
    sweeps = {name: collect(how.folder, name) for name in how.name}
    pd.concat(sweeps, names=["name"]).reset_index("name").to_csv(
        how.out.with_suffix(".csv"), index=False
    )
    draw(sweeps, how.out.with_suffix(".png"))
    for name, runs in sweeps.items():
        Console().print(_table(name, runs))


def _table(name: str, runs: pd.DataFrame) -> Table:
    table = Table(title=name)
    for column in ("unit", "ε", "AUROC", "seeds"):
        table.add_column(column, justify="right")
    points = runs.assign(epsilon=runs["epsilon"].round(1))
    for (unit, epsilon), group in points.groupby(["unit", "epsilon"]):
        score = f"{group['macro_auroc'].mean():.3f}"
        table.add_row(str(unit), f"{epsilon:g}", score, str(len(group)))
    return table


if __name__ == "__main__":
    main(sys.argv[1:])
