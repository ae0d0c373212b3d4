"""The scores of predictions as a terminal, a spreadsheet or a page shows them."""

from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from fedmed.core import jsontext
from fedmed.core.errors import FedmedError
from fedmed.core.texts import printable
from fedmed.evaluation.bootstrap import DEBIASED
from fedmed.evaluation.ranked import METRICS
from fedmed.evaluation.subgroups import gap_beside_chance
from fedmed.report.render import escape
from fedmed.runs.directory import safe

WIDTH = 96  # columns of the terminal that the table takes
SHOWN = (*METRICS, DEBIASED)
HEADS = {name: kind.head for name, kind in METRICS.items() if kind.head} | {DEBIASED: "ECE"}


def rows(found: dict[str, Any]) -> pd.DataFrame:
    """Return a row a finding and metric: value and interval; the last ones are the means.

    Args:
        found: the summary of :func:`fedmed.evaluation.summary.summary`, with ``subgroups`` and the
            findings ``not_predicted``.
    """
    intervals = found["intervals"]
    listed = [
        (finding, metric, value, *intervals[metric][finding])
        for finding in found["auroc"]
        for metric, value in ((m, found[m][finding]) for m in SHOWN)
    ]
    for metric in SHOWN:
        name = f"macro_{metric}"
        listed.append(("macro", metric, found[name], *intervals[name]))
    return pd.DataFrame(listed, columns=["finding", "metric", "value", "low", "high"])


def _cells(found: dict[str, Any]) -> pd.DataFrame:
    """Return a table to read: a row a finding, a column a metric."""
    listed = rows(found)
    listed["cell"] = [
        f"{value:.3f} [{low:.3f}, {high:.3f}]" if low == low else f"{value:.3f}"
        for value, low, high in zip(listed["value"], listed["low"], listed["high"], strict=True)
    ]
    table = listed.pivot(index="finding", columns="metric", values="cell")
    return table.loc[listed["finding"].unique(), list(SHOWN)]


def show(found: dict[str, Any]) -> None:
    """Print scores.

    Args:
        found: see :func:`rows`.
    """
    console = Console(highlight=False, markup=False, width=max(WIDTH, Console().width))
    cells, how = _cells(found), found["intervals"]
    table = Table(box=None, pad_edge=False)
    table.add_column("finding")
    for head in (*HEADS.values(), "patients with"):
        table.add_column(head, justify="right")
    for finding, row in cells[list(HEADS)].iterrows():
        whole, short = row.iloc[:2], [value.partition(" [")[0] for value in row.iloc[2:]]
        ill = found["patients_with"].get(finding, f"{len(found['auroc'])} findings")
        table.add_row(printable(str(finding)), *whole, *short, str(ill))
    console.print(table)
    console.print(
        f"{how['level']:.0%} intervals, {how['method']}: {how['patients']:,} patients, "
        f"{how['replicates']:,} replicates; none below {how['least_patients']} with a finding or "
        "without; ECE is median-unbiased"
    )
    if found["without_both_classes"]:
        console.print(f"one class only, not scored: {', '.join(found['without_both_classes'])}")
    if found["not_predicted"]:
        names = ", ".join(map(printable, found["not_predicted"]))
        console.print(f"in the labels, predicted by nobody, in no mean: {names}")
    worst, gap = found["subgroups"]["worst"], found["subgroups"]["gap"]
    if worst and gap:
        console.print(
            f"worst subgroup: {worst['macro_auroc']:.3f} macro AUROC ({worst['by']}: "
            f"{worst['group']}); widest gap {gap_beside_chance(gap)}"
        )


def write(found: dict[str, Any], path: Path) -> None:
    """Write scores as JSON, CSV or Markdown.

    Args:
        found: see :func:`rows`.
        path: ends in ``.json``, ``.csv`` or ``.md``.

    Raises:
        FedmedError: if it cannot be written.
    """
    if path.suffix == ".json":
        text = jsontext.dumps(found)
    elif path.suffix == ".csv":
        text = safe(rows(found)).to_csv(index=False)
    else:
        cells = _cells(found).reset_index()
        lines = [list(cells.columns), ["---"] * len(cells.columns), *cells.to_numpy().tolist()]
        text = "".join(f"| {' | '.join(map(escape, line))} |\n" for line in lines)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise FedmedError(f"--out: {path} cannot be written: {error.strerror}") from None
