"""A real wandb file: it holds the run's figures, and nobody's name."""

import getpass
import json
import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import TINY, metrics
from wandb.proto import wandb_internal_pb2

from fedmed.errors import FedmedError

OFFLINE = ("tracking.mode=offline", "name=tracked")


def records(folder: Path) -> list[Any]:
    """Return the records of the run's wandb file."""
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    found = []
    for data in leveldb_log(file.read_bytes()[7:]):  # after wandb's own header
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        found.append(record)
    return found


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
    names |= {str(nih_standin), str(tmp_path)}
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
