"""Every committed experiment and every choice of every group composes and runs."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import TINY, metrics
from safetensors.numpy import load_file
from standins_hospital import STANDINS as HOSPITAL
from standins_small import STANDINS as SMALL

from fedmed import models
from fedmed.config import CONF, compose

STANDINS = {**HOSPITAL, **SMALL}
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
TABULAR = "logistic_regression"  # is no network of images: tests/test_papers.py runs it
MODELS = sorted({path.stem for path in (CONF / "model").glob("*.yaml")} - {TABULAR})
PARTITIONS = sorted(path.stem for path in (CONF / "partition").glob("*.yaml"))
CLIENTS = sorted(path.stem for path in (CONF / "client").glob("*.yaml"))
DRY = ("dataset.size=32", "rounds=1", "runner.workers=0", "tracking.mode=disabled")


def standin(name: str, folder: Path) -> Path:
    """Make a small tree in the genuine layout of a dataset; return its root."""
    (folder / name).mkdir()
    return STANDINS[name](folder / name)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment_runs(
    name: str, nih_standin: Path, tmp_path: Path, launch: Callable[..., dict[str, Any]]
) -> None:
    opening = (CONF / "experiment" / f"{name}.yaml").read_text().splitlines()[1]
    assert opening.startswith(f"# python -m fedmed.run +experiment={name}")
    small = ["dataset.patients=60"]
    if "dataset.root" in opening:
        small = [f"dataset.root={nih_standin}", "partition.clients=3"]
    elif sets := re.findall(r"dataset\.sets\.(\w+)\.root", opening):
        roots = {s: nih_standin if s == "nih" else standin(s, tmp_path) for s in sets}
        small = [f"dataset.sets.{s}.root={root}" for s, root in roots.items()]
    summary = launch(f"+experiment={name}", *DRY, *small)
    assert summary["name"] == name
    assert summary["rounds_done"] == 1
    for file in ("partition.csv", "clients.csv", "partition.png", "metrics.csv", "summary.json"):
        assert (tmp_path / "run" / file).stat().st_size > 0


@pytest.mark.parametrize("name", STANDINS)
def test_dataset_is_learnt_from_as_downloaded(
    name: str, tmp_path: Path, launch: Callable[..., dict[str, Any]]
) -> None:
    root = standin(name, tmp_path)
    few = ("partition=iid", "partition.clients=2", "client.steps=2", "client.batch_size=4")
    summary = launch(f"dataset={name}", f"dataset.root={root}", *DRY, *few)
    assert summary["status"] == "finished"
    assert summary["images"]["train"] > 0
    assert summary["images"]["test"] > 0


def test_no_experiment_is_one_too(launch: Callable[..., dict[str, Any]]) -> None:
    assert launch("dataset.patients=60", *DRY)["status"] == "finished"


@pytest.mark.parametrize("name", PARTITIONS)
def test_partition_runs(name: str, launch: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    small = ["dataset.patients=120", *DRY]
    if name in ("niid_label_dirichlet", "niid_quantity"):  # which want ten patients a client
        small += ["partition.clients=4"]
    if name == "sized":
        small += ["partition.sizes={hospital-1: 2, hospital-2: [3, 4]}"]
    if name == "saved":
        launch(*small, folder=tmp_path / "first")
        small += [f"partition.file={tmp_path / 'first' / 'partition.csv'}"]
    assert launch(f"partition={name}", *small)["status"] == "finished"


@pytest.mark.parametrize("name", MODELS)
def test_model_gives_a_logit_a_target_and_trains(
    name: str, launch: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    config = compose([f"model={name}", "dataset.targets=[Mass,view,sex]", "dataset.size=64"])
    network = models.build(config.model, seed=0).eval()
    assert network(torch.zeros(2, 1, 64, 64)).shape == (2, 3)
    again = models.build(config.model, seed=0)
    assert models.arrays_sha256(models.arrays_of(again)) == models.arrays_sha256(
        models.arrays_of(network)
    )
    few = ("dataset.patients=40", "dataset.size=32", "partition.clients=2", "client.steps=1")
    launch(*TINY, *few, f"model={name}", "rounds=1")
    trained = tmp_path / "run" / "checkpoint" / "model.safetensors"
    warm = compose([*TINY, f"model={name}", "dataset.size=32", f"model.weights={trained}"])
    loaded = models.arrays_of(models.build(warm.model, seed=1))
    assert models.arrays_sha256(loaded) == models.arrays_sha256(load_file(trained))


@pytest.mark.parametrize("state", ["full", "parameters"])
@pytest.mark.parametrize("weighting", ["examples", "uniform"])
def test_aggregation_modes(
    state: str, weighting: str, launch: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """All four run; norm statistics travel, or stay with the clients, as asked."""
    modes = (f"strategy.state={state}", f"strategy.weighting={weighting}")
    launch(*TINY, *modes, "rounds=1")
    clients = pd.read_csv(tmp_path / "run" / "clients.csv")
    returned = metrics(tmp_path / "run").query("scope == 'train' and metric == 'num-examples'")
    assert returned["value"].astype(int).tolist() == clients["train_images"].tolist()
    kept = list((tmp_path / "run" / "checkpoint" / "clients").glob("*"))
    assert len(kept) == (4 if state == "parameters" else 0)
    names = load_file(tmp_path / "run" / "checkpoint" / "model.safetensors")
    assert any("running_var" in name for name in names) == (state == "full")


@pytest.mark.parametrize("name", CLIENTS)
def test_local_training_runs(name: str, launch: Callable[..., dict[str, Any]]) -> None:
    launch(*TINY, f"client={name}", "client.steps=3", "rounds=1")
