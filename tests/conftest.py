"""Shared by the tests: small configurations, real radiographs, and stand-ins in genuine layouts."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as fedmed's own processes have: two test processes
# whose kernels wait for each other on as many cores took a hundred times as long

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch import nn

import fedmed.config
from fedmed.experiment.run import run
from fedmed.record.signatures import make_key, read_public
from fedmed.runs.console import Console
from fedmed.runs.verify import Known

ROOT = Path(__file__).parent.parent
REAL = Path(os.environ.get("FEDMED_DATA", ROOT.parent / "shared" / "data"))

#: A federation of three tiny hospitals: a second or two for a round.
TINY = (
    "dataset.patients=120",
    "dataset.sites=3",
    "dataset.size=32",
    "dataset.targets=[Cardiomegaly,Effusion,view]",
    "partition=dirichlet",
    "partition.clients=4",
    "partition.alpha=1",
    "client.batch_size=16",
    "rounds=3",
    "tracking.mode=disabled",
    "runner.workers=0",
)

#: Modules whose tests start processes, servers or whole runs; ``make fast`` leaves them out.
SLOW = (
    *("aggregation", "aggregation_killed", "audit", "bad_input", "callbacks", "cells", "cli"),
    *("closed", "contents", "damage", "damaged_stores", "datasets_hospital", "datasets_small"),
    *("distributed", "effects", "engines", "experiments", "faults", "federation", "formats"),
    *("fuzz", "hidden_deployment", "hidden_updates", "homomorphic", "homomorphic_bytes"),
    *("hostile", "identity", "ids", "images", "labels", "layout", "library", "lifetime"),
    *("papers", "peers", "pixels_matrix", "policy", "privacy", "private_step", "protocols"),
    *("record", "release", "replies", "report", "reproducibility", "restarts", "robust"),
    *("run_contracts", "secagg_attacks", "secagg_fuzz", "server", "statistics", "sweep"),
    *("table", "together", "told", "tracking", "verify", "waiting"),
)


#: Those whose tests mostly wait, the longest first. Begun before all others, one process has them
#: while the others have the cores.
WAITING = (
    *("restarts", "engines", "hidden_deployment", "hostile", "sweep", "reproducibility"),
    *("faults", "closed"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of slow modules, and begin with those that wait."""
    for item in items:
        if _module(item) in SLOW:
            item.add_marker("slow")
    turn = {name: place for place, name in enumerate(WAITING)}
    items.sort(key=lambda item: turn.get(_module(item), len(WAITING)))


def _module(item: pytest.Item) -> str:
    return item.path.stem.removeprefix("test_")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a test that is skipped has failed: an oracle that is absent has compared nothing."""
    report = yield
    if report.skipped and os.environ.get("CI") and not item.get_closest_marker("optional"):
        assert isinstance(report.longrepr, tuple)
        report.outcome, report.longrepr = "failed", f"skipped in CI: {report.longrepr[2]}"
    return report


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that the tests of a process share."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def launch(store: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Run an experiment in this process; returns its summary."""

    def launch(*overrides: str, folder: Path | None = None) -> dict[str, Any]:
        overrides = (*overrides, f"store={store}")
        with Console() as console:
            return run(overrides, folder or tmp_path / "run", console)

    return launch


@pytest.fixture
def command(store: Path, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start ``python -m fedmed.run`` as a user would, in its own process group."""

    def command(*overrides: str, module: str = "fedmed.run") -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", module, *overrides],
            cwd=tmp_path,
            env=os.environ | {"FEDMED_STORE": str(store), "COLUMNS": "200"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # not so behind nohup
        )

    return command


@pytest.fixture(scope="session")
def nih_root() -> Path:
    """Real NIH radiographs, 64 px, in the layout of the download."""
    root = REAL / "nih-chestxray14"
    if not root.is_dir():
        pytest.skip(f"no real radiographs at {root}; set FEDMED_DATA")
    return root


@pytest.fixture
def nih_standin(tmp_path: Path) -> Path:
    """The layout of NIH's download around the first rows of its real label table.

    The images are noise: what is tried is everything but the learning.
    """
    import torchxrayvision as xrv

    root = tmp_path / "nih"
    (root / "images").mkdir(parents=True)
    source = Path(xrv.datasets.datapath) / "Data_Entry_2017_v2020.csv.gz"
    table = pd.read_csv(source, nrows=120)
    table.to_csv(root / "Data_Entry_2017_v2020.csv", index=False)
    patients = table["Patient ID"]
    test = patients.isin(patients.unique()[::4])
    (root / "test_list.txt").write_text("\n".join(table["Image Index"][test]))
    (root / "train_val_list.txt").write_text("\n".join(table["Image Index"][~test]))
    rng = np.random.default_rng(0)
    for name in table["Image Index"]:
        Image.fromarray(rng.integers(0, 256, (48, 48), dtype=np.uint8)).save(root / "images" / name)
    return root


def swept(folder: Path, *overrides: str, into: Path | None = None) -> Path:
    """Run an experiment in this process, and leave what Hydra leaves; return its folder."""
    asked = (*overrides, f"store={folder / 'store'}")
    if into is None:
        into = folder / "runs" / fedmed.config.compose(asked).sha256[:16]
        hydra = into / ".hydra"
        hydra.mkdir(parents=True)
        for name, content in fedmed.config.record(asked).items():
            OmegaConf.save(content, hydra / name)
    with Console() as console:
        run(asked, into, console)
    return into


def metrics(folder: Path) -> pd.DataFrame:
    """Read a run's ``metrics.csv``."""
    return pd.read_csv(folder / "metrics.csv")


def summary(folder: Path) -> dict[str, Any]:
    """Read a run's ``summary.json``."""
    return dict(json.loads((folder / "summary.json").read_text()))


def tiny_network(seed: int = 0) -> nn.Module:
    """Return a network that private training takes no time with, on 8×8 images."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)
    )


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys of a server and of a stranger."""
    folder = tmp_path_factory.mktemp("keys")
    for who in ("server", "stranger"):
        make_key(folder / who)
    return folder


@pytest.fixture(scope="session")
def finished(store: Path, keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private, signed run's directory, not to be written to."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    from signed_run import PRIVATE  # which takes its smallest run from here

    with Console() as console:
        run((*PRIVATE, f"record.key={keys / 'server'}", f"store={store}"), folder, console)
    return folder


@pytest.fixture
def ran(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, to be harmed."""
    return Path(shutil.copytree(finished, tmp_path / "ran"))


@pytest.fixture
def known(keys: Path) -> Known:
    return Known(server=read_public(keys / "server.pub"))
