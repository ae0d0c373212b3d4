"""Cells on this machine: as many at once as it has workers, each a process of its own.

One-thread cells side by side leave no core waiting for the slowest client of a round, or for a
server that aggregates; processes are forked from one that has imported everything, so a cell pays
no second for that, and the death of one touches no other.
"""

from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from multiprocessing import connection
from multiprocessing.context import ForkServerProcess

from omegaconf import DictConfig

from fedmed import config as cfg
from fedmed.core.errors import FedmedError
from fedmed.core.processes import context, leave_with_parent, listen
from fedmed.data import store
from fedmed.data.table import Dataset, validate
from fedmed.engines.local import workers
from fedmed.runs.console import Console
from fedmed.sweep.grid import Cell
from fedmed.sweep.worker import play as play_cell


def play(cells: Sequence[Cell], launcher: DictConfig, console: Console) -> None:
    """Run the cells. They share the workers of ``runner=local``; of few cells, each has several.

    Args:
        cells: which of them another process may be running, or finish: those are left to it.
        launcher: Hydra's, which has nothing to say here.
        console: told of each cell that starts and ends.
    """
    configs = [cfg.compose(cell.overrides) for cell in cells]
    runner = configs[0].runner
    budget = max(1, workers(runner)) if isinstance(runner, cfg.Local) else 1  # Ray shares by itself
    for data in {str(c.dataset): c for c in configs}.values():
        with suppress(FedmedError):  # the cells with this dataset will fail, and say why
            _prepare(data, budget, console)
    at_once = min(budget, len(cells))
    each = budget // at_once
    share = [f"runner.workers={each if each > 1 else 0}"] if isinstance(runner, cfg.Local) else []
    waiting, free = deque(cells), list(range(at_once))
    running: dict[int, tuple[ForkServerProcess, Cell, int]] = {}
    try:
        while waiting or running:
            while waiting and free:
                cell = waiting.popleft()
                state = cell.state()
                if state == "running" or (state == "done" and not cell.force):
                    console.say(f"skipped, as another process is running it: {cell}")
                    continue
                slot = free.pop(0)
                process = _start([*cell.overrides, *share], cell, slot)
                running[process.sentinel] = process, cell, slot
            console.show("cells", len(cells) - len(waiting) - len(running), len(cells))
            for sentinel in connection.wait(list(running)) if running else ():
                process, cell, slot = running.pop(sentinel)  # type: ignore[arg-type]
                process.join()
                free.append(slot)
                console.say(f"{cell.state()}: {cell}")
    finally:
        for process, _, _ in running.values():
            process.kill()


def _prepare(config: cfg.Config, workers: int, console: Console) -> None:
    """Decode, with all workers, what else one cell would decode alone while the others wait."""
    dataset: Dataset = config.dataset.build()
    table = validate(dataset.table(), dataset)
    show = partial(console.show, "images")
    store.prepare(dataset, table, config.store, workers, show)


def _start(overrides: Sequence[str], cell: Cell, slot: int) -> ForkServerProcess:
    process = context("fedmed.experiment.run").Process(
        target=_play, args=(overrides, cell, slot), name=cell.run_id
    )
    process.start()
    return process


def _play(overrides: Sequence[str], cell: Cell, slot: int) -> None:
    leave_with_parent()
    listen()
    play_cell(overrides, cell.folder, slot)
