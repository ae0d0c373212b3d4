"""What a run left, each file held against the record of the run; the first misfit is told.

Each check takes what is derived from a file and what the record binds. Where they are not the same,
one of the two was changed: which, the heads that are kept elsewhere tell.
"""

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf
from safetensors import SafetensorError
from safetensors.numpy import load_file

from fedmed import partition
from fedmed.config import Config, identity, typed, wire
from fedmed.core.errors import FedmedError
from fedmed.core.files import damaged
from fedmed.core.records import MetricRow
from fedmed.deployment.evidence import of_tables
from fedmed.evaluation import metrics
from fedmed.evaluation.predictions import Predictions
from fedmed.federation.checkpoint import Checkpoint
from fedmed.models import arrays_sha256
from fedmed.models.state import CHECKSUM
from fedmed.privacy.events import Event
from fedmed.privacy.ledger import Ledger
from fedmed.record import hashes
from fedmed.record.chain import Record
from fedmed.runs.directory import RunDirectory

Rounds = Mapping[int, Record]  # round → its record, of those that the result came from
HEADER = (",".join(MetricRow._fields) + "\n").encode()
CLOSE = 1e-9  # relative: the accountant's sums differ in last bits from processor to processor


class Misfit(FedmedError):
    """A file of a run that is not what its record binds.

    Args:
        file: of which something else was derived.
        where: a round, a client or a line of it.
        what: the record's field.
    """

    def __init__(self, file: Path, where: str, what: str) -> None:
        super().__init__(f"{file}: {where}: {what} is not what the record binds")


def check_configuration(run_dir: RunDirectory, first: Record) -> Config:
    """Derive the configuration's hashes anew, and return it.

    Raises:
        FedmedError: if it is another one, or another version of fedmed recorded it.
    """
    path = run_dir.path / ".hydra" / "config.yaml"
    if first["semantics"] != identity.SEMANTICS:
        raise FedmedError(
            f"{path}: recorded by fedmed {first['fedmed']} (semantics {first['semantics']}), and "
            f"this is semantics {identity.SEMANTICS}: verify with that version"
        )
    if not path.exists():
        raise FedmedError(f"{path}: is gone")
    config = typed(OmegaConf.create(run_dir.composed()))  # whoever wrote it is not to run code
    if identity.sha256(config, first["device"]) != first["config"]:
        raise Misfit(path, "round 0", "config")
    if wire.sha256(wire.dumps(config)) != first["task"]:
        raise Misfit(path, "round 0", "task")
    return config


def check_data(run_dir: RunDirectory, first: Record) -> int:
    """Derive the hashes of the tables that are here anew.

    Returns:
        Of how many clients there are tables here, the server's test patients among them.

    Raises:
        FedmedError: naming the first client of whom they are others.
    """
    try:
        table, assigned = pd.read_parquet(run_dir.table), partition.read(run_dir.partition)
        found = of_tables(table, assigned)
    except FileNotFoundError as error:
        raise FedmedError(f"{error.filename}: is gone") from None
    except Exception:  # of a file that was changed anywhere, anything may come
        raise damaged(run_dir.table, f"it or {run_dir.partition.name} cannot be read") from None
    for client, own in found.items():
        bound = first["data"].get(str(client), {})
        whose = f"client {client}" if client >= 0 else "the test patients"
        if own["partition"] != bound.get("partition"):
            raise Misfit(run_dir.partition, whose, "partition")
        if own["table"] != bound.get("table"):
            raise Misfit(run_dir.table, whose, "table")
    return len(found)


def check_metrics(run_dir: RunDirectory, rounds: Rounds, finished: bool) -> None:
    """Hold the lines of ``metrics.csv`` against the record.

    A run that was cut off may lack those of its last round, which its checkpoint has.

    Raises:
        FedmedError: naming the first round whose lines are others.
    """
    path = run_dir.path / "metrics.csv"
    text = path.read_bytes() if path.exists() else HEADER
    if not text.startswith(HEADER):
        raise Misfit(path, "line 1", "the header")
    lines: dict[bytes, bytes] = defaultdict(bytes)
    order: list[bytes] = []
    for line in text[len(HEADER) :].splitlines(keepends=True):
        name = line.partition(b",")[0]
        order += [name] if name not in lines else []
        lines[name] += line
    names = [str(round_).encode() for round_ in rounds]
    missing = len(names) - len(order)
    for i, name in enumerate(names):
        if name not in lines and not finished and i == len(order) and missing == 1:
            continue
        if hashlib.sha256(lines[name]).hexdigest() != rounds[int(name)]["metrics"]:
            raise Misfit(path, f"round {name.decode()}", "metrics")
    if order != names[: len(order)]:
        raise Misfit(path, "its rounds", "their order")


def read_checkpoint(run_dir: RunDirectory, finished: bool) -> Checkpoint | None:
    """Return the checkpoint; None if none is due yet.

    Raises:
        FedmedError: if it is gone or damaged.
    """
    state = Checkpoint.load(run_dir.checkpoint)
    if state is not None:
        check_header(run_dir.checkpoint)
    elif finished:
        raise FedmedError(f"{run_dir.checkpoint}: is gone")
    return state


def check_checkpoint(
    run_dir: RunDirectory, state: Checkpoint, rounds: Rounds, finished: bool
) -> None:
    """Hold the checkpoint against the record.

    Raises:
        FedmedError: if it is of another round, or has other arrays or metrics.
    """
    path, last = run_dir.checkpoint, max(rounds)
    if state.round not in rounds or (finished and state.round != last):
        raise Misfit(path, f"round {state.round}", "round")
    if hashes.of_arrays(state.arrays) != rounds[state.round]["arrays"]:
        raise Misfit(path, f"round {state.round}", "arrays")
    of_round: dict[int, list[MetricRow]] = defaultdict(list)
    for row in state.metrics:
        of_round[row.round].append(row)
    for round_ in range(state.round + 1):
        if hashes.of_rows(of_round[round_]) != rounds[round_]["metrics"]:
            raise Misfit(path, f"round {round_}", "metrics")


def check_model(run_dir: RunDirectory, rounds: Rounds) -> str:
    """Hold a finished run's weights against the record; return the hash that its summary tells.

    Raises:
        FedmedError: if they are gone, damaged, or others.
    """
    path, last = run_dir.path / "checkpoint" / "model.safetensors", max(rounds)
    if not path.exists():
        raise FedmedError(f"{path}: is gone")
    try:
        arrays = load_file(path)
    except (SafetensorError, ValueError, TypeError, LookupError):
        raise damaged(path, "it cannot be read") from None
    header = check_header(path)
    if hashes.of_arrays(arrays) != rounds[last]["arrays"]:
        raise Misfit(path, f"round {last}", "arrays")
    digest = arrays_sha256(arrays)
    if header.get("__metadata__") != {CHECKSUM: digest}:
        raise damaged(path, "its checksum is another one's")
    return digest


def check_header(path: Path) -> dict[str, Any]:
    """Return the header of a safetensors file, which is written in one way alone.

    Raises:
        FedmedError: if it is written in another.
    """
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    text = content[8 : 8 + size]
    try:
        header: dict[str, Any] = json.loads(text)
        plainly = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise damaged(path, "its header cannot be read") from None
    if text != plainly + b" " * (-len(plainly) % 8):
        raise damaged(path, "its header is not as it was written")
    return header


def check_ledger(
    run_dir: RunDirectory, events: list[Any], rounds: Rounds, finished: bool
) -> Ledger | None:
    """Hold the ledger against the releases that the record binds, and compute ε from them anew.

    What a round released that was cut off before its record, and never done again, is more than is
    recorded: it is counted in the ledger alone.

    Args:
        run_dir: where it is.
        events: all that the record binds, superseded rounds' too, in their order.
        rounds: the records that the result came from.
        finished: whether the run is.

    Returns:
        The ledger; None where the run promised nothing.

    Raises:
        FedmedError: naming the first release or field that is another.
    """
    path, last = run_dir.ledger, rounds[max(rounds)]
    if not last["privacy"] and not path.exists():
        return None
    ledger = Ledger.read(path, rounds[0]["config"])
    text = path.read_bytes()
    if ledger.text(json.loads(text)["accountant"]).encode() != text:
        raise damaged(path, "it is not as it was written")
    bound = [Event(**event) for event in events]
    for event in sorted(set(bound) ^ set(ledger.events), key=lambda event: event.round):
        if event in ledger.events and not (finished and event.round <= last["round"]):
            continue
        more = "more" if event in ledger.events else "less"
        raise Misfit(path, f"a release {more} of round {event.round}", "events")
    deltas = {unit: spent["delta"] for unit, spent in last["privacy"].items()}
    if dict(ledger.deltas) != deltas:
        raise Misfit(path, "delta", "privacy")
    if finished and {str(k): r for k, r in ledger.stopped.items()} != last["stopped"]:
        raise Misfit(path, "stopped", "stopped")
    then = replace(ledger, events=bound)
    for unit, spent in last["privacy"].items():
        if not _close(spent["epsilon"], then.epsilon(unit)):
            raise Misfit(path, f"ε of {unit} by the accountant", "privacy")
    return ledger


def check_summary(
    run_dir: RunDirectory, summary: Mapping[str, Any], rounds: Rounds, model_sha256: str
) -> None:
    """Hold a finished run's summary against the record, and its files against their hashes in it.

    Raises:
        FedmedError: naming the first key, or file, that is another.
    """
    path, last = run_dir.path / "summary.json", rounds[max(rounds)]
    unit = summary["privacy"]["unit"]
    for key, bound in (
        ("config_sha256", rounds[0]["config"]),
        ("semantics", rounds[0]["semantics"]),
        ("device", rounds[0]["device"]),
        ("rounds_done", last["round"]),
        ("model_sha256", model_sha256),
    ):
        if summary[key] != bound:
            raise Misfit(path, key, key)
    if unit and summary["privacy"]["delta"] != last["privacy"][unit]["delta"]:
        raise Misfit(path, "privacy.delta", "privacy")
    for name in summary["files"]:
        run_dir.check(name)


def check_results(
    run_dir: RunDirectory, summary: Mapping[str, Any], state: Checkpoint, ledger: Ledger | None
) -> None:
    """Hold what a finished run's summary and predictions tell against metrics and ledger.

    Args:
        run_dir: where they are.
        summary: of the run.
        state: its checkpoint, whose metrics are those of the record.
        ledger: likewise; None where nothing was promised.

    Raises:
        FedmedError: naming the first that is another.
    """
    path, privacy = run_dir.path / "summary.json", summary["privacy"]
    for told in [privacy, *privacy["also"]] if ledger else ():
        if ledger and not _close(told["epsilon"], ledger.epsilon(told["unit"])):
            raise Misfit(path, "privacy.epsilon", "privacy")
    of_test = [row for row in state.metrics if (row.round, row.scope) == (state.round, "test")]
    if not of_test:
        return
    found = Predictions.read(run_dir.path / "predictions.parquet")
    macros = metrics.per_target(found.scores, found.labels, found.targets)
    derived = {f"macro_{name}": metrics.macro(values) for name, values in macros.items()}
    derived["loss"] = metrics.bce(found.scores, found.labels)
    for row in of_test:
        if row.metric not in derived:
            continue
        if not _close(derived[row.metric], row.value):
            raise Misfit(run_dir.path / "predictions.parquet", row.metric, "metrics")
        if row.metric in summary["test"] and not _close(summary["test"][row.metric], row.value):
            raise Misfit(path, f"test.{row.metric}", "metrics")


def _close(told: float | str | None, value: float) -> bool:
    """Say whether a file tells a value, which JSON has no number for where it is not finite."""
    number = math.nan if told is None else math.inf if told == "inf" else float(told)
    return math.isclose(number, value, rel_tol=CLOSE) or (number != number and value != value)
