"""fedmed's engines against the same local steps in other hands, by turns, several times.

- ideal: plain PyTorch loops over as many one-thread processes. They keep their images in memory,
  send nothing, average nothing and write nothing; they only wait for each other after each round.
- Flower's Ray engine with the same client app and strategy (``runner=ray``).
- pfl-research, if ``--pfl`` names the Python of a virtual environment that has it: its own FedAvg
  in as many processes under torchrun, with the same network, optimizer, batch size and steps.
- the bare imports of torch, monai and flwr, against the time from start to first training step.

A round's seconds are those between the end of the first, which warms up, and that of the one
before the last, which also scores the test split. A whole run is the command from start to end.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from rich.table import Table

from fedmed import config as cfg
from fedmed import models
from fedmed.client.context import context_of
from fedmed.config import wire
from fedmed.core import processes
from fedmed.data import store
from fedmed.data.table import validate
from fedmed.engines.local import workers
from fedmed.federation.messages import RunContext
from fedmed.training.sgd import batches

QUICKSTART = ("+experiment=quickstart", "tracking.mode=disabled", "evaluate_every=1000000")
IMPORTS = "import torch, monai, flwr"
PFL = Path(__file__).with_name("pfl_rounds.py")


def command(overrides: Sequence[str], folder: Path) -> dict[str, float]:
    """Run fedmed as a user would; return seconds of the whole, a round, and to the first step."""
    began = time.time()
    subprocess.run(
        [sys.executable, "-m", "fedmed.run", *overrides, f"hydra.run.dir={folder}"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    whole = time.time() - began
    ends, first = {}, 0.0
    for line in (folder / "run.log").read_text().splitlines():
        if " fedmed.experiment.callbacks: round " in line:
            ends[int(line.split(": round ")[1].split(":")[0])] = moment(line)
        if " fedmed.federation.rounds: round 1 begins" in line:
            first = moment(line) - began
    last = max(ends) - 1
    return {"whole_s": whole, "round_s": (ends[last] - ends[1]) / (last - 1), "first_step_s": first}


def moment(line: str) -> float:
    """Return the time of a line of run.log."""
    return datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f").timestamp()


def bare_imports() -> float:
    """Return the seconds of a process that imports what fedmed rests on."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)
    return time.perf_counter() - began


def pfl_rounds(
    python: Path, overrides: Sequence[str], folder: Path, rounds: int
) -> dict[str, float]:
    """Return seconds of pfl-research on a finished run's clients: whole, and a round."""
    config = cfg.compose(overrides)
    own = context_of(run_context(overrides, folder))
    clients = sorted(set(own.index["client"]) - {-1})
    rows = [own.examples("train", client).rows for client in clients]
    arrays = {f"pixels/{k}": own.pixels[r] for k, r in enumerate(rows)}
    arrays |= {f"labels/{k}": own.labels[r] for k, r in enumerate(rows)}
    np.savez(folder / "pfl.npz", **arrays)  # type: ignore[arg-type]
    task = {
        "data": str(folder / "pfl.npz"),
        "network": config.model.network.model_dump(by_alias=True),
        "client": config.client.model_dump(),
        "rounds": rounds,
        "out": str(folder / "pfl.json"),
    }
    (folder / "pfl-task.json").write_text(json.dumps(task))
    run = [str(python), "-m", "torch.distributed.run", "--standalone"]
    n = workers(config.runner)
    began = time.perf_counter()
    subprocess.run(
        [*run, f"--nproc_per_node={n}", str(PFL), str(folder / "pfl-task.json")],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    whole = time.perf_counter() - began
    return {"whole_s": whole, **json.loads((folder / "pfl.json").read_text())}


def run_context(overrides: Sequence[str], folder: Path) -> RunContext:
    """Return what a client of a finished run is told about it."""
    config = cfg.compose(overrides)
    dataset = config.dataset.build()
    table = validate(dataset.table(), dataset)
    prepared = store.prepare(dataset, table, config.store, 0, lambda done, total: None)
    text = wire.dumps(config)
    return RunContext(
        text,
        wire.sha256(text),
        config.runner.device,
        str(prepared.path),
        str(folder / "table.parquet"),
        str(folder / "partition.csv"),
    )


def bare_rounds(overrides: Sequence[str], folder: Path, rounds: int) -> float:
    """Return seconds a round of the same steps in bare loops, after one to warm up."""
    config = cfg.compose(overrides)
    sizes = pd.read_csv(folder / "clients.csv")["train_images"].tolist()
    steps = [config.client.steps or size for size in sizes]  # equal steps are equal work
    shares = spread(steps, workers(config.runner))
    run = run_context(overrides, folder)
    context = processes.context()
    barrier = context.Barrier(len(shares) + 1)
    loops = [
        context.Process(target=bare_process, args=(run, share, rounds, barrier)) for share in shares
    ]
    for loop in loops:
        loop.start()
    ends = []
    for _ in range(rounds + 1):
        barrier.wait()
        ends.append(time.perf_counter())
    for loop in loops:
        loop.join()
    return (ends[-1] - ends[0]) / rounds


def spread(work: Sequence[int], n: int) -> list[list[int]]:
    """Deal clients to processes, the longest first, each to the least loaded."""
    shares: list[list[int]] = [[] for _ in range(n)]
    for client in sorted(range(len(work)), key=lambda k: -work[k]):
        min(shares, key=lambda share: sum(work[k] for k in share)).append(client)
    return shares


def bare_process(run: RunContext, clients: list[int], rounds: int, barrier: Any) -> None:
    """Train each client from the same weights, round after round."""
    torch.set_num_threads(1)
    own = context_of(run)
    how, network = own.config.client, own.network
    data = {}
    for client in clients:
        rows = own.examples("train", client).rows
        data[client] = torch.from_numpy(own.pixels[rows]), torch.from_numpy(own.labels[rows])
    for _ in range(rounds + 1):
        for client in clients:
            models.load(network, own.initial)
            bare_training(network, *data[client], how)
        barrier.wait()


def bare_training(
    network: torch.nn.Module, pixels: torch.Tensor, labels: torch.Tensor, how: cfg.Client
) -> None:
    """Train as anyone would write it down."""
    network.train()
    optimizer = torch.optim.Adam(network.parameters(), how.lr, fused=True)
    for which in map(torch.from_numpy, batches(len(pixels), how, seed=0)):
        images = pixels[which].unsqueeze(1).float() / 127.5 - 1
        known = ~labels[which].isnan()
        logits = network(images)
        loss = F.binary_cross_entropy_with_logits(logits[known], labels[which][known])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def measure(arguments: argparse.Namespace) -> tuple[Table, dict[str, Any]]:
    """Measure each way in turn, and again."""
    overrides = [*QUICKSTART, f"rounds={arguments.rounds}", *arguments.overrides]
    torch.set_num_threads(1)
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        command(overrides, Path(scratch) / "store")  # prepares the store, and warms the disk
        for repeat in range(arguments.repeats):
            folder = Path(scratch) / str(repeat)
            result: dict[str, Any] = {"imports_s": bare_imports()}
            result["local"] = command(overrides, folder)
            result["bare"] = {"round_s": bare_rounds(overrides, folder, arguments.rounds)}
            if arguments.ray:
                result["ray"] = command([*overrides, "runner=ray"], folder.with_suffix(".ray"))
            if arguments.pfl:
                result["pfl"] = pfl_rounds(arguments.pfl, overrides, folder, arguments.rounds)
            results.append(result)
    ratios = {name: median_ratio(results, *of) for name, of in RATIOS.items()}
    ratios = {name: ratio for name, ratio in ratios.items() if ratio is not None}
    table = Table("what", "seconds", "ratio of medians by turns", "bar", title="engines")
    for name in ("local", "bare", "ray", "pfl"):
        for what in ("round_s", "whole_s", "first_step_s"):
            values = [r[name][what] for r in results if what in r.get(name, {})]
            if values:
                table.add_row(f"{name}, {what}", f"{statistics.median(values):.3f}", "", "")
    table.add_row("imports", f"{statistics.median(r['imports_s'] for r in results):.3f}", "", "")
    for name, ratio in ratios.items():
        table.add_row(name, "", f"{ratio:.3f}", BARS[name])
    return table, {"overrides": overrides, "results": results, "ratios": ratios}


RATIOS = {
    "rounds, local over ideal": ("local", "round_s", "bare", "round_s"),
    "rounds, Ray over local": ("ray", "round_s", "local", "round_s"),
    "whole run, Ray over local": ("ray", "whole_s", "local", "whole_s"),
    "rounds, pfl-research over local": ("pfl", "round_s", "local", "round_s"),
    "start to first step over imports": ("local", "first_step_s", "imports_s", ""),
}
BARS = dict(zip(RATIOS, ("≤ 1.05", "≥ 1.8", "≥ 2.5", "≥ 1.2", "≤ 1.3"), strict=True))


def median_ratio(
    results: Sequence[dict[str, Any]], one: str, what: str, other: str, of: str
) -> float | None:
    """Return the median over the repeats of a ratio, None where it was not measured."""
    pairs = [(r[one][what], r[other][of] if of else r[other]) for r in results if one in r]
    return statistics.median(a / b for a, b in pairs) if pairs else None


def draw(record: dict[str, Any]) -> Figure:
    """Draw the seconds of a round and of a whole run, a dot a repeat."""
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    names = {"local": "fedmed", "bare": "bare loops", "ray": "Flower's Ray", "pfl": "pfl-research"}
    shown = [name for name in names if any(name in r for r in record["results"])]
    titles = {"round_s": "a round, s", "whole_s": "the whole run, s"}
    for axes, (what, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        for y, name in enumerate(reversed(shown)):
            values = [r[name][what] for r in record["results"] if what in r.get(name, {})]
            if values:
                axes.barh(y, statistics.median(values), color="#9ecae1", height=0.6)
                axes.plot(values, [y] * len(values), "o", color="#08519c", markersize=3)
        axes.set_yticks(range(len(shown)), [names[name] for name in reversed(shown)])
        axes.set_title(title, fontsize=9)
        axes.set_xlim(left=0)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what can be chosen."""
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--ray", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--pfl", type=Path, help="the Python that has pfl-research")
    parser.add_argument("overrides", nargs="*")
