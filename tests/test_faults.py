"""What goes wrong ends in a clear line, and nothing already won is lost."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, metrics, summary
from flwr.app import RecordDict
from torch import nn

from fedmed.client.fault_injection import injected
from fedmed.config import compose
from fedmed.core.errors import FedmedError
from fedmed.experiment.run import run
from fedmed.federation.checkpoint import Checkpoint
from fedmed.runs.console import Console
from fedmed.runs.directory import RunDirectory
from fedmed.training.hooks import LocalHooks

EXCLUDE = ("faults.on_failure=exclude", "rounds=1")
#: What is injected, what it is recorded as, and what is told where it ends the run.
KINDS = {
    "raise": ("raised", "failed: .*Injected"),
    "dropout": ("dropped_out", "dropped out"),
    "kill": ("died", "did not answer: a worker process died"),
    "slow": ("late", "did not answer: no answer in time"),
    "nans": ("not_finite", "returned NaN or infinity in"),
    "infinities": ("not_finite", "returned NaN or infinity in"),
    "huge": ("too_far", r"returned an update of norm .* over faults\.max_norm"),
    "shape": ("wrong_shape", "returned .* where it is"),
}
HOW = {"kill": ("runner.workers=1",), "slow": ("runner.workers=2", "faults.deadline=12")}


def _inject(kind: str) -> str:
    return f"faults.inject=[{{kind:{kind},clients:[3]}}]"


class Raises(LocalHooks):
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


@pytest.fixture(scope="module")
def without_client_3(store: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The weights of a round whose client 3 has no say."""
    overrides = (*TINY, *EXCLUDE, _inject("dropout"), f"store={store}")
    with Console() as console:
        folder = tmp_path_factory.mktemp("without")
        return str(run(overrides, folder, console)["model_sha256"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_is_excluded_from_the_average_and_recorded(
    kind: str, without_client_3: str, launch: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    done = launch(*TINY, *EXCLUDE, *HOW.get(kind, ()), _inject(kind))
    recorded, _ = KINDS[kind]
    assert done["faults"] == {
        "excluded": 1,
        "by_kind": {recorded: 1},
        "by_client": {"3": 1},
    }
    rows = metrics(tmp_path / "run").query("scope == 'faults'")
    assert rows[["round", "metric", "value"]].to_numpy().tolist() == [[1, recorded, 1.0]] * 2
    assert rows["client"].iloc[0] == 3
    assert done["model_sha256"] == without_client_3


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_ends_the_run_in_a_line(
    kind: str, launch: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    _, told = KINDS[kind]
    with pytest.raises(FedmedError, match=f"round 1: client 3 {told}.* checkpoint holds is safe"):
        launch(*TINY, "rounds=1", *HOW.get(kind, ()), _inject(kind))
    assert not RunDirectory(tmp_path / "run").checkpoint.exists()


def test_drop_out_and_a_client_of_nans(
    launch: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """A run with 20 % drop-out and one client that always returns NaN."""
    inject = "faults.inject=[{kind:dropout,rate:0.2},{kind:nans,clients:[4]}]"
    config = (*TINY, "partition.clients=8", "partition.alpha=100", inject)
    done = launch(*config, "faults.on_failure=exclude", "runner.workers=2")
    rows = metrics(tmp_path / "run").query("scope == 'faults' and client >= 0")
    at = zip(rows["round"].astype(int), rows["client"].astype(int), strict=True)
    found = dict(zip(at, rows["metric"], strict=True))
    struck = {(r, k): injected(compose(config), r, k) for r in (1, 2, 3) for k in range(8)}
    kinds = {"dropout": "dropped_out", "nans": "not_finite"}
    assert found == {at: kinds[fault.kind] for at, fault in struck.items() if fault}
    assert {k for (_, k), kind in found.items() if kind == "not_finite"} == {4}
    assert 2 <= sum(kind == "dropped_out" for kind in found.values()) <= 9
    cohorts = metrics(tmp_path / "run").query("metric == 'cohort'")["value"].tolist()
    assert cohorts == [8 - sum(r == at for at, _ in found) for r in (1, 2, 3)]
    assert done["faults"]["excluded"] == len(found)


def test_too_few_answers_end_the_run(launch: Callable[..., dict[str, Any]]) -> None:
    told = (
        r"round 1: 3 of 4 clients gave a usable answer, faults.min_clients is 4; client 3 dropped"
    )
    with pytest.raises(FedmedError, match=told):
        launch(*TINY, *EXCLUDE, _inject("dropout"), "faults.min_clients=4")


def test_a_run_does_not_kill_itself() -> None:
    with pytest.raises(
        FedmedError, match=r"faults\.inject: to kill a client takes runner\.workers"
    ):
        compose([*TINY, _inject("kill")])


def test_who_was_charged_and_failed_stays_charged(
    launch: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    private = ("privacy=dpsgd", "privacy.noise_multiplier=1", "client.steps=1")
    launch(*TINY, *EXCLUDE, *private, _inject("dropout"))
    spent = metrics(tmp_path / "run").query("scope == 'privacy' and client == 3")
    assert (spent["value"] > 0).all()
    assert len(spent)


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
        patch.setattr("fedmed.runs.console.Console.round", fill)
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
    config = (*TINY, f"hydra.run.dir={tmp_path / 'run'}")
    first = command(*config)
    assert first.stdout is not None
    for line in first.stdout:
        if "round 1/" in line:
            break
    os.killpg(first.pid, signal.SIGSTOP)  # so that it is not done before the other begins
    output, _ = command(*config).communicate(timeout=120)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert "another process is running this run" in output
    assert "Traceback" not in output


def test_ctrl_c_ends_in_one_line(
    command: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    config = (*TINY, "rounds=300", "runner.workers=2", f"hydra.run.dir={tmp_path / 'run'}")
    process = command(*config)
    assert process.stdout is not None
    for line in process.stdout:
        if "round 1/" in line:
            break
    os.killpg(process.pid, signal.SIGINT)
    rest, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "fedmed: interrupted; the same command goes on" in rest
    assert "Traceback" not in rest
    assert summary(tmp_path / "run")["status"] == "interrupted"


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
