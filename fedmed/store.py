"""The store: every image decoded once to uint8, memory-mapped, shared by all runs and workers.

Of a table of measurements it holds the features, float32, in the place of pixels.

A store is a folder named by the hash of its images, pixel recipe and size, so that tables which
differ in labels or splits share it. It is built beside its final place and renamed when whole; a
build that was cut off goes on where it stopped. It holds pixels and nothing else: no name, no id.
"""

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedmed import pixels
from fedmed.decoding import Chunk, decode
from fedmed.errors import DataError
from fedmed.table import Dataset, table_sha256

CHUNK = 64  # images a task: what is lost when a build is cut off, for each process
HASHED = 1 << 24  # bytes hashed at once
Progress = Callable[[int, int], None]
Pixels = NDArray[np.uint8] | NDArray[np.float32]


@dataclass(frozen=True)
class Store:
    """A prepared dataset.

    Attributes:
        path: its folder.
        table: the rows whose image could be read; its index is their place among the pixels.
        unreadable: ``image`` and ``reason`` of the rows left out.
        sha256: the hash of table and pixels.
    """

    path: Path
    table: pd.DataFrame
    unreadable: pd.DataFrame
    sha256: str


def pixels_of(path: Path) -> Pixels:
    """Memory-map a store's pixels, N×size×size, or features, N×F, read only."""
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
        DataError: if no image can be read, two rows are one file, or the disk cannot take the
            pixels.
    """
    images = table["image"].tolist()
    refuse_shared(dataset, images)
    identity = {
        "images": images,
        "dataset": dataset.recipe(images),
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
    return opened(path, table)


def refuse_shared(dataset: Dataset, images: Sequence[str]) -> None:
    """Raise DataError if two images are one file, by whatever names and links."""
    first: dict[tuple[int, int, str], str] = {}
    for image in images:
        origin = dataset.origin(image)
        try:
            stat = origin.path.stat() if origin else None
        except (OSError, ValueError):  # reading it tells why
            stat = None
        if origin is None or stat is None:
            continue
        other = first.setdefault((stat.st_dev, stat.st_ino, origin.part), image)
        if other != image:
            raise DataError(
                f"{dataset.card.title}: the images {other} and {image} are one file, "
                f"{origin.path}; each image is of one patient, and there once"
            )


def opened(path: Path, table: pd.DataFrame) -> Store:
    """Return the store in a folder; ``table`` has a row for each of its pixels."""
    meta = json.loads((path / "meta.json").read_text())
    reasons = {int(row): reason for row, reason in meta["unreadable"].items()}
    unreadable = table.loc[list(reasons), ["image"]].assign(reason=list(reasons.values()))
    readable = table.drop(index=list(reasons))
    digest = hashlib.sha256(f"{table_sha256(readable)}{meta['pixels_sha256']}".encode())
    return Store(path, readable, unreadable, digest.hexdigest())


def _build(
    dataset: Dataset, table: pd.DataFrame, path: Path, workers: int, progress: Progress
) -> None:
    partial = path.with_suffix(".partial")
    partial.mkdir(exist_ok=True)
    images = table["image"].tolist()
    target = partial / "pixels.npy"
    if not target.exists():
        kind = np.uint8 if len(dataset.shape) == 2 else np.float32
        shape = (len(images), *dataset.shape)
        np.lib.format.open_memmap(partial / "pixels.npy.new", "w+", kind, shape).flush()
        (partial / "pixels.npy.new").rename(target)
    chunks = [Chunk(row, images[row : row + CHUNK]) for row in range(0, len(images), CHUNK)]
    todo = [chunk for chunk in chunks if not _mark(partial, chunk).exists()]
    done = len(images) - sum(len(chunk.images) for chunk in todo)
    progress(done, len(images))
    for chunk in decode(dataset, target, todo, workers):
        mark = _mark(partial, chunk)
        mark.with_suffix(".new").write_text(json.dumps(chunk.failures))
        mark.with_suffix(".new").rename(mark)
        done += len(chunk.images)
        progress(done, len(images))
    marks = [json.loads(_mark(partial, chunk).read_text()) for chunk in chunks]
    seal(partial, {row: reason for mark in marks for row, reason in mark.items()})
    partial.rename(path)
    for chunk in chunks:
        _mark(path, chunk).unlink(missing_ok=True)


def _mark(partial: Path, chunk: Chunk) -> Path:
    """Return the file that says that a chunk is done, and which of its images failed."""
    return partial / f"{chunk.first}.json"


def seal(partial: Path, unreadable: dict[str, str]) -> None:
    """Keep the reason of each row that could not be read, and the hash of all pixels."""
    decoded = pixels_of(partial)
    if len(unreadable) == len(decoded):
        raise DataError(f"no image could be read; the first: {next(iter(unreadable.values()))}")
    digest = hashlib.sha256()
    step = max(1, HASHED // decoded[0].nbytes)
    for start in range(0, len(decoded), step):
        digest.update(decoded[start : start + step].tobytes())
    meta = {"pixels_sha256": digest.hexdigest(), "unreadable": unreadable}
    (partial / "meta.json").write_text(json.dumps(meta))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that the system frees with the process, whatever ends it."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
