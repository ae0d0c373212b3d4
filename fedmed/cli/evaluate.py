"""Put a question to finished runs.

fedmed evaluate subgroups RUN_DIR
fedmed evaluate mypackage.attention.Attention RUN_DIR …   # a class of your own

Writes RUN_DIR/evaluations/NAME.json. NAME.key is then a figure of fedmed table (--value NAME.key),
and its section stands in fedmed report. A class of your own is one over
fedmed.runs.evaluations.Evaluation.
"""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from fedmed.cli.arguments import new_parser


def parser() -> ArgumentParser:
    """Return what reads the arguments."""
    parser = new_parser("evaluate", __doc__)
    parser.add_argument("name", metavar="NAME", help="subgroups, audit, or PACKAGE.MODULE.CLASS")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN_DIR")
    return parser


def main(argv: Sequence[str]) -> None:
    """Evaluate each run, and say where the answer is."""
    arguments = parser().parse_args(argv)
    from fedmed.evaluations import find
    from fedmed.runs.evaluations import FOLDER, evaluate
    from fedmed.runs.run import Run

    evaluation = find(arguments.name)
    for folder in arguments.runs:
        evaluate(evaluation, Run(folder))
        print(f"wrote {folder / FOLDER / f'{evaluation.name}.json'}")
