"""What goes wrong ends in a clear line, and nothing already won is lost."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, summary
from flwr.app import RecordDict
from torch import nn

from fedmed.checkpoint import Checkpoint
from fedmed.client.rule import LocalRule
from fedmed.errors import FedmedError
from fedmed.rundir import RunDirectory


class Raises(LocalRule):
    """A client that fails."""

    def start(self, network: nn.Module, state: RecordDict) -> None:
        raise RuntimeError("the scanner is on fire")


def test_diverging_client_stops_the_run_before_the_average(
    launch: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    with pytest.raises(FedmedError, match=r"round 1: client 0 returned NaN or infinity in "):
        launch(*TINY, "client=sgd", "client.lr=1e30")
    assert not RunDirectory(tmp_path / "run").checkpoint.exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_failing_client_is_named(
    workers: int, launch: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """Where all fail, it is always the first that is told, whoever was done first."""
    rule = "strategy.local={_target_: test_faults.Raises}"
    with pytest.raises(FedmedError, match="client 0 failed: RuntimeError: the scanner is on fire"):
        launch(*TINY, rule, f"runner.workers={workers}")
    assert summary(tmp_path / "run")["status"] == "failed"


def test_dead_worker_is_told_and_the_run_goes_on(
    command: Callable[..., subprocess.Popen[str]],
    launch: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    config = (*TINY, "rounds=8", "runner.workers=2", f"hydra.run.dir={tmp_path / 'run'}")
    process = command(*config)
    assert process.stdout is not None
    for line in process.stdout:
        if "round 2/" in line:
            break
    listed = subprocess.run(["ps", "-eo", "pid,ppid,pgid"], capture_output=True, text=True).stdout
    rows = [tuple(map(int, line.split())) for line in listed.splitlines()[1:]]
    mine = {pid: parent for pid, parent, group in rows if group == process.pid}
    workers = [pid for pid, parent in mine.items() if mine.get(parent) == process.pid]
    os.kill(workers[-1], signal.SIGKILL)
    rest, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "fedmed: a worker process died" in rest
    assert "Traceback" not in rest
    again, _ = command(*config).communicate(timeout=120)
    assert "resuming after round" in again
    whole = launch(*TINY, "rounds=8", folder=tmp_path / "whole")
    assert summary(tmp_path / "run")["model_sha256"] == whole["model_sha256"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of a megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk])
    if mounted.returncode:
        pytest.skip("may not mount a small disk")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_full_disk_while_checkpointing(
    small_disk: Path, launch: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    folder = small_disk / "run"
    ballast = small_disk / "ballast"

    def fill(*_: object) -> None:
        if RunDirectory(folder).checkpoint.exists() and not ballast.exists():
            free = shutil.disk_usage(small_disk).free
            ballast.write_bytes(bytes(max(0, free - 40_000)))  # less than a checkpoint

    config = (*TINY, "strategy.state=full")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedmed.console.Console.round", fill)
        with pytest.raises(FedmedError, match=r"cannot write .*checkpoint.*No space left"):
            launch(*config, folder=folder)
    kept = Checkpoint.load(RunDirectory(folder).checkpoint)
    assert kept is not None
    assert kept.round == 1
    ballast.unlink()
    resumed = launch(*config, folder=folder)
    assert resumed["model_sha256"] == launch(*config, folder=tmp_path / "w")["model_sha256"]


def test_other_data_under_an_old_checkpoint_is_refused(
    launch: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    launch(*TINY, "rounds=1")
    (tmp_path / "run" / "summary.json").unlink()
    with pytest.raises(FedmedError, match="checkpoint was made with another data_sha256"):
        launch(*TINY, "dataset.seed=7", "rounds=1")


def test_two_processes_do_not_share_a_run(
    command: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    config = (*TINY, "rounds=300", f"hydra.run.dir={tmp_path / 'run'}")
    first = command(*config)
    assert first.stdout is not None
    for line in first.stdout:
        if "round 1/" in line:
            break
    output, _ = command(*config).communicate(timeout=120)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert "another process is running this run" in output
    assert "Traceback" not in output


def test_spent_epsilon_stays_spent(launch: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """A release whose round was cut off before its checkpoint counts, and counts once."""
    config = (*TINY, "strategy=dp_fedavg", "rounds=2")
    whole = launch(*config, folder=tmp_path / "whole")
    launch(*config)
    run = RunDirectory(tmp_path / "run")
    (run.path / "summary.json").unlink()
    run.checkpoint.unlink()  # as if cut off after the ledger was written
    resumed = launch(*config)
    assert resumed["privacy"] == whole["privacy"]
    assert resumed["privacy"]["releases"] == 2
    assert resumed["model_sha256"] == whole["model_sha256"]
