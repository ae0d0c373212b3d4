"""Launch a grid: run what is missing of it, tell what became of its cells."""

from collections.abc import Sequence
from pathlib import Path

from fedmed import config as cfg
from fedmed.core.errors import ConfigError
from fedmed.runs.console import Console
from fedmed.sweep import local, slurm
from fedmed.sweep.grid import Cell, Grid

LINES = 8  # of the log of a failed cell
LAUNCHERS = {"BasicLauncher": local.play, "SlurmLauncher": slurm.play}


def sweep(arguments: Sequence[str]) -> int:
    """Launch a grid.

    Args:
        arguments: the command line's overrides; a comma gives a key several values.

    Returns:
        The exit status: 0 if every cell is done, 130 after Ctrl-C, else 1.

    Raises:
        ConfigError: if a cell cannot be run or the launcher is none of ours; nothing was started.
    """
    grid = Grid.of(arguments)
    launcher = cfg.settings([*grid.hydra, *grid.cells[0].overrides]).launcher
    kind = launcher._target_.rpartition(".")[2]
    if kind not in LAUNCHERS:
        raise ConfigError("hydra/launcher: takes basic, submitit_slurm, slurm_cpu or slurm_gpu")
    file = grid.save()
    with Console() as console:
        console.say(f"{grid.name}: {len(grid.cells)} cells; {file} lists them")
        open_ = [cell for cell in grid.cells if _is_open(cell, console)]
        try:
            if open_:
                LAUNCHERS[kind](open_, launcher, console)
        except KeyboardInterrupt:
            return 130
    return _report(grid, console)


def _is_open(cell: Cell, console: Console) -> bool:
    if cell.force or cell.state() != "done":
        return True
    console.say(f"done already: {cell}")
    return False


def _report(grid: Grid, console: Console) -> int:
    states = {cell: cell.state() for cell in grid.cells}
    others = [cell for cell, state in states.items() if state == "running"]
    broken = [cell for cell, state in states.items() if state not in ("done", "running")]
    for cell in broken:
        console.say(f"\n{states[cell]}: {cell}", "bold red")
        console.say(_last_lines(cell.folder / "run.log"))
    counts = [f"{list(states.values()).count(s)} {s}" for s in dict.fromkeys(states.values())]
    again = "; the same command goes on with what is not done" if broken or others else ""
    console.say(f"\n{grid.name}: {', '.join(counts)}{again}")
    return 1 if broken or others else 0


def _last_lines(log: Path) -> str:
    if not log.exists():
        return f"  no {log}"
    return "\n".join(f"  {line}" for line in log.read_text(errors="replace").splitlines()[-LINES:])
