"""Score anyone's predictions: the metrics and patient bootstrap intervals of every fedmed run.

python scripts/score.py --predictions FILE --labels FILE [--out scores.json|.csv|.md]

Both files are CSV, XLSX or Parquet with one row an image: an id (--id, image), and one column a
finding, of probabilities in the one, of 0, 1 or nothing in the other. The labels may name the
patient (--patient), for intervals over patients, and site, view, sex and age, for subgroups.
"""

import sys

sys.path.pop(0)  # this folder: for other packages, datasets is Hugging Face's

import argparse
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from fedmed.core import jsontext
from fedmed.core.errors import FedmedError
from fedmed.core.terminal import tolerate
from fedmed.core.texts import printable
from fedmed.evaluation.bootstrap import DEBIASED, REPLICATES, score
from fedmed.evaluation.ranked import METRICS
from fedmed.evaluation.subgroups import gap_beside_chance, subgroups
from fedmed.evaluation.submission import read, unpredicted
from fedmed.evaluation.summary import summary
from fedmed.report.render import escape
from fedmed.runs.directory import safe

WIDTH = 96  # columns of the terminal that the table takes
console = Console(highlight=False, markup=False, width=max(WIDTH, Console().width))
SHOWN = (*METRICS, DEBIASED)
HEADS = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "sensitivity_at_90_specificity": "sens@90%",
    "sensitivity_at_95_specificity": "sens@95%",
    "accuracy": "accuracy",
    "brier": "Brier",
    DEBIASED: "ECE",
}
FORMATS = (".json", ".csv", ".md")


def main() -> None:
    """Read the command line and score; exits with 2 on bad input."""
    tolerate()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--predictions", type=Path, required=True, metavar="FILE")
    parser.add_argument("--labels", type=Path, required=True, metavar="FILE")
    parser.add_argument("--id", default="image", help="the column of ids")
    parser.add_argument("--patient", default="patient", help="the labels' column of patients")
    parser.add_argument(
        "--distinct-ids", action="store_true", help="ids that are spelt almost alike are several"
    )
    parser.add_argument("--replicates", type=int, default=REPLICATES, help="of the bootstrap")
    parser.add_argument("--out", type=Path, metavar="FILE", help="as JSON, CSV or Markdown")
    arguments = parser.parse_args()
    try:
        if arguments.out and arguments.out.suffix not in FORMATS:
            raise FedmedError(f"--out: its name ends in {', '.join(FORMATS)}; got {arguments.out}")
        if arguments.out and not arguments.out.parent.is_dir():
            raise FedmedError(f"--out: there is no folder {arguments.out.parent}")
        if arguments.replicates < 1:
            raise FedmedError(f"--replicates: at least 1; got {arguments.replicates}")
        given = read(
            arguments.predictions,
            arguments.labels,
            arguments.id,
            arguments.patient,
            arguments.distinct_ids,
        )
        if given.images.empty:
            raise FedmedError(f"{arguments.labels}: has no row")
        found = summary(score(given, arguments.replicates)) | {"subgroups": subgroups(given)}
        found["not_predicted"] = unpredicted(
            arguments.labels, given, arguments.id, arguments.patient
        )
        if arguments.out:
            _write(found, arguments.out)
    except FedmedError as error:
        print(f"fedmed: {error}", file=sys.stderr)
        sys.exit(2)
    if given.images["patient"].equals(given.images["image"]):
        console.print(
            f"no column {arguments.patient} in the labels: each row is taken for a patient"
        )
    _show(found)


def rows(found: dict[str, Any]) -> pd.DataFrame:
    """Return a row a finding and metric: value and interval; the last ones are the means."""
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
        f"{r.value:.3f} [{r.low:.3f}, {r.high:.3f}]" if r.low == r.low else f"{r.value:.3f}"
        for r in listed.itertuples()
    ]
    table = listed.pivot(index="finding", columns="metric", values="cell")
    return table.loc[listed["finding"].unique(), list(SHOWN)]


def _show(found: dict[str, Any]) -> None:
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


def _write(found: dict[str, Any], path: Path) -> None:
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


if __name__ == "__main__":
    main()
