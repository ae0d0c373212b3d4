"""A grid does each cell once, here and on a real Slurm, and gives the same bits on both."""

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
from conftest import ROOT, TINY, summary
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from fedmed.config import compose
from fedmed.errors import ConfigError
from fedmed.rundir import RunDirectory
from fedmed.sweep.agents import wandb_sweep
from fedmed.sweep.grid import Grid
from fedmed.sweep.launch import sweep

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
    status = [sys.executable, str(ROOT / "scripts" / "sweep.py"), "status", str(folder)]
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
