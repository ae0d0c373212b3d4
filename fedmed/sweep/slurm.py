"""Cells on a Slurm cluster: a job array through submitit, a cell each of its tasks.

The launcher is hydra-submitit-launcher's, with its keys. What became of a cell is read from its run
directory and the queue, never from a pickled result: that holds without an accounting store, after
``scancel``, and when the process that submitted is long gone.
"""

import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fedmed.core import processes
from fedmed.core.errors import FedmedError, readable
from fedmed.runs.console import Console
from fedmed.sweep.grid import Cell
from fedmed.sweep.worker import play as play_cell

ARRAY = 1000  # jobs of an array, where the cluster does not say; Slurm's default takes 1,001
POLL = 2.0  # seconds between two looks at the queue
#: Keys of the launcher that submitit does not know as Slurm's own.
COMMON = {
    "timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "name",
    "stderr_to_stdout",
}  # fmt: skip


@dataclass(frozen=True)
class Job:
    """What one job of the array runs: a cell in each of its tasks.

    A job that is preempted or reaches its time limit is queued again by submitit; its cells go on
    after their last round.
    """

    cells: Sequence[Cell]

    def __call__(self) -> None:
        """Run this task's cell."""
        import submitit

        processes.remember_warnings()  # submitit lets TERM pass, and is done with its handlers
        here = submitit.JobEnvironment()
        if here.global_rank < len(self.cells):
            cell = self.cells[here.global_rank]
            play_cell(cell.overrides, cell.folder, here.local_rank, cell.run_id)

    def checkpoint(self) -> Any:
        """Return what submitit queues again."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def play(cells: Sequence[Cell], launcher: DictConfig, console: Console) -> None:
    """Submit the cells that are not in the queue already, and wait until none is.

    Args:
        cells: those that are not done; some may be in the queue, or run somewhere else.
        launcher: hydra-submitit-launcher's configuration.
        console: told of each cell that leaves the queue.

    Raises:
        FedmedError: if this is no Slurm cluster, or it refuses the jobs.
    """
    if not shutil.which("sbatch"):
        raise FedmedError("hydra/launcher: there is no sbatch here; launch from a Slurm login node")
    queued = in_queue(tries=1)
    waiting = [cell for cell in cells if job_of(cell) in queued]
    if waiting:
        console.say(f"in the queue already: {len(waiting)} cells")
    todo = []
    for cell in cells:
        if cell.state() == "running" and cell not in waiting:
            console.say(f"skipped, as another process is running it: {cell}")
        elif cell not in waiting:
            todo.append(cell)
    if todo:
        console.say(f"submitted: Slurm job array {', '.join(submit(todo, launcher))}")
    waiting += todo
    try:
        while waiting:
            queued = in_queue()
            for cell in [cell for cell in waiting if job_of(cell) not in queued]:
                waiting.remove(cell)
                console.say(f"{cell.state()}: {cell}")
            console.show("cells", len(cells) - len(waiting), len(cells))
            time.sleep(POLL if waiting else 0)
    except KeyboardInterrupt:
        console.say("the jobs go on; the same command watches them again, scancel ends them")
        raise


def submit(cells: Sequence[Cell], launcher: DictConfig) -> list[str]:
    """Submit job arrays and note in each run directory which of their jobs has the cell.

    Raises:
        FedmedError: if Slurm refuses them.
    """
    import submitit

    given: dict[str, Any] = OmegaConf.to_container(launcher, resolve=True)  # type: ignore[assignment]
    given.pop("_target_")
    folder, retries = given.pop("submitit_folder"), given.pop("max_num_timeout")
    tasks = given["tasks_per_node"] * given["nodes"]
    jobs = [Job(cells[i : i + tasks]) for i in range(0, len(cells), tasks)]
    longest = longest_array()
    arrays = [jobs[i : i + longest] for i in range(0, len(jobs), longest)]
    given["array_parallelism"] = max(1, given["array_parallelism"] // len(arrays))
    ids = []
    try:
        with readable(Path(folder)):
            executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=retries)
            executor.update_parameters(
                **{key if key in COMMON else f"slurm_{key}": value for key, value in given.items()}
            )
        for array in arrays:
            submitted = executor.submit_array(array)
            ids.append(submitted[0].job_id.partition("_")[0])
            for job, handle in zip(array, submitted, strict=True):
                for cell in job.cells:
                    with readable(cell.folder):
                        cell.folder.mkdir(parents=True, exist_ok=True)
                        (cell.folder / "slurm_job").write_text(handle.job_id)
    except submitit.core.utils.FailedJobError as error:
        reason = str(error).strip().rpartition("\n")[2]  # what sbatch said last
        raise FedmedError(f"hydra/launcher: Slurm refuses the jobs: {reason}") from None
    return ids


def longest_array() -> int:
    """Return how many jobs an array may have here: ``MaxArraySize`` of the cluster."""
    command = ["scontrol", "show", "config"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    told = re.search(r"^MaxArraySize\s*=\s*(\d+)", answer, re.MULTILINE)
    return max(1, int(told[1])) if told else ARRAY


def job_of(cell: Cell) -> str | None:
    """Return the Slurm job that was submitted last for a cell."""
    path = cell.folder / "slurm_job"
    return path.read_text() if path.exists() else None


def in_queue(tries: int = 30) -> set[str]:
    """Return the jobs of this user that wait or run, array jobs one by one.

    Raises:
        FedmedError: if the controller does not answer, asked every two seconds.
    """
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i"]
    for left in reversed(range(tries)):
        answer = subprocess.run(command, capture_output=True, text=True)
        if answer.returncode == 0:
            return set(answer.stdout.split())
        time.sleep(POLL if left else 0)
    raise FedmedError(f"hydra/launcher: squeue fails: {answer.stderr.strip()}")
