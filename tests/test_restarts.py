"""What a federation of real nodes survives: a killed server, a killed hospital, and silence."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import metrics, summary
from test_closed import needs_nginx

from fedmed.cli.deploy import agree, divide
from fedmed.config import compose
from fedmed.deployment.flower_app import write_app
from fedmed.deployment.local_federation import OVER, Loopback
from fedmed.deployment.server import NAME

pytestmark = needs_nginx

CONFIG = (
    "dataset.patients=90",
    "dataset.sites=3",
    "dataset.size=32",
    "dataset.targets=[Effusion,view]",
    "partition=iid",
    "partition.clients=2",
    "partition.val_fraction=0",
    "client.batch_size=16",
    "client.steps=2",
    "rounds=2",
    "tracking.mode=disabled",
)
LIMIT = 240  # seconds that anything may take
ASKED = 4.0  # seconds between two calls of Flower's command line, each of a core's second


class Rehearsal:
    """Two hospitals behind a server, and a run that can be started again."""

    def __init__(self, federation: Loopback, overrides: Sequence[str]) -> None:
        self.federation = federation
        self.folder = federation.folder / "run"
        self._overrides = overrides
        for client in (0, 1):
            agree(federation, client, compose(overrides), overrides)
            federation.register(client)
        self.nodes = [federation.start_node(client) for client in (0, 1)]

    def run(self, *runner: str) -> str:
        """Start the run, or have it go on."""
        data = self.federation.folder / "server"
        own = ("runner=deployment", f"runner.data={data}", "runner.clients=2", *runner)
        return self.federation.run([*self._overrides, *own, f"hydra.run.dir={self.folder}"])

    def log(self) -> str:
        """What the run has written of itself."""
        log = self.folder / "run.log"
        return log.read_text() if log.exists() else ""

    def end(self, run: str) -> str:
        """Wait for a run's end, and return how Flower calls it."""
        _wait_for(lambda: self.federation.status(run).startswith(OVER), ASKED)
        return self.federation.status(run)


@pytest.fixture
def rehearse(store: Path, tmp_path: Path) -> Iterator[Callable[..., Rehearsal]]:
    """Start a rehearsal of CONFIG and other overrides."""
    folder = tmp_path / "deployment"
    folder.mkdir(mode=0o700)
    asked = [*CONFIG, f"store={store}"]
    divide(compose(asked), folder)
    with Loopback(folder, write_app(folder / "app")) as federation:
        yield lambda *overrides: Rehearsal(federation, [*asked, *overrides])


def test_a_server_and_a_hospital_that_were_killed_come_back_as_who_they_were(
    rehearse: Callable[..., Rehearsal], launch: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """Nobody registers anew, nobody restarts the other hospital; the same weights in the end."""
    rehearsal = rehearse()
    federation = rehearsal.federation
    known = _known(federation)
    first = rehearsal.run()
    _wait_for(lambda: "round 1:" in rehearsal.log())
    _end("flower-superlink", signal.SIGKILL)
    _end("nginx", signal.SIGTERM)
    rehearsal.nodes[1].kill()
    federation.server.start()
    assert rehearsal.end(first) == "finished:failed"
    assert rehearsal.nodes[0].poll() is None
    # its last sign of life has to run out
    _wait_for(lambda: _known(federation)[1][1] == "offline", ASKED)
    rehearsal.nodes[1] = federation.start_node(1)
    _wait_for(lambda: [status for _, status in _known(federation)] == ["online", "online"], ASKED)
    assert [node for node, _ in _known(federation)] == [node for node, _ in known]
    assert rehearsal.end(rehearsal.run()) == "finished:completed"
    assert rehearsal.nodes[0].poll() is None
    whole = launch(*CONFIG, "runner.workers=0", folder=tmp_path / "whole")
    assert summary(rehearsal.folder)["model_sha256"] == whole["model_sha256"]


def test_a_hospital_that_never_answers_is_named_and_then_left_out(
    rehearse: Callable[..., Rehearsal],
) -> None:
    """Its node is alive and says so every half minute; what it was to start never begins."""
    rehearsal = rehearse("faults.on_failure=exclude", "rounds=1")
    run = rehearsal.run("runner.deadline=65")
    _wait_for(lambda: "round 0:" in rehearsal.log())
    (starter,) = _children(rehearsal.nodes[1].pid, "flower-superexec")
    os.kill(starter, signal.SIGSTOP)
    shown = subprocess.run(
        ["flwr", "log", run, NAME, "--stream"],
        env=rehearsal.federation.server.environment,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    os.kill(starter, signal.SIGCONT)
    assert rehearsal.end(run) == "finished:completed"
    assert "waiting for client 1 since" in shown.stdout
    rows = metrics(rehearsal.folder)
    late = rows[(rows["scope"] == "faults") & (rows["metric"] == "late")].dropna()
    assert late[["round", "client"]].to_numpy().tolist() == [[1, 1]]


def _known(federation: Loopback) -> list[tuple[str, str]]:
    """Return the id and status of each node, in the order of their registration."""
    nodes = federation.server.flwr("supernode", "list", NAME)["nodes"]
    nodes.sort(key=lambda node: node["created-at"])
    return [(node["node-id"], node["status"]) for node in nodes]


def _end(name: str, how: signal.Signals) -> None:
    """Send this process's children of a name a signal, and wait until they are gone."""
    for pid in _children(os.getpid(), name):
        os.kill(pid, how)
    _wait_for(lambda: not _children(os.getpid(), name))


def _children(parent: int, name: str) -> list[int]:
    """Return a process's children of a name."""
    table = subprocess.run(["ps", "-ewwo", "pid,ppid,stat,args"], capture_output=True, text=True)
    rows = [line.split(None, 3) for line in table.stdout.splitlines()[1:]]
    return [int(p) for p, of, s, args in rows if int(of) == parent and name in args and s[0] != "Z"]


def _wait_for(happens: Callable[[], bool], pause: float = 0.5) -> None:
    until = time.monotonic() + LIMIT
    while not happens():
        assert time.monotonic() < until, f"did not happen within {LIMIT} s"
        time.sleep(pause)
