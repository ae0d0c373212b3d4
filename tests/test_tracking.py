"""A real wandb file: it holds the run's figures, and nobody's name."""

import getpass
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import TINY, metrics
from wandb.proto import wandb_internal_pb2

from fedmed.core.errors import FedmedError

OFFLINE = ("tracking.mode=offline", "name=tracked")


def records(folder: Path) -> list[Any]:
    """Return the records of the run's wandb file, once its service has written the last of them.

    wandb's ``finish`` returns a moment before.
    """
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    until = time.monotonic() + 30
    while True:
        found = []
        for data in leveldb_log(file.read_bytes()[7:]):  # after wandb's own header
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            found.append(record)
        if time.monotonic() > until or any(r.WhichOneof("record_type") == "exit" for r in found):
            return found
        time.sleep(0.1)


def leveldb_log(data: bytes, header: int = 7) -> Iterator[bytes]:
    """Yield the records of LevelDB's log format: blocks of 32 KiB of checked fragments."""
    at, record = 0, b""
    while at + 7 <= len(data):
        left = 32768 - (at + header) % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last fragment
            yield record
            record = b""


@pytest.mark.parametrize("noise", ["central", "local"])
def test_everything_is_mirrored(
    noise: str, launch: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    private = ("strategy=dp_fedavg", "strategy.noise_multiplier=2", f"strategy.noise={noise}")
    summary = launch(*TINY, *OFFLINE, *private)
    found = records(tmp_path / "run")
    run = next(r.run for r in found if r.WhichOneof("record_type") == "run")
    assert run.run_id == summary["run_id"]
    assert run.run_group == "tracked"
    history = [
        {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in r.history.item}
        for r in found
        if r.WhichOneof("record_type") == "history"
    ]
    rounds = [row for row in history if "test/macro_auroc" in row]
    assert [row["round"] for row in rounds] == [0, 1, 2, 3]
    logged = metrics(tmp_path / "run").query("scope == 'test' and metric == 'macro_auroc'")
    assert [row["test/macro_auroc"] for row in rounds] == pytest.approx(logged["value"].tolist())
    assert rounds[-1]["privacy/epsilon"] == pytest.approx(summary["privacy"]["epsilon"])
    told = {key for row in history for key in row} | {
        "/".join(i.nested_key) or i.key
        for r in found
        if r.WhichOneof("record_type") == "summary"
        for i in r.summary.update
    }
    of_cohorts = [key for key in told if key.split("/")[0] in ("train", "cost", "faults")]
    if noise == "central":  # whose privacy rests on who joined being a secret
        assert of_cohorts == []
        assert not {"bytes_up", "bytes_down", "time"} & told
        assert any("bytes it moved" in a for a in summary["privacy"]["assumptions"])
    else:
        assert {"train/cohort", "cost/bytes_up", "bytes_up", "time"} <= {*of_cohorts, *told}
    assert {"clients/_type", "partition/_type"} <= set().union(*history)
    final = {
        "/".join(i.nested_key) or i.key: i.value_json
        for r in found
        if r.WhichOneof("record_type") == "summary"
        for i in r.summary.update
    }
    assert json.loads(final["privacy"])["unit"] == "client"
    assert next(r.exit.exit_code for r in found if r.WhichOneof("record_type") == "exit") == 0


def test_no_patient_image_host_or_user_leaves(
    nih_standin: Path, launch: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    small = ("dataset.size=32", "partition.clients=2", "rounds=1", "runner.workers=0")
    launch("+experiment=nih", f"dataset.root={nih_standin}", *small, *OFFLINE)
    table = pd.read_csv(nih_standin / "Data_Entry_2017_v2020.csv")
    names = {name.removesuffix(".png") for name in table["Image Index"]} | {"nih:"}
    names |= {str(nih_standin), str(tmp_path), "/.local/share", "staging"}
    names |= {n for n in (socket.gethostname(), getpass.getuser()) if len(n) > 4}  # not "root"
    (offline,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    mirrored = [*offline.glob("*.wandb"), *(p for p in offline.glob("files/**/*") if p.is_file())]
    assert len(mirrored) > 1  # wandb's own debug logs beside them stay on the machine
    for path in mirrored:
        content = path.read_bytes()
        assert [n for n in names if n.encode() in content] == [], path


def test_failed_run_is_marked_failed(launch: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(FedmedError, match="NaN or infinity"):
        launch(*TINY, *OFFLINE, "client=sgd", "client.lr=1e30")
    exits = [r.exit for r in records(tmp_path / "run") if r.WhichOneof("record_type") == "exit"]
    assert [e.exit_code for e in exits] == [1]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"


def test_files_are_enough(launch: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    launch(*TINY, "rounds=1", "strategy=dp_fedavg")
    written = {p.name for p in (tmp_path / "run").iterdir()}
    assert written >= {
        "summary.json",
        "metrics.csv",
        "clients.csv",
        "partition.csv",
        "partition.png",
        "predictions.parquet",
        "ledger.json",
        "checkpoint",
    }
    assert "wandb" not in written
    assert os.environ.get("WANDB_RUN_ID") is None


SMALL = (*TINY, "dataset.patients=60", "client.steps=1", "rounds=3")


@pytest.fixture
def tracked(store: Path, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start a run with an environment of its own, which has nothing of wandb's."""

    def tracked(mode: str, *before: str, **environment: str) -> subprocess.Popen[str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
        command = [sys.executable, "-m", "fedmed.run", *SMALL, f"tracking.mode={mode}"]
        return subprocess.Popen(
            [*before, *command, f"hydra.run.dir={tmp_path / 'run'}", f"store={store}"],
            cwd=tmp_path,
            env=clean | {"COLUMNS": "200"} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return tracked


def finished(process: subprocess.Popen[str], folder: Path, seen: str = "") -> list[str]:
    """Wait for a run that must come to its end; return what it says of wandb."""
    output, _ = process.communicate(timeout=300)
    output = seen + output
    assert process.returncode == 0, output
    assert "Traceback" not in output
    assert json.loads((folder / "summary.json").read_text())["status"] == "finished"
    return [line for line in output.splitlines() if line.startswith("wandb")]


def test_the_mirror_may_die(tracked: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    process = tracked("offline")
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if "round 0/" in line:
            break
    process.send_signal(signal.SIGSTOP)  # so that it is not done before its mirror has died
    found = subprocess.run(["pgrep", "-P", str(process.pid), "wandb-core"], capture_output=True)
    (core,) = map(int, found.stdout.split())
    os.kill(core, signal.SIGKILL)
    process.send_signal(signal.SIGCONT)
    (told,) = finished(process, tmp_path / "run", seen)
    assert told.endswith("the run goes on: its directory has all of it")


def test_a_server_that_is_not_there_is_told_of_once(
    tracked: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        there = {"WANDB_BASE_URL": url, "WANDB_API_KEY": "a" * 40, "WANDB_INIT_TIMEOUT": "2"}
        (told,) = finished(tracked("online", **there), tmp_path / "run")
    assert told.startswith("wandb: ")


def test_online_without_a_key_ends_before_anything_is_read(
    tracked: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = tracked("online", HOME=str(tmp_path))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 2
    assert output.splitlines()[-1].startswith("fedmed: tracking.mode: online needs a key of wandb")
    assert "Traceback" not in output
    assert not (tmp_path / "run" / "table.parquet").exists()


def test_a_home_that_cannot_be_written_is_not_needed(
    tracked: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """All that wandb writes lies in the run directory, and all is mirrored."""
    process = tracked("offline", HOME="/proc/none", MPLCONFIGDIR=str(tmp_path))
    assert finished(process, tmp_path / "run") == []
    exits = [r.exit for r in records(tmp_path / "run") if r.WhichOneof("record_type") == "exit"]
    assert [e.exit_code for e in exits] == [0]


def test_offline_no_host_is_looked_up(
    tracked: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """Nor is any connected to: as the kernel sees all processes of the run."""
    if not shutil.which("strace"):
        pytest.skip("no strace: apt-get install strace")
    trace = tmp_path / "trace"
    watched = ("strace", "-f", "-qq", "-e", "trace=connect,sendto", "-o", str(trace))
    finished(tracked("offline", *watched), tmp_path / "run")
    seen = [line for line in trace.read_text().splitlines() if "connect(" in line]
    assert seen  # wandb talks to its own service, so the watch is awake
    lines = [line for line in seen if "AF_INET" in line]
    assert [line for line in lines if "127.0.0.1" not in line or "htons(53)" in line] == []
