"""Score anyone's predictions: the metrics and patient bootstrap intervals of every fedmed run.

fedmed score --predictions FILE --labels FILE [--out scores.json|.csv|.md]

Both files are CSV, XLSX or Parquet with one row an image: an id (--id, image), and one column a
finding, of probabilities in the one, of 0, 1 or nothing in the other. The labels may name the
patient (--patient), for intervals over patients, and site, view, sex and age, for subgroups.
"""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from fedmed.cli.arguments import new_parser
from fedmed.core.errors import FedmedError

FORMATS = (".json", ".csv", ".md")


def parser() -> ArgumentParser:
    """Return what reads the arguments."""
    parser = new_parser("score", __doc__)
    parser.add_argument("--predictions", type=Path, required=True, metavar="FILE")
    parser.add_argument("--labels", type=Path, required=True, metavar="FILE")
    parser.add_argument("--id", default="image", help="the column of ids")
    parser.add_argument("--patient", default="patient", help="the labels' column of patients")
    parser.add_argument(
        "--distinct-ids", action="store_true", help="ids that are spelt almost alike are several"
    )
    parser.add_argument("--replicates", type=int, default=1000, help="of the bootstrap: 1000")
    parser.add_argument("--out", type=Path, metavar="FILE", help="as JSON, CSV or Markdown")
    return parser


def main(argv: Sequence[str]) -> None:
    """Score, show, and write where that is asked for."""
    arguments = parser().parse_args(argv)
    if arguments.out and arguments.out.suffix not in FORMATS:
        raise FedmedError(f"--out: its name ends in {', '.join(FORMATS)}; got {arguments.out}")
    if arguments.out and not arguments.out.parent.is_dir():
        raise FedmedError(f"--out: there is no folder {arguments.out.parent}")
    if arguments.replicates < 1:
        raise FedmedError(f"--replicates: at least 1; got {arguments.replicates}")
    from fedmed.evaluation.bootstrap import score
    from fedmed.evaluation.subgroups import subgroups
    from fedmed.evaluation.submission import read, unpredicted
    from fedmed.evaluation.summary import summary
    from fedmed.report.scores import show, write

    labels, ids, patients = arguments.labels, arguments.id, arguments.patient
    given = read(arguments.predictions, labels, ids, patients, arguments.distinct_ids)
    if given.images.empty:
        raise FedmedError(f"{labels}: has no row")
    found = summary(score(given, arguments.replicates)) | {"subgroups": subgroups(given)}
    found["not_predicted"] = unpredicted(labels, given, ids, patients)
    if arguments.out:
        write(found, arguments.out)
    if given.images["patient"].equals(given.images["image"]):
        print(f"no column {patients} in the labels: each row is taken for a patient")
    show(found)
