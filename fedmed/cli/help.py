"""``--help``: the groups, and what each value means, from the comments in the configuration."""

import re
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedmed.config import CONF

USAGE = """[bold]python -m fedmed.run[/bold] \\[+experiment=NAME] \\[GROUP=CHOICE …] \\[KEY=VALUE …]

Trains a federation of hospitals on chest radiographs and leaves a run directory.
A run that was cut off goes on when the same command is given again; a finished one is recognised.

  python -m fedmed.run +experiment=quickstart
  python -m fedmed.run +experiment=quickstart strategy=fedprox strategy.mu=0.1 seed=3
  python -m fedmed.run +experiment=nih dataset.root=DIR

-m +paper=NAME runs what a paper published, and scripts/table.py paper=NAME compares.
-m runs a grid over comma-separated values: what is missing of it, several cells at once, here or
with hydra/launcher=slurm_cpu on a cluster. --cfg job shows the composed configuration.
"""
GROUPS = (
    "experiment",
    "paper",
    "dataset",
    "partition",
    "model",
    "strategy",
    "privacy",
    "client",
    "runner",
    "faults",
    "tracking",
    "hydra/launcher",
)
ADDED = ("experiment", "paper")


def show() -> None:
    """Print the help."""
    console = Console(highlight=False)
    console.print(USAGE)
    for group in GROUPS:
        console.print(f"[bold]{group}[/bold]" + (" (with a +)" if group in ADDED else ""))
        console.print(_options(group))
    console.print("[bold]of all runs[/bold]")
    console.print(_grid(_keys(CONF / "config.yaml")))


def _options(group: str) -> Table:
    rows = []
    for path in sorted((CONF / group).glob("*.yaml")):
        rows.append((f"[cyan]{path.stem}[/cyan]", _title(path)))
        rows += [(f"  {group.replace('/', '.')}.{key}", meaning) for key, meaning in _keys(path)]
    return _grid(rows)


def _grid(rows: list[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    for key, meaning in rows:
        table.add_row("  " + key, escape(meaning))
    return table


def _title(path: Path) -> str:
    comments = [
        line[2:] for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# ")
    ]
    return next(c for c in comments if not c.startswith(("python ", "@package")))


def _keys(path: Path) -> list[tuple[str, str]]:
    """Return the commented keys of a file, nested ones by their dotted path."""
    keys, parents = [], [""]
    for line in path.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"( *)([\w.]+):(.*?)(?: # (.*))?$", line):
            depth = len(match[1]) // 2
            parents = [*parents[: depth + 1], match[2]]
            if match[4]:
                value = match[3].strip()
                shown = f" = {value}" if value and not value.startswith("$") else ""
                keys.append((".".join(parents[1:]) + shown.replace("[", "\\["), match[4]))
    return keys
