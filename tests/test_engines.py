"""One experiment, the same bits: local pool, Flower over Ray, flwr run, real SuperNodes."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import ROOT, summary
from flwr.cli.build import build_fab_from_files
from hospitals import make_home

from fedmed.cli.verify import hospital_keys
from fedmed.config import compose
from fedmed.core.errors import FedmedError
from fedmed.data.store import pixels_of, prepare
from fedmed.data.table import validate
from fedmed.deployment import node_data
from fedmed.deployment.local_federation import Loopback
from fedmed.deployment.processes import free_port
from fedmed.deployment.server import NAME
from fedmed.experiment.run import run
from fedmed.record.chain import Chain
from fedmed.record.signatures import read_public
from fedmed.runs.console import Console
from fedmed.runs.verify import Known, verify

#: Three hospitals, of which two train in a round and keep their norm statistics.
CONFIG = (
    "dataset.patients=90",
    "dataset.sites=3",
    "dataset.size=32",
    "dataset.targets=[Effusion,view]",
    "partition=dirichlet",
    "partition.clients=3",
    "partition.alpha=1",
    "partition.val_fraction=0",
    "client.batch_size=16",
    "client.steps=2",
    "rounds=2",
    "strategy=fedadam",
    "strategy.fraction=0.7",
    "strategy.state=parameters",
    "tracking.mode=disabled",
)
LIMIT = 400  # seconds that a test's processes may take before they are ended


@pytest.fixture(scope="module")
def pooled(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its run directory in the local pool."""
    folder = tmp_path_factory.mktemp("local")
    with Console() as console:
        run((*CONFIG, "runner.workers=2", f"store={store}"), folder, console)
    return folder


@pytest.fixture(scope="module")
def local(pooled: Path) -> tuple[str, str]:
    """What comes of it there."""
    return result(summary(pooled))


def result(done: dict[str, Any]) -> tuple[str, str]:
    """Return the hash of a run's weights, and the root of its record: of all that was done."""
    return done["model_sha256"], done["record"]["root"]


def recorded(folder: Path) -> list[dict[str, Any]]:
    """Return a run's records, but for the hashes that hospitals key with a secret of their own."""
    records = [
        {**record, "previous": None} for record in Chain.read(folder / "chain.jsonl").records
    ]
    records[0]["data"] = records[0]["data"]["-1"]
    return records


def test_one_worker(local: tuple[str, str], launch: Callable[..., dict[str, Any]]) -> None:
    assert result(launch(*CONFIG, "runner.workers=1")) == local


@pytest.fixture(scope="module")
def must_end() -> Iterator[Callable[[int], None]]:
    """Take process groups of which nothing may be left after the tests of this module.

    Ray sees after a minute that its driver was killed: other tests are done meanwhile.
    """
    groups: list[int] = []
    yield groups.append
    _gone(*groups)


def test_ray_killed_and_resumed(
    local: tuple[str, str],
    command: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
    must_end: Callable[[int], None],
) -> None:
    """Killed in its second round, it goes on to the same weights; Ray goes with it each time."""
    config = (*CONFIG, "runner=ray", "runner.workers=1", f"hydra.run.dir={tmp_path / 'run'}")
    first = command(*config)
    assert first.stdout is not None
    seen = ""
    for line in first.stdout:
        seen += line
        if "round 1/" in line:
            break
    first.kill()  # it alone: nobody tells Ray
    first.wait()
    assert "round 1/2" in seen, seen
    again = command(*config)
    output, _ = again.communicate(timeout=LIMIT)
    assert again.returncode == 0, output
    assert "resuming after round 1" in output
    assert result(summary(tmp_path / "run")) == local
    assert [line for line in output.splitlines() if "INFO" in line or "raylet" in line] == []
    for process in (first, again):
        must_end(process.pid)


def test_deployment(pooled: Path, store: Path, tmp_path: Path) -> None:
    """TLS, registered keys, own folders: the same weights, and nothing of others in a folder."""
    script = [sys.executable, "-m", "fedmed.cli", "deploy"]
    here = tmp_path / "deployment"
    done = _run([*script, *CONFIG, "--folder", str(here)], tmp_path, store)
    assert done.returncode == 0, done.stdout
    (folder,) = (tmp_path / "runs").iterdir()
    assert summary(folder)["model_sha256"] == summary(pooled)["model_sha256"]
    assert recorded(folder) == recorded(pooled)
    keys = here / "records"
    shown = str(verify(folder, Known(read_public(keys / "server.pub"), hospital_keys(keys))))
    assert "signed by the server up to record 3; 4 replies signed by 3 hospitals" in shown
    (keys / "hospital-1.pub").write_bytes((keys / "hospital-2.pub").read_bytes())
    with pytest.raises(FedmedError, match=r"client 1 in round . is by another key"):
        verify(folder, Known(hospitals=hospital_keys(keys)))
    parts = [pd.read_parquet(here / f"client-{k}" / "data" / "table.parquet") for k in range(3)]
    assert not pd.concat(part["patient"].drop_duplicates() for part in parts).duplicated().any()
    for client, part in enumerate(parts):
        assert len(part) == len(pixels_of(here / f"client-{client}" / "data"))
    assert len(list(here.glob("client-*/states/*.safetensors"))) >= 2  # where they belong


def test_a_hospital_makes_the_folder_that_dividing_makes(store: Path, tmp_path: Path) -> None:
    """Of its own images alone, in its own house: the same pixels, labels and roles."""
    config = compose([*CONFIG[:4], "partition=site", f"store={store}"])
    dataset, rule = config.dataset.build(), config.partition.build()
    table = validate(dataset.table(), dataset)
    assigned = rule.assign(table, dataset.targets)
    whole = prepare(dataset, table, config.store, 0, lambda done, total: None)
    for client in (1, -1):
        divided = assigned[assigned["client"] == client].reset_index(drop=True)
        ours = table["patient"].isin(divided["patient"])
        mine = table[ours].reset_index(drop=True)
        whose = node_data.whose(mine, rule, None if client == -1 else client)
        pd.testing.assert_frame_equal(whose, divided)
        own = prepare(dataset, mine, tmp_path / "own", 0, lambda done, total: None)
        made = node_data.export(own, whose, tmp_path / f"made-{client}")
        cut = node_data.export(whole, divided, tmp_path / f"cut-{client}")
        assert made.sha256 == cut.sha256
        assert len(made.table) == ours.sum()


def test_unregistered_node_is_refused(tmp_path: Path) -> None:
    """The same node with the same key, before and after its key is registered."""
    with Loopback(tmp_path / "deployment", tmp_path) as federation:
        home = federation.home(0)
        make_home(home.path, CONFIG, 0, federation.address, federation.authority)
        stranger = federation.start_node(0)
        assert stranger.wait(timeout=60) != 0
        assert "Failed to activate" in (federation.folder / "hospital-0.log").read_text()
        federation.register(0)
        node = federation.start_node(0)
        _wait_for(lambda: _online(federation) == 1, 60)
        assert node.poll() is None
    assert node.poll() is not None


@pytest.fixture
def simulating(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A SuperLink of the test's own for simulations, and the environment to call it by."""
    home, port = tmp_path / "flwr", free_port()
    home.mkdir()
    address = f'[superlink.mine]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    (home / "config.toml").write_text(address)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    environment = os.environ | quiet | {"FLWR_HOME": str(home), "PATH": path}
    options = ["--simulation", "--insecure", "--disable-runtime-dependency-installation"]
    with (tmp_path / "superlink.log").open("w") as log:
        superlink = subprocess.Popen(
            ["flower-superlink", *options, "--host", "127.0.0.1", "--port", str(port)],
            env=environment,
            cwd=tmp_path,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _wait_for(lambda: _listens(port), 60)
    yield environment
    os.killpg(superlink.pid, signal.SIGTERM)
    superlink.wait(timeout=30)
    _gone(superlink.pid)


def test_flwr_run(
    local: tuple[str, str], simulating: dict[str, str], store: Path, tmp_path: Path
) -> None:
    """Flower starts the app by itself, with fewer nodes than clients."""
    app, folder = tmp_path / "app", tmp_path / "run"
    app.mkdir()
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        (app / name).write_bytes((ROOT / name).read_bytes())
    overrides = " ".join([*CONFIG, f"store={store}", f"hydra.run.dir={folder}"])
    told = ["--run-config", f"overrides={json.dumps(overrides)}"]
    subprocess.run(["flwr", "run", app, "mine", *told], cwd=tmp_path, env=simulating, check=True)
    _wait_for(lambda: (folder / "summary.json").exists(), LIMIT)
    _wait_for(lambda: summary(folder)["status"] != "running", LIMIT)
    assert result(summary(folder)) == local


def test_no_code_travels() -> None:
    """What flwr run hands out is a description; each machine runs the fedmed installed there."""
    files = ["pyproject.toml", "LICENSE", "README.md", "fedmed/client/app.py", "conf/config.yaml"]
    bundle, _ = build_fab_from_files({name: ROOT / name for name in files})
    names = set(zipfile.ZipFile(io.BytesIO(bundle)).namelist())
    assert names == {"pyproject.toml", "LICENSE", ".info/CONTENT"}


def _run(command: list[str], folder: Path, store: Path) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, and end it politely if it takes too long."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | {"FEDMED_STORE": str(store)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        output, _ = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        process.terminate()
        output, _ = process.communicate(timeout=60)
    return subprocess.CompletedProcess(command, process.returncode, output)


def _gone(*groups: int) -> None:
    """Wait until nothing is left of some process groups."""

    def empty() -> bool:
        listed = subprocess.run(["ps", "-eo", "pgid,stat"], capture_output=True, text=True)
        rows = [line.split() for line in listed.stdout.splitlines()[1:]]
        return not [group for group, stat in rows if int(group) in groups and stat[0] != "Z"]

    _wait_for(empty, 120)


def _online(federation: Loopback) -> int:
    nodes = federation.server.flwr("supernode", "list", NAME)["nodes"]
    return len([node for node in nodes if node["status"] == "online"])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _wait_for(happens: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < until, f"did not happen within {seconds:g} s"
        time.sleep(0.2)
