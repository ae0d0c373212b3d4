"""Same config, same bits: over worker counts, repeats and crashes."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import TINY, metrics, summary, swept

from fedmed.federation.checkpoint import Checkpoint
from fedmed.runs.directory import RunDirectory

#: Those of a code path of their own: what clients do, and how replies are taken and remembered.
STRATEGIES = ("fedavg", "fedprox", "fedadam", "fedmedian", "dp_fedavg_adaptive", "dp_fedavg_local")
PARTIAL = ("partition.clients=8", "strategy.fraction=0.7", "rounds=2")
STATEFUL = (
    *TINY,
    "strategy=fedadam",
    "strategy.fraction=0.7",
    "strategy.state=parameters",
    "model=resnet18",
    "rounds=5",
    "runner.workers=2",
)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_bits_do_not_depend_on_workers(
    strategy: str, launch: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    config = (*TINY, *PARTIAL, f"strategy={strategy}")
    numbers = (0, 0, 1, 2) if strategy == "fedavg" else (0, 2)
    hashes = {
        launch(*config, f"runner.workers={n}", folder=tmp_path / str(i))["model_sha256"]
        for i, n in enumerate(numbers)
    }
    assert len(hashes) == 1


def test_a_seed_is_another_run(launch: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    first = launch(*TINY, "rounds=1", folder=tmp_path / "0")
    second = launch(*TINY, "rounds=1", "seed=1", folder=tmp_path / "1")
    assert first["model_sha256"] != second["model_sha256"]
    assert first["run_id"] != second["run_id"]


def test_killed_at_any_moment_the_run_ends_the_same(
    command: Callable[..., subprocess.Popen[str]],
    launch: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    whole = tmp_path / "whole"
    launch(*STATEFUL, folder=whole)
    cut = tmp_path / "cut"
    moments = {
        "store": "all",
        "round 0/5": "worker",
        "round 1/5": "server",
        "resuming": "all",
        "round 3/5": "worker",
        "round 4/5": "all",
    }
    for moment, victim in moments.items():
        process = command(*STATEFUL, f"hydra.run.dir={cut}")
        _wait_for(process, moment)
        _kill(process, victim)
        process.communicate(timeout=300)
    process = command(*STATEFUL, f"hydra.run.dir={cut}")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "resuming after round" in output
    assert summary(cut)["model_sha256"] == summary(whole)["model_sha256"]
    pd.testing.assert_frame_equal(metrics(cut), metrics(whole))
    for name in ("predictions.parquet", "partition.csv", "clients.csv"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.optional
@pytest.mark.skipif("FEDMED_KILLS" not in os.environ, reason="slow: FEDMED_KILLS=20 runs it")
def test_killed_at_random_moments_the_run_ends_the_same(
    command: Callable[..., subprocess.Popen[str]],
    launch: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    config = (*(o for o in STATEFUL if o != "model=resnet18"), "rounds=40")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    launch(*config, folder=whole)
    moments = random.Random()
    process = command(*config, f"hydra.run.dir={cut}")
    for _ in range(int(os.environ["FEDMED_KILLS"])):
        _wait_for(process, moments.choice(["", "round "]))
        time.sleep(moments.uniform(0, 3))
        _kill(process, victim := moments.choice(["server", "worker", "all"]))
        progress = Checkpoint.load(RunDirectory(cut).checkpoint)
        print("killed", victim, "after round", progress.round if progress else None)
        if process.poll() is not None:  # a worker that had no work yet is replaced
            process = command(*config, f"hydra.run.dir={cut}")
    process.communicate(timeout=600)
    output, _ = command(*config, f"hydra.run.dir={cut}").communicate(timeout=600)
    assert "finished" in output, output
    assert summary(cut)["model_sha256"] == summary(whole)["model_sha256"]
    pd.testing.assert_frame_equal(metrics(cut), metrics(whole))


def test_finished_run_is_recognised_and_forced(
    command: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    config = (*TINY, "rounds=1")
    folder = swept(tmp_path, *config)
    assert folder.name == summary(folder)["config_sha256"][:16]
    written = (folder / "summary.json").stat().st_mtime_ns
    second, _ = command(*config).communicate(timeout=300)
    assert "is finished" in second
    assert (folder / "summary.json").stat().st_mtime_ns == written
    third, _ = command(*config, "force=true").communicate(timeout=300)
    assert "round 1/1" in third
    assert (folder / "summary.json").stat().st_mtime_ns > written


def test_workers_go_with_their_parent(command: Callable[..., subprocess.Popen[str]]) -> None:
    process = command(*TINY, "rounds=500", "runner.workers=2")
    assert process.stdout is not None
    for line in process.stdout:
        if "round 1/" in line:
            break
    children = _group(process.pid) - {process.pid}
    assert len(children) >= 2
    os.kill(process.pid, signal.SIGKILL)  # only the parent: nobody tells the workers
    process.wait()
    deadline = time.monotonic() + 30
    while _group(process.pid) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not _group(process.pid)


def _wait_for(process: subprocess.Popen[str], moment: str) -> None:
    """Wait until the output tells of ``moment``, or soon after the start."""
    assert process.stdout is not None
    if moment == "store":
        time.sleep(4)
        return
    for line in process.stdout:
        if moment in line:
            break
    time.sleep(0.15)  # into the round that follows


def _kill(process: subprocess.Popen[str], victim: str) -> None:
    """Kill the server alone, one of its workers, or all; wait for the end of the run."""
    if victim == "worker":
        listed = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True).stdout
        parent = {int(pid): int(of) for pid, of in map(str.split, listed.splitlines()[1:])}
        workers = [p for p in _group(process.pid) if parent.get(parent.get(p, 0)) == process.pid]
        for worker in workers[:1]:
            os.kill(worker, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):  # a worker without work is replaced
            process.wait(timeout=5)
        return
    with suppress(ProcessLookupError):  # it may have come to its end
        (os.kill if victim == "server" else os.killpg)(process.pid, signal.SIGKILL)
    process.wait()


def _group(group: int) -> set[int]:
    """Return the live processes of a process group."""
    listed = subprocess.run(["ps", "-eo", "pid,pgid,stat"], capture_output=True, text=True)
    rows = [line.split() for line in listed.stdout.splitlines()[1:]]
    return {int(pid) for pid, pgid, stat in rows if int(pgid) == group and stat[0] != "Z"}


def test_bfloat16_is_a_run_of_its_own_and_repeats(
    launch: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    config = (*TINY, "rounds=1", "client.precision=bfloat16")
    half = [launch(*config, folder=tmp_path / name)["model_sha256"] for name in ("a", "b")]
    assert half[0] == half[1]
    assert half[0] != launch(*TINY, "rounds=1", folder=tmp_path / "c")["model_sha256"]
