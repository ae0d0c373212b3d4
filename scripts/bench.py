"""Measure fedmed against the bare loops that it contains, side by side, in turn, several times.

``rounds``: a round against the same local steps in plain PyTorch loops over as many one-thread
processes: images in memory, no messages, no averaging, no checkpoint; only the processes wait for
each other at the end of a round, as any federation must.

``store``: preparing a store against the same number of processes that decode and resize and keep
nothing; feeding batches from it against decoding 1024 px PNGs each epoch; and the memory that
preparing and reading 1 GB of images takes against 100 MB.

    python scripts/bench.py rounds [--repeats 5] [--rounds 10] [override …]
    python scripts/bench.py store [--repeats 5] [--images 192] [--workers 2]

Each prints a table and writes ``bench-rounds.json`` or ``bench-store.json`` into ``--out``.
"""

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # this folder: for other packages, datasets is Hugging Face's
    sys.path.pop(0)

import numpy as np
import pandas as pd
import pydicom
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from rich.console import Console as RichConsole
from rich.table import Table

from fedmed import config as cfg
from fedmed import models, processes, store
from fedmed.checkpoint import Row
from fedmed.client.training import batches
from fedmed.console import Console
from fedmed.datasets.phantom import Phantom
from fedmed.experiment import run
from fedmed.files import ImageFiles
from fedmed.runner.local import workers
from fedmed.table import Card, validate
from fedmed.workplace import workplace

QUICKSTART = ("+experiment=quickstart", "tracking.mode=disabled", "evaluate_every=1000000")
Report = tuple[Table, dict[str, Any]]


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
    here = workplace(run_config)
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


def measure_rounds(arguments: argparse.Namespace) -> Report:
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


class Scans(ImageFiles):
    """The benchmark's own files."""

    card = Card("benchmark", ("Effusion",), None, None, "", "", "", "")

    def table(self) -> pd.DataFrame:
        """Return a row for each file."""
        return pd.DataFrame({"image": sorted(path.name for path in self.root.iterdir())})


def render(folder: Path, suffix: str, n: int, side: int) -> Path:
    """Draw ``n`` different radiographs, side×side, as files."""
    folder.mkdir()
    phantom = Phantom(["Effusion"], 128, patients=32)
    images = phantom.table()["image"]
    grain = np.random.default_rng(0).normal(0, 2, (side, side))  # PNGs of bare noise or none lie
    for i in range(n):
        small = Image.fromarray(phantom.read(images[i % len(images)]))
        large = np.asarray(small.resize((side, side), Image.Resampling.BICUBIC))
        pixels = np.clip(large + np.roll(grain, i, (0, 1)), 0, 255).astype(np.uint8)
        path = folder / f"{i:05d}{suffix}"
        if suffix == ".png":
            Image.fromarray(pixels).save(path, compress_level=6 if side <= 1024 else 0)
        else:
            write_dicom(path, pixels.astype(np.uint16) << 4)
    return folder


def write_dicom(path: Path, stored: NDArray[np.uint16]) -> None:
    """Write 12-bit pixels as JPEG 2000, as archives keep them, with a window."""
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.SOPClassUID = pydicom.uid.DigitalXRayImageStorageForPresentation
    data.SOPInstanceUID = pydicom.uid.generate_uid()
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = stored.shape
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.WindowCenter, data.WindowWidth = 2048, 4096
    data.PixelData = stored.tobytes()
    data.compress(pydicom.uid.JPEG2000Lossless, generate_instance_uid=False)
    data.save_as(path, enforce_file_format=True)


def bare_pixels(path: Path) -> NDArray[np.uint8]:
    """Decode a file as anyone would write it down, H×W."""
    if path.suffix == ".png":
        return np.asarray(Image.open(path).convert("L"))
    data = pydicom.dcmread(path)
    shown = apply_voi_lut(apply_modality_lut(data.pixel_array, data), data)
    return (shown / (2**data.BitsStored - 1) * 255).astype(np.uint8)


def bare_decoding(paths: Sequence[Path], size: int, barrier: Any) -> None:
    """Decode, resize, and keep nothing; between two meetings at the barrier."""
    barrier.wait()
    for path in paths:
        np.asarray(Image.fromarray(bare_pixels(path)).resize((size, size), Image.BILINEAR))
    barrier.wait()


def bare_prepare(folder: Path, size: int, n: int) -> float:
    """Return the seconds that ``n`` processes take, once they have started."""
    paths = sorted(folder.iterdir())
    context = processes.context()
    barrier = context.Barrier(n + 1)
    loops = [
        context.Process(target=bare_decoding, args=(paths[k::n], size, barrier)) for k in range(n)
    ]
    for loop in loops:
        loop.start()
    barrier.wait()
    start = time.perf_counter()
    barrier.wait()
    seconds = time.perf_counter() - start
    for loop in loops:
        loop.join()
    return seconds


def fedmed_prepare(folder: Path, size: int, n: int, root: Path) -> float:
    """Return the seconds of a whole prepare, the start of its processes and the seal included."""
    data = Scans(["Effusion"], size, folder)
    table = data.table()
    start = time.perf_counter()
    prepared = store.prepare(data, table, root, n, lambda done, total: None)
    seconds = time.perf_counter() - start
    assert prepared.unreadable.empty
    return seconds


def feeding(folder: Path, size: int, root: Path, batch: int = 32) -> tuple[float, float]:
    """Return seconds an epoch of shuffled float batches: from the store, and decoding PNGs."""
    data = Scans(["Effusion"], size, folder)
    prepared = store.prepare(data, data.table(), root, 1, lambda done, total: None)
    paths = [data.path(image) for image in prepared.table["image"]]
    order = np.random.default_rng(0).permutation(len(paths))
    starts = range(0, len(order), batch)
    stored = store.pixels_of(prepared.path)
    begin = time.perf_counter()
    for at in starts:
        torch.from_numpy(stored[np.sort(order[at : at + batch])]).unsqueeze(1).float() / 127.5 - 1
    ours = time.perf_counter() - begin
    begin = time.perf_counter()
    for at in starts:
        images = [Image.fromarray(bare_pixels(paths[i])) for i in order[at : at + batch]]
        small = [np.asarray(image.resize((size, size), Image.BILINEAR)) for image in images]
        torch.from_numpy(np.stack(small)).unsqueeze(1).float() / 127.5 - 1
    return ours, time.perf_counter() - begin


def memory(folder: Path, size: int, root: Path, n: int) -> dict[str, float]:
    """Return the peak anonymous memory, in MB, of a process that prepares, and of its workers.

    Then of one that reads every pixel. Pages of the mapped file are not counted: they are the
    system's cache, shared by all processes and given back when memory is short.
    """
    command = [sys.executable, __file__, "_memory", str(folder), str(size), str(root), str(n)]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))


def measure_memory(folder: Path, size: int, root: Path, n: int) -> dict[str, float]:
    """Watch the anonymous memory of this process and those below it while a store is made."""
    peaks = {"main_mb": 0.0, "worker_mb": 0.0}

    def watch() -> None:
        while True:
            peaks["main_mb"] = max(peaks["main_mb"], anonymous(os.getpid()))
            peaks["worker_mb"] = max(peaks["worker_mb"], *map(anonymous, below(os.getpid())), 0.0)
            time.sleep(0.02)

    threading.Thread(target=watch, daemon=True).start()
    data = Scans(["Effusion"], size, folder)
    prepared = store.prepare(data, data.table(), root, n, lambda done, total: None)
    stored = store.pixels_of(prepared.path)
    for at in range(0, len(stored), 32):
        stored[at : at + 32].sum()
    time.sleep(0.1)
    return peaks


def below(process: int) -> list[int]:
    """Return all processes that descend from one."""
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:  # it has ended
        return []
    return [p for child in children for p in (int(child), *below(int(child)))]


def anonymous(process: int) -> float:
    """Return the anonymous resident memory of a process in MB."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
        return int(status.split("RssAnon:")[1].split()[0]) / 1024
    except (OSError, IndexError):  # it has ended
        return 0.0


def measure_store(arguments: argparse.Namespace) -> Report:
    """Measure a store's making, reading and memory."""
    size, n = arguments.size, arguments.workers
    torch.set_num_threads(1)
    table = Table("what", "fedmed", "bare", "fedmed / bare", "bar", title="store")
    record: dict[str, Any] = {"images": arguments.images, "workers": n, "size": size}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        for suffix in (".png", ".dcm"):
            folder = render(scratch / suffix[1:], suffix, arguments.images, 1024)
            bare_prepare(folder, size, n)  # starts the fork server, and fills the system's cache
            pairs = [
                (fedmed_prepare(folder, size, n, scratch / f"{suffix}{i}"),
                 bare_prepare(folder, size, n))
                for i in range(arguments.repeats)
            ]  # fmt: skip
            rates = [arguments.images / np.array(pair) for pair in pairs]
            ratio = statistics.median(ours / bare for ours, bare in rates)
            ours, bare = np.median(rates, axis=0)
            title = f"prepare, 1024 px {suffix[1:]}, images/s"
            table.add_row(title, f"{ours:.1f}", f"{bare:.1f}", f"{ratio:.3f}", "≥ 0.9")
            record[f"prepare_{suffix[1:]}"] = {"seconds": pairs, "ratio": ratio}
        fed = [feeding(scratch / "png", size, scratch / "fed") for _ in range(arguments.repeats)]
        ratio = statistics.median(bare / ours for ours, bare in fed)
        ours, bare = arguments.images / np.median(fed, axis=0)
        table.add_row(
            "feed batches, images/s", f"{ours:.0f}", f"{bare:.1f}", f"{ratio:.0f}", "≥ 30"
        )
        record["feed"] = {"seconds": fed, "ratio": ratio}
        small = memory(render(scratch / "small", ".png", 100, 1000), 1000, scratch / "100MB", n)
        large = memory(render(scratch / "large", ".png", 1000, 1000), 1000, scratch / "1GB", n)
        for who in small:
            title = f"anonymous memory, {who.split('_')[0]}, MB, 1 GB and 100 MB"
            grown = large[who] / small[who]
            table.add_row(title, f"{large[who]:.0f}", f"{small[who]:.0f}", f"{grown:.3f}", "≈ 1")
        record["memory"] = {"1GB": large, "100MB": small}
    return table, record


def main() -> None:
    """Print a table and write the record."""
    if sys.argv[1:2] == ["_memory"]:
        folder, size, root, n = sys.argv[2:]
        print(json.dumps(measure_memory(Path(folder), int(size), Path(root), int(n))))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    rounds = commands.add_parser("rounds", help="a round over its bare training")
    rounds.set_defaults(measure=measure_rounds)
    rounds.add_argument("--rounds", type=int, default=10)
    rounds.add_argument("overrides", nargs="*")
    stores = commands.add_parser("store", help="preparing and reading a store")
    stores.set_defaults(measure=measure_store)
    stores.add_argument("--images", type=int, default=192)
    stores.add_argument("--size", type=int, default=224)
    stores.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    for command in (rounds, stores):
        command.add_argument("--repeats", type=int, default=5)
        command.add_argument("--out", type=Path, default=Path())
    arguments = parser.parse_args()
    table, record = arguments.measure(arguments)
    RichConsole().print(table)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    arguments.out.mkdir(parents=True, exist_ok=True)
    target = arguments.out / f"bench-{arguments.command}.json"
    target.write_text(json.dumps({"machine": machine, **record}, indent=2))


if __name__ == "__main__":
    main()
