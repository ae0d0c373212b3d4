"""Making a store, reading from it, and the memory that both take.

Preparing stands against the same number of processes that decode and resize and keep nothing;
feeding batches against decoding 1024 px PNGs each epoch; 1 GB of images against 100 MB.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
import torch
from numpy.typing import NDArray
from PIL import Image
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from rich.table import Table

from fedmed.core import processes
from fedmed.data import store
from fedmed.data.card import Card
from fedmed.data.image_files import ImageFiles
from fedmed.datasets.phantom import Phantom

DRAWN = 20  # radiographs that are different


class Scans(ImageFiles):
    """The benchmark's own files."""

    card = Card("benchmark", ("Effusion",), None, None, "", "", "", "")

    def table(self) -> pd.DataFrame:
        """Return a row for each file."""
        return pd.DataFrame({"image": sorted(path.name for path in self.root.iterdir())})


def render(folder: Path, suffix: str, n: int, side: int) -> Path:
    """Leave ``n`` files of radiographs, side×side: copies of a few that are drawn."""
    folder.mkdir()
    phantom = Phantom(["Effusion"], 128, patients=DRAWN)
    grain = np.random.default_rng(0).normal(0, 2, (side, side))  # without it they are too easy
    files = []
    for i, image in enumerate(phantom.table()["image"][:DRAWN]):
        small = Image.fromarray(phantom.read(image))
        large = np.asarray(small.resize((side, side), Image.Resampling.BICUBIC))
        pixels = np.clip(large + np.roll(grain, i, (0, 1)), 0, 255).astype(np.uint8)
        path = folder / f"{i:05d}{suffix}"
        if suffix == ".png":
            Image.fromarray(pixels).save(path)
        else:
            write_dicom(path, pixels.astype(np.uint16) << np.uint16(4))
        files.append(path.read_bytes())
    for i in range(DRAWN, n):
        (folder / f"{i:05d}{suffix}").write_bytes(files[i % DRAWN])
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
    data.pixel_array_options(decoding_plugin="pylibjpeg")
    shown = apply_voi_lut(apply_modality_lut(data.pixel_array, data), data)
    return np.asarray(shown / (2**data.BitsStored - 1) * 255).astype(np.uint8)


def bare_decoding(paths: Sequence[Path], size: int, barrier: Any) -> None:
    """Decode, resize, and keep nothing; between two meetings at the barrier."""
    barrier.wait()
    for path in paths:
        np.asarray(
            Image.fromarray(bare_pixels(path)).resize((size, size), Image.Resampling.BILINEAR)
        )
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
        small = [
            np.asarray(image.resize((size, size), Image.Resampling.BILINEAR)) for image in images
        ]
        torch.from_numpy(np.stack(small)).unsqueeze(1).float() / 127.5 - 1
    return ours, time.perf_counter() - begin


def memory(folder: Path, size: int, root: Path, n: int) -> dict[str, float]:
    """Return the peak anonymous memory, in MB, of a process that prepares, and of its workers.

    Then of one that reads every pixel. Pages of the mapped file are not counted: they are the
    system's cache, shared by all processes and given back when memory is short.
    """
    command = [sys.executable, __file__, str(folder), str(size), str(root), str(n)]
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


def measure(arguments: argparse.Namespace) -> tuple[Table, dict[str, Any]]:
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what can be chosen."""
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))


if __name__ == "__main__":  # as memory() starts it
    folder, size, root, n = sys.argv[1:]
    print(json.dumps(measure_memory(Path(folder), int(size), Path(root), int(n))))
