"""A client that does not answer is told of: who, since when, and whether its process is stopped."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, summary

from fedmed.engines import pool, waiting
from fedmed.engines.pool import WorkerDied, Workers
from fedmed.engines.waiting import Waiting


def nothing(index: int) -> None:
    """Begin a worker."""


def nap(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def imported(name: str) -> bool:
    return name in sys.modules


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is said, sooner than to a person."""
    monkeypatch.setattr(pool, "LOOK", 0.05)
    monkeypatch.setattr(pool, "SAID", 2)
    return []


@pytest.fixture
def workers(said: list[str]) -> Iterator[Workers]:
    team = Workers(1, nothing, said.append)
    yield team
    team.close()


def test_the_longer_the_wait_the_more_rarely_it_is_told_of(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    wait = Waiting("client 3", said.append)
    for _ in range(4000):
        now[0] += 1
        wait.go_on()
    told = r"waiting for client 3 since \d\d:\d\d:\d\d \((\d+) s\)"
    found = [re.fullmatch(told, line) for line in said]
    assert [int(match[1]) for match in found if match] == [60, 120, 240, 480, 960, 1920, 3840]


def test_a_slow_client_is_waited_for_whatever_it_takes(
    workers: Workers, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "FIRST", 0.1)
    assert workers.wait(workers.submit(nap, 1.0), None, Waiting("client 3", said.append)) > 0
    assert said
    assert all(line.startswith("waiting for client 3 since") for line in said)


def test_a_worker_begins_with_what_is_slow_to_import(workers: Workers, said: list[str]) -> None:
    for name in ("fedmed.client.app", "monai.networks.nets", "sklearn.metrics"):
        result = workers.submit(imported, name)
        assert workers.wait(result, None, Waiting("client 3", said.append))


def test_a_deadline_ends_the_wait(workers: Workers, said: list[str]) -> None:
    with pytest.raises(TimeoutError):
        workers.wait(workers.submit(nap, 60.0), 0.3, Waiting("client 3", said.append))


def test_a_stopped_worker_is_told_of_and_goes_on(workers: Workers, said: list[str]) -> None:
    process = workers.submit(nap, 0.0).result()
    os.kill(process, signal.SIGSTOP)
    result = workers.submit(nap, 0.0)
    again = threading.Thread(target=_wake, args=(process, said))
    again.start()
    assert workers.wait(result, None, Waiting("client 3", said.append)) == process
    again.join()
    (line,) = said
    assert f"worker process {process} is stopped" in line
    assert f"kill -CONT {process}" in line


def _wake(process: int, said: list[str]) -> None:
    while not said:
        time.sleep(0.05)
    os.kill(process, signal.SIGCONT)


def test_a_worker_that_stays_stopped_counts_as_dead(
    workers: Workers, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "GONE", 6)
    process = workers.submit(nap, 0.0).result()
    os.kill(process, signal.SIGSTOP)
    with pytest.raises(WorkerDied):
        workers.wait(workers.submit(nap, 0.0), None, Waiting("client 3", said.append))
    assert len(said) == 1
    other = workers.wait(workers.submit(nap, 0.0), None, Waiting("client 4", said.append))
    assert other != process


def test_a_run_whose_worker_is_stopped_says_so_and_ends_the_same(
    command: Callable[..., subprocess.Popen[str]],
    launch: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    config = (*TINY, "rounds=4", "runner.workers=1")
    process = command(*config, f"hydra.run.dir={tmp_path / 'run'}")
    assert process.stdout is not None
    stopped: list[int] = []
    for line in process.stdout:
        if "round 0/" in line:  # the first is trained now
            process.send_signal(signal.SIGSTOP)  # so that it is not done before they are stopped
            stopped = _workers(process.pid)
            for worker in stopped:
                os.kill(worker, signal.SIGSTOP)
            process.send_signal(signal.SIGCONT)
        if match := re.search(r"worker process (\d+) is stopped", line):
            assert int(match[1]) in stopped
            for worker in stopped:
                os.kill(worker, signal.SIGCONT)
            break
    rest, _ = process.communicate(timeout=300)
    assert process.returncode == 0, rest
    assert stopped, "the run had ended before its worker could be stopped"
    whole = launch(*config, "runner.workers=0", folder=tmp_path / "whole")
    assert summary(tmp_path / "run")["model_sha256"] == whole["model_sha256"]


def _workers(server: int) -> list[int]:
    """Return the workers of a run: the children of its fork server."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True).stdout
    parent = {int(pid): int(of) for pid, of in map(str.split, listed.splitlines()[1:])}
    return [p for p in parent if parent.get(parent.get(p, 0)) == server]
