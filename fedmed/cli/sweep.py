"""Look at a grid of runs, or hand it to wandb's agents.

fedmed sweep status [DIR]       # how far each cell of each grid below DIR is
fedmed sweep wandb +experiment=noniid strategy=fedavg,fedprox seed=0,1 > FILE

``status`` exits with 0 if every cell is done, else with 1.
"""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedmed.cli.arguments import OVERRIDES, new_parser
from fedmed.core.errors import FedmedError

if TYPE_CHECKING:
    from fedmed.sweep.grid import Cell, State

COLOURS = {"done": "green", "running": "cyan", "failed": "bold red", "interrupted": "yellow"}


def parser() -> ArgumentParser:
    """Return what reads the arguments."""
    parser = new_parser("sweep", __doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    look = commands.add_parser("status", help="how far each cell is")
    look.add_argument("folder", type=Path, nargs="?", default=Path("runs"), metavar="DIR")
    agents = commands.add_parser("wandb", help="print a file for wandb sweep")
    agents.add_argument("overrides", nargs="+", metavar="OVERRIDE", help=OVERRIDES)
    return parser


def main(argv: Sequence[str]) -> int:
    """Print what the arguments ask for; return 0, or 1 where a cell is not done."""
    arguments = parser().parse_args(argv)
    if arguments.command == "status":
        return _status(arguments.folder)
    _print_sweep(arguments.overrides)
    return 0


def _status(folder: Path) -> int:
    """Print a table a grid; return the exit status."""
    from rich.console import Console
    from rich.table import Table

    from fedmed.sweep.grid import GRIDS, Grid

    files = sorted((folder / GRIDS).glob("*.json"))
    if not files:
        raise FedmedError(f"{folder}: no grid was launched into it; fedmed run -m … does")
    console = Console(highlight=False)
    everything = True
    for grid in map(Grid.load, files):
        states = [cell.state() for cell in grid.cells]
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        table = Table(title=f"{grid.name}: {counts}", title_justify="left", box=None)
        for column in ("cell", "state", "round", "macro AUROC", "run"):
            table.add_column(column, overflow="fold")
        for cell, state in zip(grid.cells, states, strict=True):
            table.add_row(*_row(cell, state))
        console.print(table)
        everything &= all(state == "done" for state in states)
    return 0 if everything else 1


def _print_sweep(overrides: Sequence[str]) -> None:
    import shlex

    import yaml

    from fedmed.sweep.wandb_sweep import wandb_sweep

    sweep = wandb_sweep(overrides)
    print(f"# wandb sweep FILE, then wandb agent …: fedmed run -m {shlex.join(overrides)}")
    print(yaml.safe_dump(sweep, sort_keys=False), end="")


def _row(cell: "Cell", state: "State") -> tuple[str, ...]:
    from rich.markup import escape

    from fedmed.runs.directory import RunDirectory

    summary = RunDirectory(cell.folder).summary() or {}
    auroc = summary.get("test", {}).get("macro_auroc")
    known = f"{auroc:.3f}" if isinstance(auroc, float) else escape(summary.get("error", ""))
    colour = COLOURS.get(state, "dim")
    varied = escape(" ".join(cell.varied) or cell.run_id)
    return varied, f"[{colour}]{state}", _round(cell), known, cell.run_id


def _round(cell: "Cell") -> str:
    """Return the last round that the run's table of metrics tells of."""
    path = cell.folder / "metrics.csv"
    lines = path.read_text().splitlines()[1:] if path.exists() else []
    return lines[-1].partition(",")[0] if lines else ""
