"""Draw what privacy costs: macro AUROC on the test patients against ε, a line a unit.

Reads the run directories of a sweep and nothing else; several seeds of one point are averaged.

    python -m fedmed.run -m +experiment=privacy_utility
    python scripts/privacy_utility.py runs [--name privacy_utility] [--out privacy_utility]
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from rich.console import Console
from rich.table import Table

mpl.use("Agg")
from matplotlib import pyplot as plt


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


def draw(runs: pd.DataFrame, title: str, path: Path) -> None:
    """Draw the figure; ε of ∞ (clipped, no noise) stands at the right end."""
    points = runs.assign(epsilon=runs["epsilon"].round(1))
    finite = points.loc[points["epsilon"] < float("inf"), "epsilon"]
    end = 2 * finite.max() if len(finite) else 1.0
    figure, axes = plt.subplots(figsize=(5, 3.4), layout="constrained")
    for unit, group in points.replace(float("inf"), end).groupby("unit"):
        scores = group.groupby("epsilon")["macro_auroc"].agg(["mean", "min", "max"])
        spread = [scores["mean"] - scores["min"], scores["max"] - scores["mean"]]
        axes.errorbar(scores.index, scores["mean"], spread, marker="o", capsize=3, label=unit)
    ticks = [*sorted(finite.unique()), end]
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [*(f"{e:g}" for e in ticks[:-1]), "∞"])
    axes.axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
    axes.set(xlabel=f"ε at δ = {runs['delta'].iloc[0]:g}", ylabel="test macro AUROC", title=title)
    axes.legend(title="unit")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(argv: Sequence[str]) -> None:
    """Print the table; write it as CSV and the figure as PNG."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--name", default="privacy_utility")
    parser.add_argument("--out", type=Path, default=Path("privacy_utility"))
    how = parser.parse_args(argv)
    runs = collect(how.folder, how.name)
    runs.to_csv(how.out.with_suffix(".csv"), index=False)
    draw(runs, how.name, how.out.with_suffix(".png"))
    table = Table(title=how.name)
    for column in ("unit", "ε", "AUROC", "seeds"):
        table.add_column(column, justify="right")
    points = runs.assign(epsilon=runs["epsilon"].round(1))
    for (unit, epsilon), group in points.groupby(["unit", "epsilon"]):
        score = f"{group['macro_auroc'].mean():.3f}"
        table.add_row(str(unit), f"{epsilon:g}", score, str(len(group)))
    Console().print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
