"""A round against the same local steps in plain PyTorch loops over as many one-thread processes.

Those keep their images in memory, send no messages, average nothing and write no checkpoint; they
only wait for each other at the end of a round, as any federation must.
"""

import argparse
import shlex
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from rich.table import Table

from fedmed import config as cfg
from fedmed import models, processes, store
from fedmed.checkpoint import Row
from fedmed.client.training import batches
from fedmed.console import Console
from fedmed.experiment import run
from fedmed.runner.local import workers
from fedmed.table import validate
from fedmed.workplace import workplace

QUICKSTART = ("+experiment=quickstart", "tracking.mode=disabled", "evaluate_every=1000000")


class Stopwatch(Console):
    """A console that only notes when each round ended."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[float] = []

    def say(self, text: str) -> None:
        """Say nothing."""

    def report(self, summary: dict[str, Any]) -> None:
        """Report nothing."""

    def round(self, round_: int, rounds: int, rows: Sequence[Row], seconds: float) -> None:
        """Note the time."""
        self.ends.append(time.perf_counter())


def fedmed_rounds(overrides: Sequence[str], folder: Path) -> float:
    """Return seconds a round, of the rounds between the first and the last.

    The first warms the workers up; the last also scores the test split.
    """
    watch = Stopwatch()
    run(cfg.compose(overrides), overrides, folder, watch)
    return (watch.ends[-2] - watch.ends[1]) / (len(watch.ends) - 3)


def bare_rounds(overrides: Sequence[str], folder: Path, rounds: int) -> float:
    """Return seconds a round of the same steps in bare loops, after one to warm up."""
    config = cfg.compose(overrides)
    sizes = pd.read_csv(folder / "clients.csv")["train_images"].tolist()
    steps = [config.client.steps or size for size in sizes]  # equal steps are equal work
    shares = spread(steps, workers(config.runner))
    dataset = config.dataset.build()
    table = validate(dataset.table(), dataset)
    prepared = store.prepare(dataset, table, config.store, 0, lambda done, total: None)
    run_config = {
        "overrides": shlex.join(overrides),
        "store": str(prepared.path),
        "table": str(folder / "table.parquet"),
        "partition": str(folder / "partition.csv"),
    }
    context = processes.context()
    barrier = context.Barrier(len(shares) + 1)
    loops = [
        context.Process(target=bare_process, args=(run_config, share, rounds, barrier))
        for share in shares
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


def bare_process(run_config: dict[str, str], clients: list[int], rounds: int, barrier: Any) -> None:
    """Train each client from the same weights, round after round."""
    torch.set_num_threads(1)
    here = workplace(**run_config)
    how, network = here.config.client, here.network
    data = {}
    for client in clients:
        rows = here.examples("train", client).rows
        data[client] = torch.from_numpy(here.pixels[rows]), torch.from_numpy(here.labels[rows])
    for _ in range(rounds + 1):
        for client in clients:
            models.load(network, here.initial)
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
        loss.backward()
        optimizer.step()


def measure(arguments: argparse.Namespace) -> tuple[Table, dict[str, Any]]:
    """Measure what a round costs over the bare training it contains."""
    overrides = [*QUICKSTART, f"rounds={arguments.rounds}", *arguments.overrides]
    torch.set_num_threads(1)
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        for repeat in range(arguments.repeats):
            folder = Path(scratch) / str(repeat)
            ours = fedmed_rounds(overrides, folder)
            bare = bare_rounds(overrides, folder, arguments.rounds)
            results.append({"fedmed_s": ours, "bare_s": bare, "ratio": ours / bare})
    table = Table("repeat", "fedmed", "bare loops", "ratio", title="seconds a round")
    for i, r in enumerate(results, 1):
        table.add_row(str(i), f"{r['fedmed_s']:.3f}", f"{r['bare_s']:.3f}", f"{r['ratio']:.3f}")
    ratio = statistics.median(r["ratio"] for r in results)
    table.add_row("median", "", "", f"{ratio:.3f}")
    return table, {"overrides": overrides, "results": results, "ratio": ratio}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what can be chosen."""
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("overrides", nargs="*")
