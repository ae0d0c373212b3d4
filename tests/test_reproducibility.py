"""Same config, same bits: over worker counts, repeats and crashes."""

import importlib
import json
import math
import os
import pkgutil
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import ROOT, TINY, metrics, summary
from flwr.serverapp.strategy import Strategy
from torch import nn

import fedmed
from fedmed.config import CONF, Component, Config, compose, identity
from fedmed.core.errors import FedmedError
from fedmed.data.table import Dataset
from fedmed.federation.checkpoint import Checkpoint
from fedmed.partition.rule import Partition
from fedmed.runs.directory import RunDirectory
from fedmed.training.hooks import LocalRule

STRATEGIES = sorted(path.stem for path in (CONF / "strategy").glob("*.yaml"))
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
    runs = [
        launch(*config, f"runner.workers={n}", folder=tmp_path / str(n))["model_sha256"]
        for n in (0, 1, 2)
    ]
    again = launch(*config, folder=tmp_path / "again")["model_sha256"]
    assert {*runs, again} == {runs[0]}


def test_a_seed_is_another_run(launch: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    first = launch(*TINY, "rounds=1", folder=tmp_path / "0")
    second = launch(*TINY, "rounds=1", "seed=1", folder=tmp_path / "1")
    assert first["model_sha256"] != second["model_sha256"]
    assert first["run_id"] != second["run_id"]


def test_identity_is_what_decides_the_result() -> None:
    def run_id(*overrides: str) -> str:
        return compose([*TINY, *overrides]).sha256

    same = ["runner.workers=3", "tracking.mode=online", "store=elsewhere", "force=true", "name=x"]
    assert run_id(*same) == run_id()
    assert run_id("client.lr=0.1") != run_id()


def test_identity_knows_no_import_path_of_fedmeds() -> None:
    """So that a module that moves renames no run, and one of another's is where it lies."""
    config = compose([*TINY, "strategy=fedprox"])
    assert config.strategy.local is not None
    values = identity.decisive(config)
    assert values["strategy"]["local"]["_target_"] == "ProximalTerm"
    assert values["strategy"]["server"]["_target_"] == "flwr.serverapp.strategy.FedAvg"
    assert "fedmed." not in json.dumps(values)
    moved = config.strategy.local.model_copy(update={"target": "fedmed.elsewhere.ProximalTerm"})
    elsewhere = config.strategy.model_copy(update={"local": moved})
    assert config.model_copy(update={"strategy": elsewhere}).sha256 == config.sha256


def test_an_infinity_is_another_value_than_none() -> None:
    """JSON has no number for it; one word for both would be one run for two configurations."""
    config = compose(TINY)

    def with_(value: Any) -> Config:
        arguments = {"_target_": config.partition.target, "clients": 4, "alpha": value}
        other = Component.model_validate(arguments)
        return config.model_copy(update={"partition": other})

    found = [with_(value) for value in (None, math.inf, -math.inf, 1e308, {1: 0}, {"1": 0})]
    assert len({json.dumps(identity.decisive(each)) for each in found}) == len(found)
    assert len({each.sha256 for each in found}) == len(found)


def test_the_code_of_every_room_is_recorded(tmp_path: Path) -> None:
    """Of each file that is edited or added, ``versions`` in the summary has another hash."""
    for name in ("conf", "datasets", "strategies", "fedmed"):
        shutil.copytree(ROOT / name, tmp_path / name, symlinks=True)
    edited = (
        "run",
        "training/sgd",
        "privacy/ledger",
        "engines/pool",
        "flower/arrays",
        "engines/new",
    )
    edited = (*edited, "flower/arrays", "strategies/fedprox", "datasets/phantom", "config/schema")
    look = (
        "import pathlib, sys\n"
        "from fedmed.config import compose, identity\n"
        "config, found = compose([]), []\n"
        "for name in [None, *sys.argv[1:]]:\n"
        "    if name: pathlib.Path('fedmed', name + '.py').open('a').write('# changed')\n"
        "    identity._package.cache_clear()\n"
        "    found.append(identity.surroundings(config)['code'])\n"
        "print(*found)"
    )
    command = [sys.executable, "-c", look, *edited]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    assert len(set(done.stdout.split())) == len(edited) + 1


def test_no_two_components_of_fedmeds_share_a_name() -> None:
    """Else two configurations would be one run."""
    kinds = (Dataset, Partition, LocalRule, Strategy, nn.Module)
    places: dict[str, set[type]] = {}
    modules = [found.name for found in pkgutil.walk_packages(fedmed.__path__, "fedmed.")]
    for folder in ("datasets", "strategies"):  # no packages: see CONTRIBUTING.md
        modules += [f"fedmed.{folder}.{path.stem}" for path in (ROOT / folder).glob("*.py")]
    for module in modules:
        for name, value in vars(importlib.import_module(module)).items():
            own = getattr(value, "__module__", "").startswith("fedmed.")
            if own and isinstance(value, type) and issubclass(value, kinds):
                places.setdefault(name, set()).add(value)
    assert {"Phantom", "ProximalTerm", "Dirichlet", "WithCanaries"} <= places.keys()
    assert [name for name, classes in places.items() if len(classes) > 1] == []


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
    _first, _ = command(*config).communicate(timeout=300)
    (folder,) = (tmp_path / "runs").iterdir()
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


SMALL = (*TINY, "dataset.patients=60", "client.steps=1", "rounds=1")


def snapshot(folder: Path) -> dict[str, bytes]:
    """Return all that a run directory holds but its log."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != "run.log"]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("force", [False, True])
def test_a_directory_answers_for_its_own_configuration_only(
    finished: bool, force: bool, launch: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """Another seed, rate or noise in the same directory is refused, and leaves it as it was."""
    here = tmp_path / "run"
    first = launch(*SMALL)
    if not finished:  # cut off after its checkpoint
        unfinished = {k: first[k] for k in ("run_id", "name", "config_sha256", "device")}
        RunDirectory(here).write_summary(unfinished | {"status": "interrupted"})
    before = snapshot(here)
    other = (*SMALL, "seed=1", "client.lr=0.02")
    if force:
        assert launch(*other, "force=true")["model_sha256"] != first["model_sha256"]
        assert summary(here)["seed"] == 1
        assert compose([*other]).sha256 == summary(here)["config_sha256"]
        assert "lr: 0.02" in (here / ".hydra" / "config.yaml").read_text()
        return
    with pytest.raises(FedmedError, match=r"another configuration \(other: client.lr, seed\)"):
        launch(*other)
    assert snapshot(here) == before
    same = ("name=other", "runner.workers=1", "tracking.project=other")
    assert launch(*SMALL, *same)["model_sha256"] == first["model_sha256"]


def test_another_configuration_leaves_what_hydra_would_have_overwritten(
    command: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """On the command line, where Hydra writes its files before anyone can look."""
    here = tmp_path / "run"
    command(*SMALL, f"hydra.run.dir={here}").communicate(timeout=300)
    before = snapshot(here)
    process = command(*SMALL, "client.lr=0.02", f"hydra.run.dir={here}")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "(other: client.lr)" in output
    assert snapshot(here) == before
    assert "lr: 0.002" in (here / ".hydra" / "config.yaml").read_text()


def test_what_failed_before_its_first_round_gives_way(
    launch: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    with pytest.raises(FedmedError, match=r"over faults\.max_norm"):
        launch(*SMALL, "client=sgd", "client.lr=1e30")
    assert launch(*SMALL)["status"] == "finished"
    assert metrics(tmp_path / "run")["round"].max() == 1


def test_the_device_is_part_of_what_a_run_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is found: ``auto`` is what there is, on any engine; determinism counts on a GPU."""

    def ids(*overrides: str) -> str:
        return compose([*TINY, *overrides], build=False).sha256

    deployed = ("runner=deployment", "runner.data=x", "runner.clients=4")
    engines = [[], ["runner=ray"], [*deployed]]
    no_workers = [o for o in TINY if not o.startswith("runner.")]
    for there, kind in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        for engine in engines:
            mine = [*no_workers, *engine]
            auto, said = (
                compose(mine, build=False),
                compose([*mine, f"runner.device={kind}"], False),
            )
            assert auto.device == kind
            assert auto.sha256 == said.sha256
    fast = "runner.deterministic=false"
    cpu, cuda = "runner.device=cpu", "runner.device=cuda"
    assert ids(cpu) == ids(cpu, fast)
    assert len({ids(cpu), ids(cuda), ids(cuda, fast)}) == 3
    on_cpu = {compose([*no_workers, *engine, cpu], build=False).sha256 for engine in engines}
    assert len(on_cpu) == 1


def test_files_that_decide_count_by_their_content(tmp_path: Path) -> None:
    def run_id(file: Path) -> str:
        return compose([*TINY, f"model.weights={file}"], build=False).sha256

    one, copy = tmp_path / "one.safetensors", tmp_path / "elsewhere" / "copy.safetensors"
    copy.parent.mkdir()
    one.write_bytes(b"weights")
    copy.write_bytes(b"weights")
    before = run_id(one)
    assert run_id(copy) == before
    one.write_bytes(b"Weights")
    assert run_id(one) != before
    saved = tmp_path / "partition.csv"
    saved.write_text("patient,client,role\na,0,train\n")
    by = ("partition=saved", f"partition.file={saved}")
    kept = [o for o in TINY if not o.startswith("partition")]
    before = compose([*kept, *by], build=False).sha256
    saved.write_text("patient,client,role\na,1,train\n")
    assert compose([*kept, *by], build=False).sha256 != before


def test_another_processor_is_told_of(
    command: Callable[..., subprocess.Popen[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Limited to AVX2, the same machine gives other bits: a resume says so, and the summary too."""
    here = tmp_path / "run"
    process = command(*SMALL, "rounds=200", f"hydra.run.dir={here}")
    assert process.stdout is not None
    for line in process.stdout:
        if "round 2/" in line:
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    state = Checkpoint.load(RunDirectory(here).checkpoint)
    assert state is not None
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    resumed = command(*SMALL, "rounds=200", f"hydra.run.dir={here}")
    assert resumed.stdout is not None
    told = ""
    for line in resumed.stdout:
        told += line
        if f"round {state.round + 1}/" in line:
            break
    os.killpg(resumed.pid, signal.SIGKILL)
    resumed.communicate()
    assert "may differ in their last bits: cpu_capability" in told
    after = Checkpoint.load(RunDirectory(here).checkpoint)
    assert after is not None
    assert [s["cpu_capability"] for s in after.surroundings][1] == "DEFAULT"
