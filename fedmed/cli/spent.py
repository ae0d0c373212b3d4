"""What all runs on the same patients have spent of them together: the ε of a sweep.

fedmed spent
fedmed spent --store DIR

Each simulation's ledger is kept a second time in the store, by who the patients are, and outlives
its run directory. Not counted are runs without privacy, which are without bound, and what was spent
of some of the patients in a larger or smaller set, or in another store. A patient may be another
client's in another run, so of each run the client counts to whom it has cost most.
"""

import os
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from fedmed.cli.arguments import new_parser

STORE = "~/.cache/fedmed"  # where $FEDMED_STORE names no other


def parser() -> ArgumentParser:
    """Return what reads the arguments."""
    parser = new_parser("spent", __doc__)
    default = os.environ.get("FEDMED_STORE", STORE)
    parser.add_argument("--store", type=Path, default=default, help="%(default)s when left out")
    return parser


def main(argv: Sequence[str]) -> None:
    """Print the table."""
    arguments = parser().parse_args(argv)
    from rich.console import Console
    from rich.table import Table

    from fedmed.privacy.together import together

    found = list(together(arguments.store.expanduser()))
    if not found:
        print(f"{arguments.store}: no run under privacy has been noted here")
        return
    table = Table("patients", "unit", "runs", "largest ε of one", "ε of all, at most", "δ")
    for one in found:
        spent = (f"{one.largest:.3g}", f"{one.epsilon:.3g}", f"{one.delta:g}")
        table.add_row(one.patients_sha256[:16], one.unit, str(one.runs), *spent)
    Console(highlight=False).print(table)
