"""Look at a grid of runs, or hand it to wandb's agents.

    python scripts/sweep.py status [DIR]       # how far each cell of each grid below DIR is
    python scripts/sweep.py wandb +experiment=noniid strategy=fedavg,fedprox seed=0,1 > FILE

``status`` exits with 0 if every cell is done, else with 1.
"""

import sys

sys.path.pop(0)  # this folder: for other packages, datasets is Hugging Face's

import argparse
import shlex
from pathlib import Path

import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedmed.core.errors import FedmedError
from fedmed.core.terminal import tolerate
from fedmed.runs.directory import RunDirectory
from fedmed.sweep.grid import GRIDS, Cell, Grid, State
from fedmed.sweep.wandb_sweep import wandb_sweep

COLOURS = {"done": "green", "running": "cyan", "failed": "bold red", "interrupted": "yellow"}


def status(folder: Path) -> int:
    """Print a table a grid; return the exit status."""
    files = sorted((folder / GRIDS).glob("*.json"))
    if not files:
        raise FedmedError(f"{folder}: no grid was launched into it; python -m fedmed.run -m … does")
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


def _row(cell: Cell, state: State) -> tuple[str, ...]:
    summary = RunDirectory(cell.folder).summary() or {}
    auroc = summary.get("test", {}).get("macro_auroc")
    known = f"{auroc:.3f}" if isinstance(auroc, float) else escape(summary.get("error", ""))
    colour = COLOURS.get(state, "dim")
    varied = escape(" ".join(cell.varied) or cell.run_id)
    return varied, f"[{colour}]{state}", _round(cell), known, cell.run_id


def _round(cell: Cell) -> str:
    """Return the last round that the run's table of metrics tells of."""
    path = cell.folder / "metrics.csv"
    lines = path.read_text().splitlines()[1:] if path.exists() else []
    return lines[-1].partition(",")[0] if lines else ""


def main() -> int:
    """Do what the command line asks for; return the exit status."""
    tolerate()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    look = commands.add_parser("status", help="how far each cell is")
    look.add_argument("folder", type=Path, nargs="?", default=Path("runs"), metavar="DIR")
    agents = commands.add_parser("wandb", help="print a file for wandb sweep")
    agents.add_argument("overrides", nargs="+", metavar="OVERRIDE")
    arguments = parser.parse_args()
    try:
        if arguments.command == "status":
            return status(arguments.folder)
        overrides: list[str] = arguments.overrides
        sweep = wandb_sweep(overrides)
    except FedmedError as error:
        print(f"fedmed: {error}", file=sys.stderr)
        return 2
    print(
        f"# wandb sweep FILE, then wandb agent …: python -m fedmed.run -m {shlex.join(overrides)}"
    )
    print(yaml.safe_dump(sweep, sort_keys=False), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
