"""A grid does each cell once, here and on a real Slurm, and gives the same bits on both."""

import errno
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import slurm
from conftest import TINY, summary
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from fedmed.config import compose, settings
from fedmed.core.errors import ConfigError, FedmedError
from fedmed.runs.directory import RunDirectory
from fedmed.sweep import slurm as slurm_jobs
from fedmed.sweep.grid import Grid
from fedmed.sweep.launch import sweep
from fedmed.sweep.wandb_sweep import wandb_sweep

Ask = Callable[..., list[str]]


@pytest.fixture
def ask(store: Path, tmp_path: Path) -> Ask:
    """Return the overrides of a small grid whose runs go to a folder of the test."""

    def ask(*overrides: str, folder: str = "runs") -> list[str]:
        return [*TINY, f"store={store}", f"hydra.sweep.dir={tmp_path / folder}", *overrides]

    return ask


def results(grid: Grid) -> dict[str, tuple[Any, ...]]:
    """Return what must be equal to the bit of each cell."""
    return {
        cell.run_id: (
            summary(cell.folder)["model_sha256"],
            summary(cell.folder)["test"],
            (cell.folder / "metrics.csv").read_text(),
        )
        for cell in grid.cells
    }


def test_grid_runs_what_is_missing(ask: Ask, capfd: pytest.CaptureFixture[str]) -> None:
    grid = ask("rounds=1", "client=sgd", "client.lr=0.01,1e30", "seed=0,1", "runner.workers=2")
    fine, elsewhere, *broken = Grid.of(grid).cells
    with RunDirectory(elsewhere.folder).locked():
        assert sweep(grid) == 1
        assert elsewhere.state() == "running"
        assert not (elsewhere.folder / "summary.json").exists()
    said = capfd.readouterr().out
    assert f"another process is running it: client.lr=0.01 seed=1, {elsewhere.folder}" in said
    for cell in broken:
        assert cell.state() == "failed"
        assert f"failed: {cell}" in said.replace("\n", "")
    assert "fedmed: round 1: client 0 returned NaN or infinity" in said
    assert "1 done, 1 running, 2 failed" in said
    folder = fine.folder.parent
    status = [sys.executable, "-m", "fedmed.cli", "sweep", "status", str(folder)]
    shown = subprocess.run(status, capture_output=True, text=True)
    assert shown.returncode == 1
    assert "1 done, 1 missing, 2 failed" in shown.stdout

    done = (fine.folder / "summary.json").stat().st_mtime_ns
    assert sweep(ask("rounds=1", "client=sgd", "client.lr=0.01", "seed=0,1")) == 0
    assert (fine.folder / "summary.json").stat().st_mtime_ns == done
    assert elsewhere.state() == "done"


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (
            ["partition.alpha=1,-1"],
            r"partition.alpha: .* got -1 \(in the cell partition.alpha=-1\)",
        ),
        (["strategy=fedavg,nope"], r"strategy=nope: unknown; strategy takes .*in the cell"),
        (["seed=interval(0,1)"], "seed: a grid takes a,b,c"),
        (["seed=0,,1"], "seed=0,,1: is not KEY=VALUE"),
    ],
)
def test_bad_cell_is_named_before_any_is_run(bad: list[str], told: str, ask: Ask) -> None:
    with pytest.raises(ConfigError, match=told) as error:
        sweep(ask(*bad))
    assert "\n" not in str(error.value)


def test_wandb_agents_run_the_same_cells() -> None:
    """As wandb's own agent fills the command in."""
    grid = ["+experiment=noniid", "strategy=fedavg,fedprox", "partition.alpha=0.1,1", "seed=0"]
    asked = wandb_sweep(grid)
    keys = asked["parameters"]
    runs = set()
    for values in itertools.product(*(parameter["values"] for parameter in keys.values())):
        chosen = {key: {"value": v} for key, v in zip(keys, values, strict=True)}
        filled = create_sweep_command_args({"args": chosen})["args_no_hyphens"]
        start = asked["command"].index("fedmed.run") + 1
        runs.add(compose([*asked["command"][start:-1], *filled]).sha256[:16])
    assert runs == {cell.run_id for cell in Grid.of(grid).cells}
    assert len(runs) == 4


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A Slurm of one node with two cores and something that it takes for a GPU."""
    if reason := slurm.missing():
        pytest.skip(reason)
    with slurm.cluster(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


@pytest.mark.parametrize("told", ["preemption", "time limit"])
def test_slurm_warns_of_what_it_ends(
    told: str,
    cluster: dict[str, str],
    ask: Ask,
    command: Callable[..., subprocess.Popen[str]],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """All processes of a job hear it, and none but the main one decides: the job is queued again.

    The partition has a grace time, in which the rounds go on. A second launch watches the same job.
    """
    for name, value in cluster.items():
        monkeypatch.setenv(name, value)
    slow = "faults.inject=[{kind: slow, clients: [0], seconds: 1}]"
    mirrored = ("tracking.mode=offline", "runner.workers=2")
    small = ("hydra.launcher.cpus_per_task=2", "hydra.launcher.mem_gb=1")
    grid = ask("rounds=14", "seed=0", slow, *mirrored, "hydra/launcher=slurm_cpu", *small)
    (cell,) = Grid.of(grid).cells
    launcher = command("-m", *grid)
    log = cell.folder / "run.log"
    wait_until(lambda: log.exists() and "round 2:" in log.read_text())
    if told == "preemption":
        urgent = ["--partition=urgent", "--cpus-per-task=2", "--mem=100", "--output=/dev/null"]
        subprocess.run(["sbatch", *urgent, "--wrap=sleep 1"], check=True)
    else:  # what sbatch --signal=USR2@… makes Slurm send ahead of the limit
        job = (cell.folder / "slurm_job").read_text()
        subprocess.run(["scancel", "--signal=USR2", job], check=True)
    assert sweep(grid) == 0
    assert "in the queue already: 1 cells" in capfd.readouterr().out
    assert cell.state() == "done"
    assert launcher.wait(60) == 0
    said = log.read_text()
    assert "resuming after round" in said
    assert "died" not in said
    assert summary(cell.folder)["rounds_done"] == 14


def test_slurm_array_is_no_longer_than_the_cluster_takes(
    cluster: dict[str, str], ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This one takes four jobs an array, its default a thousand."""
    for name, value in cluster.items():
        monkeypatch.setenv(name, value)
    grid = Grid.of(ask("seed=range(0,9)", "hydra/launcher=slurm_cpu", "hydra.launcher.mem_gb=1"))
    launcher = settings([*grid.hydra, *grid.cells[0].overrides]).launcher
    arrays = slurm_jobs.submit(grid.cells, launcher)
    jobs = [slurm_jobs.job_of(cell) for cell in grid.cells]
    assert slurm_jobs.in_queue() <= set(jobs)
    subprocess.run(["scancel", "--me", "--state=PENDING"], check=True)
    subprocess.run(["scancel", "--me", "--signal=KILL"], check=True)
    assert len(arrays) == 3
    assert len(set(jobs)) == 9
    assert {str(job).partition("_")[0] for job in jobs} == set(arrays)


def test_a_grid_in_other_hands_is_not_done(ask: Ask, capfd: pytest.CaptureFixture[str]) -> None:
    """So that ``… -m … && table.py`` reads no unfinished run."""
    (cell,) = Grid.of(ask("rounds=1")).cells
    with RunDirectory(cell.folder).locked():
        assert sweep(ask("rounds=1")) == 1
    assert "1 running; the same command goes on" in capfd.readouterr().out


@pytest.mark.parametrize("name", ["x" * 300, "a/b c", "é" * 120])
def test_a_grid_of_any_name_has_a_file(name: str, ask: Ask) -> None:
    grid = Grid.of(ask(f"name='{name}'", "seed=0,1"))
    path = grid.save()
    assert path.parent == grid.folder / "grids"
    assert Grid.load(path).name == grid.name == name
    assert [c.run_id for c in Grid.load(path).cells] == [c.run_id for c in grid.cells]


def test_a_file_system_without_locks_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As NFS without its lock daemon answers: there is none such here."""

    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    here = RunDirectory(tmp_path)
    with pytest.raises(FedmedError, match=r"\.lock: cannot be locked \(No locks"), here.locked():
        pass
    with pytest.raises(FedmedError, match="has no flock"):
        here.in_use()


def test_slurm_resumes_what_was_cut_off_to_the_same_bits(
    cluster: dict[str, str],
    ask: Ask,
    command: Callable[..., subprocess.Popen[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Launcher and jobs are killed in the second of three cells; then two cells share a GPU.

    A client takes its time in the third round, so that there is time to kill it.
    """
    for name, value in cluster.items():
        monkeypatch.setenv(name, value)
    slow = "faults.inject=[{kind: slow, clients: [0], rounds: [3], seconds: 4}]"
    grid = ("rounds=16", "seed=0,1,2", slow)
    small = ("hydra.launcher.mem_gb=1", "hydra.launcher.timeout_min=5")
    one = ask(*grid, "hydra/launcher=slurm_cpu", "hydra.launcher.cpus_per_task=2", *small)
    done, cut, missing = Grid.of(one).cells
    launcher = command("-m", *one)
    log = cut.folder / "run.log"
    wait_until(lambda: log.exists() and "round 2:" in log.read_text())
    at_once = ["--signal=QUIT", "--state=RUNNING"]  # Slurm gives those that it sends KILL seconds
    for chosen in (at_once, []):  # then those that wait
        subprocess.run(["scancel", "--me", *chosen], check=True)
    os.killpg(launcher.pid, signal.SIGKILL)
    launcher.communicate()
    wait_until(lambda: not subprocess.run(["squeue", "-h"], capture_output=True).stdout)
    assert [cell.state() for cell in (done, cut, missing)] == ["done", "interrupted", "missing"]
    finished = (done.folder / "summary.json").stat().st_mtime_ns

    shared = ("hydra.launcher.tasks_per_node=2", "hydra.launcher.cpus_per_task=1")
    assert sweep(ask(*grid, "hydra/launcher=slurm_gpu", *shared, *small)) == 0
    assert (done.folder / "summary.json").stat().st_mtime_ns == finished
    jobs = {(cell.folder / "slurm_job").read_text() for cell in (cut, missing)}
    assert len(jobs) == 1
    assert "resuming after round" in log.read_text()
    for cell in (done, cut, missing):
        for round_ in range(1, 17):
            assert (cell.folder / "run.log").read_text().count(f" round {round_}:") == 1

    here = ask(*grid, "runner.workers=2", folder="here")
    assert sweep(here) == 0
    assert results(Grid.of(here)) == results(Grid.of(one))


def wait_until(true: Callable[[], Any], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)
