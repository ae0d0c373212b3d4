"""What a run is: which values, files, devices and directories, and what is recorded beside."""

import importlib
import json
import math
import os
import pkgutil
import shutil
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, TINY, metrics, summary
from flwr.serverapp.strategy import Strategy
from torch import nn

import fedmed
import fedmed.datasets.phantom
from fedmed.config import Component, Config, compose, identity
from fedmed.core.errors import ConfigError, FedmedError
from fedmed.data.table import Dataset
from fedmed.federation.checkpoint import Checkpoint
from fedmed.partition.rule import Partition
from fedmed.runs.directory import RunDirectory
from fedmed.training.hooks import LocalHooks


def test_identity_is_what_decides_the_result() -> None:
    def run_id(*overrides: str) -> str:
        return compose([*TINY, *overrides]).sha256

    same = ["runner.workers=3", "tracking.mode=online", "store=elsewhere", "force=true", "name=x"]
    assert run_id(*same) == run_id()
    assert run_id("client.lr=0.1") != run_id()


def test_identity_knows_no_import_path_of_fedmeds() -> None:
    """So that a module that moves renames no run, and one of another's is where it lies."""
    config = compose([*TINY, "strategy=fedprox"])
    local = config.strategy.local
    assert isinstance(local, Component)
    values = identity.decisive(config)
    assert values["strategy"]["local"]["_target_"] == "ProximalTerm"
    assert values["strategy"]["server"]["_target_"] == "flwr.serverapp.strategy.FedAvg"
    assert "fedmed." not in json.dumps(values)
    moved = local.model_copy(update={"target": "fedmed.elsewhere.ProximalTerm"})
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
    edited: tuple[str, ...] = (
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
    kinds = (Dataset, Partition, LocalHooks, Strategy, nn.Module)
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


SMALL = (*TINY, "dataset.patients=60", "client.steps=1", "rounds=1")


def snapshot(folder: Path) -> dict[str, bytes]:
    """Return all that a run directory holds but its log."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != "run.log"]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def test_a_component_that_is_called_as_another_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of one's own datasets/mine.py: a finished run of the other would answer for it."""
    mine = types.ModuleType("fedmed.datasets.mine")
    mine.Phantom = type("Phantom", (fedmed.datasets.phantom.Phantom,), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, mine.__name__, mine)
    monkeypatch.setattr(fedmed.datasets, "mine", mine, raising=False)
    with pytest.raises(ConfigError, match=r"fedmed\.datasets\.mine\.Phantom has the name of"):
        compose([*TINY, f"dataset._target_={mine.__name__}.Phantom"])
    same = compose([*TINY, "partition._target_=fedmed.partition.skews.Dirichlet"])
    assert same.sha256 == compose(TINY).sha256


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
