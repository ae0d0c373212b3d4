"""Images a second on a GPU: the federation against a bare training loop with the same settings.

DenseNet121 at 224 px, bfloat16 autocast, channels last; the loop has its images on the device.
Then small clients, several of them sharing the GPU against one at a time.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from engines import command, run_context
from matplotlib.figure import Figure
from rich.table import Table

from fedmed import config as cfg
from fedmed.client.context import context_of
from fedmed.training.sgd import batches

COMMON = (
    "tracking.mode=disabled",
    "evaluate_every=1000000",
    "partition=iid",
    "runner.device=cuda",
    "runner.deterministic=false",
    "client.precision=bfloat16",
    "client.augment={rotate:0,shift:0,scale:0,contrast:0}",
)
LARGE = ("model=densenet121", "dataset.size=224", "dataset.patients=1000", "partition.clients=4",
         "client.batch_size=64", "client.steps=40")  # fmt: skip
SMALL = ("dataset.patients=2000", "partition.clients=16", "client.batch_size=16", "client.steps=40")


def federation(overrides: Sequence[str], folder: Path) -> float:
    """Return images a second in the rounds of a run."""
    config = cfg.compose(overrides)
    clients = int(config.partition.arguments["clients"])
    images = clients * (config.client.steps or 0) * config.client.batch_size
    return images / command(overrides, folder)["round_s"]


def bare(overrides: Sequence[str], folder: Path) -> float:
    """Return images a second of a plain loop over the first client's images."""
    own = context_of(run_context(overrides, folder))
    how, network = own.config.client, own.network.train()
    device = next(network.parameters()).device
    rows = own.examples("train", 0).rows
    pixels = torch.from_numpy(own.pixels[rows]).to(device)
    labels = torch.from_numpy(own.labels[rows]).to(device)
    optimizer = torch.optim.Adam(network.parameters(), how.lr, fused=True)
    for repeat in range(2):  # the first warms up
        torch.cuda.synchronize()
        began, images = time.perf_counter(), 0
        for which in batches(len(rows), how, seed=repeat):
            at_ = torch.from_numpy(which).to(device)
            batch = pixels[at_].unsqueeze(1).float() / 127.5 - 1
            with torch.autocast("cuda", torch.bfloat16):
                logits = network(batch)
            known = (~labels[at_].isnan()).float()
            loss = F.binary_cross_entropy_with_logits(
                logits.float(), labels[at_].nan_to_num(), weight=known
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            images += len(which)
        torch.cuda.synchronize()
    return images / (time.perf_counter() - began)


def measure(arguments: argparse.Namespace) -> tuple[Table, dict[str, Any]]:
    """Measure each way in turn, and again. Ends in a line where there is no GPU."""
    if not torch.cuda.is_available():
        raise SystemExit("gpu: there is no GPU here that PyTorch sees; nothing was measured")
    large = [*COMMON, *LARGE, f"rounds={arguments.rounds}"]
    small = [*COMMON, *SMALL, f"rounds={arguments.rounds}"]
    results = []
    with tempfile.TemporaryDirectory() as name:
        for overrides in (large, small):
            command([*overrides, "rounds=3"], Path(name) / f"store-{len(overrides)}")
        for repeat in range(arguments.repeats):
            folder = Path(name) / str(repeat)
            shared = [*small, f"runner.clients_per_gpu={arguments.clients_per_gpu}"]
            results.append(
                {
                    "federation": federation(large, folder),
                    "bare": bare(large, folder),
                    "one at a time": federation(small, folder.with_suffix(".one")),
                    "together": federation(shared, folder.with_suffix(".together")),
                }
            )
    ratios = {
        "federation over bare": _median(r["federation"] / r["bare"] for r in results),
        "together over one at a time": _median(r["together"] / r["one at a time"] for r in results),
    }
    table = Table("what", "images/s", "ratio", "bar", title=torch.cuda.get_device_name())
    for what in results[0]:
        table.add_row(what, f"{_median(r[what] for r in results):.0f}", "", "")
    for (what, ratio), bar in zip(ratios.items(), ("≥ 0.95", "≥ 2"), strict=True):
        table.add_row(what, "", f"{ratio:.3f}", bar)
    device = torch.cuda.get_device_name()
    return table, {"device": device, "results": results, "ratios": ratios}


def _median(values: Any) -> float:
    return float(statistics.median(values))


def draw(record: dict[str, Any]) -> Figure:
    """Draw images a second, a dot a repeat."""
    figure = Figure(figsize=(5, 2.2), layout="constrained")
    axes = figure.subplots()
    for y, what in enumerate(reversed(record["results"][0])):
        values = [r[what] for r in record["results"]]
        axes.barh(y, statistics.median(values), color="#9ecae1", height=0.6)
        axes.plot(values, [y] * len(values), "o", color="#08519c", markersize=3)
    axes.set_yticks(range(4), list(reversed(record["results"][0])))
    axes.set_xlabel("images/s", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what can be chosen."""
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--clients-per-gpu", type=int, default=4)
