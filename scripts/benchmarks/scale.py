"""What a federation costs as it grows: 10 to 10,000 clients, and cohorts of a large network.

All federations share one phantom of 25,000 patients at 32 px, two or more to train on for each of
10,000 clients. A cohort is 100 clients, or all if there are fewer, and each takes a step on two
images with a tiny network, so that what is seen is the federation's own cost. DenseNet121 trains
with cohorts of 10 and of 200 among 200 clients, where each reply is 28 MB.

Memory is the highest sum, over the command and its workers, of anonymous memory, each page that
processes share counted once (Pss). Mapped files are the system's cache, and not counted.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engines import moment
from flwr.app import Message, MetricRecord, RecordDict
from matplotlib.figure import Figure
from monai.networks.nets import DenseNet121
from rich.table import Table
from store import below

from fedmed import models
from fedmed.federation.aggregation import streaming_mean
from fedmed.federation.reply_filter import error_of
from fedmed.flower import process, serialization

COMMON = (
    "tracking.mode=disabled",
    "evaluate_every=1000000",
    "dataset.size=32",
    "dataset.targets=[Cardiomegaly,Effusion]",
    "partition=iid",
    "partition.val_fraction=0",
    "client.batch_size=2",
    "client.steps=1",
)
TINY = (
    "dataset.patients=25000",
    "model.network.init_features=4",
    "model.network.growth_rate=4",
    "model.network.block_config=[1,1]",
)
LARGE = ("dataset.patients=1200", "model=densenet121", "partition.clients=200", "rounds=3")
COHORT = 100
MILLION = 1_000_000
GPUS = 64


def federation(overrides: Sequence[str], folder: Path) -> dict[str, float]:
    """Run one; return seconds to set up and a round, and peak memory in MB."""
    began = time.time()
    run = subprocess.Popen(
        [sys.executable, "-m", "fedmed.run", *COMMON, *overrides, f"hydra.run.dir={folder}"],
        stdout=subprocess.DEVNULL,
    )
    peak = [0.0]
    watch = threading.Thread(target=_watch, args=(run, peak), daemon=True)
    watch.start()
    if run.wait():
        raise SystemExit(f"the run in {folder} failed; see above")
    watch.join()
    lines = (folder / "run.log").read_text().splitlines()
    begins = [moment(line) for line in lines if " fedmed.federation.rounds: round " in line]
    rounds = np.diff(begins[1:])  # the first warms up, the last has no end but the test's
    return {
        "setup_s": begins[0] - began,
        "round_s": float(np.median(rounds)),
        "peak_mb": peak[0],
    }


def _watch(run: "subprocess.Popen[bytes]", peak: list[float]) -> None:
    while run.poll() is None:
        processes = [run.pid, *below(run.pid)]
        peak[0] = max(peak[0], sum(map(proportional, processes)))
        time.sleep(0.1)


def proportional(process: int) -> float:
    """Return a process's part of the anonymous memory, in MB."""
    try:
        rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
        return int(rollup.split("Pss_Anon:")[1].split()[0]) / 1024
    except (OSError, IndexError):  # it has ended
        return 0.0


def server_seconds(folder: Path, replies: int = 10) -> float:
    """Return what it takes the server to read, look at and fold one reply of DenseNet121."""
    process.host()
    arrays = models.to_record(models.arrays_of(DenseNet121(2, 1, 14)))
    sent = RecordDict({"arrays": arrays})
    values = MetricRecord({"num-examples": 1, "weight": 1.0})
    serialization.save(RecordDict({"arrays": arrays, "metrics": values}), folder / "reply", False)

    def answers() -> Any:
        for node in range(replies):
            reply = Message(serialization.load(folder / "reply", durable=False), node + 1, "train")
            assert error_of(reply, sent, 1e9) is None
            yield reply

    began = time.perf_counter()
    streaming_mean(answers(), "weight")
    return (time.perf_counter() - began) / replies


def extrapolate(curve: dict[int, dict[str, float]], server_s: float) -> dict[str, float]:
    """Return what a million clients, and 64 GPUs, would take if costs go on as they went.

    Setting up and memory grow by what they did between the two largest federations; a round does
    not, beyond what it did.
    """
    (small, few), (large, many) = list(curve.items())[-2:]
    more = (MILLION - large) / (large - small)
    return {
        "million_setup_s": many["setup_s"] + more * (many["setup_s"] - few["setup_s"]),
        "million_peak_mb": many["peak_mb"] + more * (many["peak_mb"] - few["peak_mb"]),
        "million_round_s": many["round_s"] + more * max(0.0, many["round_s"] - few["round_s"]),
        "server_s_per_reply": server_s,
        "replies_a_second": 1 / server_s,
        "client_s_to_keep_gpus_busy": GPUS * server_s,
    }


def measure(arguments: argparse.Namespace) -> tuple[Table, dict[str, Any]]:
    """Measure federations of each size, and cohorts of a large network."""
    torch.set_num_threads(1)
    table = Table("federation", "set-up, s", "a round, s", "peak, MB", title="scale")
    curve, large = {}, {}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        federation([*TINY, "rounds=4", "partition.clients=10"], scratch / "store")  # draws images
        for n in arguments.clients:
            sized = [f"partition.clients={n}", f"strategy.fraction={min(1.0, COHORT / n)}"]
            sized += [f"rounds={arguments.rounds}", *TINY]
            curve[n] = federation(sized, scratch / str(n))
            _row(table, f"{n} clients, cohort {min(n, COHORT)}", curve[n])
        for cohort in () if arguments.no_large else (10, 200):
            sized = [*LARGE, f"strategy.fraction={cohort / 200}"]
            large[cohort] = federation(sized, scratch / f"large-{cohort}")
            _row(table, f"DenseNet121, cohort {cohort} of 200", large[cohort])
        further = extrapolate(curve, server_seconds(scratch)) if len(curve) > 1 else {}
    record = {"curve": curve, "densenet121": large, "extrapolated": further}
    for what, ratio, bar in _ratios(curve, large):
        table.add_row(what, "", "", f"{ratio:.3f} ({bar})")
        record[what] = ratio
    for what, value in further.items():
        table.add_row(what, "", "", f"{value:.4g}")
    return table, record


def _row(table: Table, title: str, cost: dict[str, float]) -> None:
    numbers = (f"{cost['setup_s']:.1f}", f"{cost['round_s']:.3f}", f"{cost['peak_mb']:.0f}")
    table.add_row(title, *numbers)


def _ratios(
    curve: dict[int, dict[str, float]], large: dict[int, dict[str, float]]
) -> list[tuple[str, float, str]]:
    found = []
    if {100, 10_000} <= set(curve):
        for what, bar in (("round_s", "≤ 1.10"), ("peak_mb", "≤ 1.15")):
            found.append((f"10,000 over 100, {what}", curve[10_000][what] / curve[100][what], bar))
    if large:
        ratio = large[200]["peak_mb"] / large[10]["peak_mb"]
        found.append(("DenseNet121, cohort 200 over 10, peak_mb", ratio, "≤ 1.20"))
    return found


def draw(record: dict[str, Any]) -> Figure:
    """Draw what each cost does as the federation grows."""
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    titles = {"setup_s": "set-up, s", "round_s": "a round, s", "peak_mb": "peak memory, MB"}
    for axes, (what, title) in zip(figure.subplots(1, 3), titles.items(), strict=True):
        values = [cost[what] for cost in record["curve"].values()]
        axes.plot(list(record["curve"]), values, "o-")
        axes.set_xscale("log")
        axes.set_ylim(0, 1.1 * max(values))
        axes.set_xlabel("clients", fontsize=8)
        axes.set_title(title, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what can be chosen."""
    parser.add_argument("--clients", type=int, nargs="+", default=[10, 100, 1000, 10_000])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--no-large", action="store_true", help="leave DenseNet121 out")
