"""``--help``: the groups, and what each value means, from the comments in the configuration."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedmed.config import CONF
from fedmed.core.errors import ConfigError

USAGE = """[bold]fedmed run[/bold] \\[+experiment=NAME] \\[GROUP=CHOICE …] \\[KEY=VALUE …]

Trains a federation of hospitals on chest radiographs and leaves a run directory.
A run that was cut off goes on when the same command is given again; a finished one is recognised.

  fedmed run +experiment=quickstart
  fedmed run +experiment=quickstart strategy=fedprox strategy.mu=0.1 seed=3
  fedmed run +experiment=nih dataset.root=DIR

-m +paper=NAME runs what a paper published, and fedmed table paper=NAME compares.
-m runs a grid over comma-separated values: what is missing of it, several cells at once, here or
with hydra/launcher=slurm_cpu on a cluster. --cfg job shows the composed configuration.
--help GROUP, as in --help strategy, tells of one group alone.
"""
GROUPS = (
    "experiment",
    "paper",
    "dataset",
    "partition",
    "model",
    "protocol",
    "aggregation",
    "strategy",
    "privacy",
    "client",
    "augment",
    "runner",
    "faults",
    "tracking",
    "anchor",
    "hydra/launcher",
)
ADDED = ("experiment", "paper")


class Key(NamedTuple):
    """A key of the configuration.

    Attributes:
        name: its dotted path within its file.
        default: as written; empty where a tree begins.
        meaning: its comment.
    """

    name: str
    default: str
    meaning: str


def show(groups: Sequence[str] = ()) -> None:
    """Print the help.

    Args:
        groups: that it is about; if there are none, all of them, and how a run is started.

    Raises:
        ConfigError: of a name that is no group's.
    """
    for group in groups:
        if group not in GROUPS:
            near = get_close_matches(group, GROUPS)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(GROUPS)}"
            raise ConfigError(f"--help {group}: unknown group; {hint}")
    console = Console(highlight=False)
    if not groups:
        console.print(USAGE)
    for group in groups or GROUPS:
        console.print(f"[bold]{group}[/bold]" + (" (with a +)" if group in ADDED else ""))
        console.print(_grid(_choices(group)))
    if not groups:
        console.print("[bold]of all runs[/bold]")
        console.print(_grid([(_assigned(key), key.meaning) for key in keys(CONF / "config.yaml")]))


def choices(group: str) -> list[Path]:
    """Return the files of a group's choices."""
    return sorted((CONF / group).glob("*.yaml"))


def keys(path: Path) -> list[Key]:
    """Return the commented keys of a file, nested ones by their dotted path."""
    found, parents = [], [""]
    for line in path.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"( *)([\w.]+):(.*?)(?: # (.*))?$", line):
            depth = len(match[1]) // 2
            parents = [*parents[: depth + 1], match[2]]
            if match[4]:
                found.append(Key(".".join(parents[1:]), match[3].strip(), match[4]))
    return found


def package(path: Path) -> str:
    """Return where in the configuration the keys of a group's choice stand, dotted."""
    given = re.match(r"# @package ([a-z.]+)\n", path.read_text(encoding="utf-8"))
    return given[1] if given else ".".join(path.parent.relative_to(CONF).parts)


def _choices(group: str) -> list[tuple[str, str]]:
    rows = []
    for path in choices(group):
        prefix = f"  {package(path)}."
        rows.append((f"[cyan]{path.stem}[/cyan]", _title(path)))
        rows += [(prefix + _assigned(key), key.meaning) for key in keys(path)]
    return rows


def _assigned(key: Key) -> str:
    """Return a key with its default, but for one that is another key's."""
    shown = key.default and not key.default.startswith("$")
    return key.name + (f" = {escape(key.default)}" if shown else "")


def _grid(rows: Sequence[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    for key, meaning in rows:
        table.add_row("  " + key, escape(meaning))
    return table


def _title(path: Path) -> str:
    comments = [
        line[2:] for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# ")
    ]
    return next(c for c in comments if not c.startswith(("python ", "@package")))
