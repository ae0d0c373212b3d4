"""The store: every image decoded once to uint8, memory-mapped, shared by all runs and workers.

A store is a folder named by the hash of its table, pixel recipe and size. It is built beside its
final place and renamed when whole; a build that was cut off goes on where it stopped.
"""

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedmed import pixels
from fedmed.errors import DataError, UnreadableImage
from fedmed.processes import context, leave_with_parent
from fedmed.table import Dataset, table_sha256

CHUNK = 128  # images a task: a few hundred milliseconds of decoding
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Store:
    """A prepared dataset.

    Attributes:
        path: its folder.
        table: the rows whose image could be read; its index is their place among the pixels.
        unreadable: ``image`` and ``reason`` of the rows left out.
        sha256: the hash of table, recipe and pixels.
    """

    path: Path
    table: pd.DataFrame
    unreadable: pd.DataFrame
    sha256: str


def pixels_of(path: Path) -> NDArray[np.uint8]:
    """Memory-map a store's pixels, N×size×size, read only."""
    return np.asarray(np.load(path / "pixels.npy", mmap_mode="r"))


def prepare(
    dataset: Dataset, table: pd.DataFrame, root: Path, workers: int, progress: Progress
) -> Store:
    """Return the store of ``dataset``, building it if it is not there yet.

    Args:
        dataset: where pixels come from.
        table: its validated table.
        root: the folder of all stores.
        workers: processes that decode; 0 decodes in this one.
        progress: called with the images done and their number.

    Raises:
        DataError: if no image can be read, or the disk cannot take the pixels.
    """
    identity = {
        "table": table_sha256(table),
        "dataset": dataset.recipe(table["image"].tolist()),
        "pixels": pixels.RECIPE,
        "size": dataset.size,
        "aspect": dataset.aspect,
    }
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    path = root.expanduser() / key[:32]
    if not path.is_dir():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(path.with_suffix(".lock")):
                if not path.is_dir():  # another process may have built it while this one waited
                    _build(dataset, table, path, workers, progress)
        except OSError as error:
            raise DataError(f"store: cannot write {path.parent}: {error.strerror}") from None
    return _open(path)


def _open(path: Path) -> Store:
    meta = json.loads((path / "meta.json").read_text())
    table = pd.read_parquet(path / "table.parquet")
    return Store(path, table, pd.read_csv(path / "unreadable.csv"), meta["sha256"])


def _build(
    dataset: Dataset, table: pd.DataFrame, path: Path, workers: int, progress: Progress
) -> None:
    partial = path.with_suffix(".partial")
    partial.mkdir(exist_ok=True)
    images = table["image"].to_numpy()
    chunks = [slice(i, i + CHUNK) for i in range(0, len(images), CHUNK)]
    shape = (len(images), dataset.size, dataset.size)
    if not (partial / "pixels.npy").exists():
        np.lib.format.open_memmap(partial / "pixels.npy.new", "w+", np.uint8, shape).flush()
        (partial / "pixels.npy.new").rename(partial / "pixels.npy")
    todo = [i for i in range(len(chunks)) if not (partial / f"{i}.json").exists()]
    done = len(images) - sum(len(images[chunks[i]]) for i in todo)
    progress(done, len(images))
    tasks = [(i, images[chunks[i]].tolist(), i * CHUNK) for i in todo]
    for i in _decode(dataset, partial, tasks, workers):
        done += len(images[chunks[i]])
        progress(done, len(images))
    _seal(table, partial, len(chunks))
    partial.rename(path)


def _decode(
    dataset: Dataset, partial: Path, tasks: list[tuple[int, list[str], int]], workers: int
) -> Iterator[int]:
    if workers == 0:
        yield from (_decode_chunk(dataset, partial, *task) for task in tasks)
    elif tasks:
        with ProcessPoolExecutor(workers, context(), leave_with_parent) as pool:
            futures = [pool.submit(_decode_chunk, dataset, partial, *task) for task in tasks]
            for future in as_completed(futures):
                yield future.result()


def _decode_chunk(dataset: Dataset, partial: Path, chunk: int, images: list[str], at: int) -> int:
    """Decode ``images`` into rows ``at``… and leave the failures, with reasons, as a mark."""
    target = np.lib.format.open_memmap(partial / "pixels.npy", "r+")
    failures = {}
    for row, image in enumerate(images, at):
        try:
            target[row] = pixels.fit(dataset.read(image), dataset.size, dataset.aspect)
        except UnreadableImage as error:
            failures[image] = str(error)
    target.flush()
    mark = partial / f"{chunk}.json"
    mark.with_suffix(".new").write_text(json.dumps(failures))
    mark.with_suffix(".new").rename(mark)
    return chunk


def _seal(table: pd.DataFrame, partial: Path, chunks: int) -> None:
    """List what could not be read, and write the table and the hash of the rest."""
    failures: dict[str, str] = {}
    for i in range(chunks):
        failures |= json.loads((partial / f"{i}.json").read_text())
    readable = ~table["image"].isin(failures).to_numpy()
    if not readable.any():
        raise DataError(f"no image could be read; the first: {next(iter(failures.items()))}")
    table = table[readable]
    table.to_parquet(partial / "table.parquet")
    rows = [{"image": image, "reason": reason} for image, reason in failures.items()]
    pd.DataFrame(rows, columns=["image", "reason"]).to_csv(partial / "unreadable.csv", index=False)
    decoded = pixels_of(partial)
    digest = hashlib.sha256(table_sha256(table).encode())
    for start in range(0, len(table), 4096):
        digest.update(decoded[table.index[start : start + 4096]].tobytes())
    (partial / "meta.json").write_text(json.dumps({"sha256": digest.hexdigest()}))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that the system frees with the process, whatever ends it."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
