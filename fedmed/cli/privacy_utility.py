"""Draw what privacy costs: macro AUROC on the test patients against ε, a line a unit.

Reads the run directories of a sweep and nothing else; several seeds of one point are averaged.

fedmed run -m +experiment=privacy_utility
fedmed privacy-utility runs [--name privacy_utility …] [--out privacy_utility]
"""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from fedmed.cli.arguments import new_parser


def parser() -> ArgumentParser:
    """Return what reads the arguments."""
    parser = new_parser("privacy-utility", __doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="of the run directories")
    parser.add_argument("--name", nargs="+", default=["privacy_utility"], help="a panel each")
    parser.add_argument("--out", type=Path, default=Path("privacy_utility"), metavar="STEM")
    return parser


def main(argv: Sequence[str]) -> None:
    """Print the table; write it as CSV and the figure as PNG."""
    arguments = parser().parse_args(argv)
    import pandas as pd
    from rich.console import Console

    from fedmed.report.privacy_utility import collect, draw, table

    sweeps = {name: collect(arguments.folder, name) for name in arguments.name}
    rows = pd.concat(sweeps, names=["name"]).reset_index("name")
    rows.to_csv(arguments.out.with_suffix(".csv"), index=False)
    draw(sweeps, arguments.out.with_suffix(".png"))
    for name, runs in sweeps.items():
        Console().print(table(name, runs))
