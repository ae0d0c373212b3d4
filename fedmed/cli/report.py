"""Make one HTML page of many runs, which is read offline: scores, privacy, fairness, cost, hashes.

fedmed report runs
fedmed report runs other/runs --out report.html --target 0.8

The page names no patient, file, user or host: it can be sent to a reviewer as it is.
"""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from fedmed.cli.arguments import new_parser


def parser() -> ArgumentParser:
    """Return what reads the arguments."""
    parser = new_parser("report", __doc__)
    parser.add_argument(
        "folders", type=Path, nargs="+", metavar="DIR", help="runs, or their folder"
    )
    parser.add_argument("--out", type=Path, default=Path("report.html"), metavar="FILE")
    parser.add_argument(
        "--target",
        type=float,
        metavar="AUROC",
        help="tell what it cost to reach it: the median of each experiment",
    )
    return parser


def main(argv: Sequence[str]) -> None:
    """Write the page."""
    arguments = parser().parse_args(argv)
    from fedmed.report.page import page
    from fedmed.runs.run import find

    runs = find(arguments.folders)
    text = page(runs, arguments.folders, arguments.target)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(text, encoding="utf-8")
    print(f"wrote {arguments.out}: {len(runs)} runs, {len(text.encode()) / 1e6:.2f} MB")
