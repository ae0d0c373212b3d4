"""Make one HTML page of many runs, which is read offline: scores, privacy, fairness, cost, hashes.

python scripts/report.py runs
python scripts/report.py runs other/runs --out report.html --target 0.8

The page names no patient, file, user or host: it can be sent to a reviewer as it is.
"""

import sys

sys.path.pop(0)  # this folder: for other packages, datasets is Hugging Face's

import argparse
from pathlib import Path

from fedmed.core.errors import FedmedError
from fedmed.core.terminal import tolerate
from fedmed.report.page import page
from fedmed.runs.run import find


def main() -> None:
    """Read the command line and write the page; exits with 2 on bad input."""
    tolerate()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
    arguments = parser.parse_args()
    try:
        runs = find(arguments.folders)
        text = page(runs, arguments.folders, arguments.target)
    except FedmedError as error:
        print(f"fedmed: {error}", file=sys.stderr)
        sys.exit(2)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(text, encoding="utf-8")
    print(f"wrote {arguments.out}: {len(runs)} runs, {len(text.encode()) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
