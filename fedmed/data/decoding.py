"""Decoding in worker processes that no broken image takes along.

What is decoded is hashed too, so that a store knows the very bytes that its pixels are made of.

A decoder written in C may crash, hang or ask for all the memory there is. Workers tell of every
image as it is done, so that the one at which a worker died, or stayed too long, is known: it is
left out with the reason, and a new worker goes on after it. That is why this is not the pool of the
engine (``engines/pool.py``), whose workers tell of nothing but the end of a task.
"""

import os
import resource
import time
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import lru_cache
from multiprocessing import connection
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmed.core.errors import FedmedError, UnreadableImage
from fedmed.core.processes import Worker
from fedmed.data import pixels
from fedmed.data.contents import Look, Tried, look, sha256
from fedmed.data.table import Dataset

SECONDS = 120.0  # an image may take, several times what the largest that is read does
ATTEMPTS = 3  # at a file that changes while it is read
MEMORY = 4 << 30  # bytes a worker may take beyond what it starts with


class Said(Enum):
    """What a worker tells: it has started, an image is tried, a chunk is on disk, all is wrong."""

    STARTED = auto()
    IMAGE = auto()
    DONE = auto()
    ERROR = auto()


@dataclass
class Chunk:
    """Images to be decoded into neighbouring rows.

    Attributes:
        first: the row of its first image.
        images: their ids.
        tried: what became of the first of them.
    """

    first: int
    images: list[str]
    tried: list[Tried] = field(default_factory=list)

    @property
    def done(self) -> int:
        """How many images have been tried."""
        return len(self.tried)


def decode(
    dataset: Dataset, target: Path, chunks: Sequence[Chunk], workers: int
) -> Iterator[Chunk]:
    """Decode into ``target``, an ``.npy`` file of a row an image; yield each chunk that is there.

    Args:
        dataset: where pixels come from.
        target: the file, which is there already.
        chunks: what to decode.
        workers: processes to use; 0 decodes in this one, which is then not safe from a decoder.

    Raises:
        OSError: if the disk cannot take the pixels.
        Exception: whatever else than UnreadableImage the dataset raises.
    """
    if workers:
        yield from _in_workers(dataset, target, chunks, workers)
        return
    for chunk in chunks:
        chunk.tried += _decoded(dataset, target, chunk.first, chunk.images)
        yield chunk


def _decoded(dataset: Dataset, target: Path, first: int, images: Sequence[str]) -> Iterator[Tried]:
    """Decode into the rows from ``first``; yield for each image what became of it.

    Rows are written, not mapped: a full disk is then an error instead of the end of the process.
    """
    header = np.load(target, mmap_mode="r").offset
    with target.open("r+b", buffering=0) as file:
        for row, image in enumerate(images, first):
            tried, fitted = _attempt(dataset, image)
            if fitted is not None:
                file.seek(header + row * fitted.nbytes)
                file.write(fitted.tobytes())
            yield tried
        os.fsync(file.fileno())


def _attempt(dataset: Dataset, image: str) -> tuple[Tried, NDArray[Any] | None]:
    """Read an image; return what became of it, and what the store holds of it.

    The hash is of the bytes that were decoded: a file that changes meanwhile is read anew.
    """
    origin = dataset.origin(image)
    if origin is None:
        fitted, failure, lasting = _read(dataset, image)
        return Tried(None, None, failure, lasting), fitted
    try:
        for _ in range(ATTEMPTS):
            before = look(origin.path)
            trusted = before.trusted() if before else None
            digest = _sha256_of(origin.path, before, trusted) if before else None
            fitted, failure, lasting = _read(dataset, image)
            again = digest
            if digest and failure and origin.part:
                lasting = False  # to hash so large a file anew for each of its images is too much
            elif digest and (failure or trusted != before):
                again = sha256(origin.path)  # was it the bytes, or the reading of them?
            if look(origin.path) == before and again == digest:
                return Tried(trusted, digest, failure, lasting), fitted
        reason = "changes while it is read"
    except OSError as error:
        reason = error.strerror or "cannot be read"
    return Tried(None, None, reason, lasting=False), None


@lru_cache(maxsize=3)
def _sha256_of(path: Path, look: Look, trusted: Look) -> str | None:
    """Return a file's hash, found once for all images that it holds."""
    return sha256(path)


def _read(dataset: Dataset, image: str) -> tuple[NDArray[Any] | None, str | None, bool]:
    """Return what the store holds of an image; or None, why, and whether that will last."""
    try:
        fitted = dataset.read(image)
        if fitted.dtype == np.uint8:
            fitted = pixels.fit(fitted, dataset.size, dataset.aspect)
    except UnreadableImage as error:
        return None, str(error), True
    except MemoryError:
        return None, f"needs more than {MEMORY >> 30} GiB of memory", False
    return fitted, None, True


def _in_workers(
    dataset: Dataset, target: Path, chunks: Sequence[Chunk], workers: int
) -> Iterator[Chunk]:
    waiting = deque(chunks)
    team = [_Worker(dataset, target, waiting.popleft()) for _ in range(min(workers, len(waiting)))]
    try:
        while team:
            heard = connection.wait([worker.pipe for worker in team], timeout=1)
            for worker in [worker for worker in team if worker.pipe in heard]:
                if worker.hear():
                    yield worker.chunk
                    if waiting:
                        worker.give(waiting.popleft())
                    else:
                        worker.end()
                        team.remove(worker)
            for worker in team:
                worker.check_time()
    finally:
        for worker in team:
            worker.end()


class _Worker:
    """A process that decodes chunk after chunk, and is replaced when it dies of an image."""

    def __init__(self, dataset: Dataset, target: Path, chunk: Chunk) -> None:
        self._arguments = dataset, target
        self._start(chunk)

    def _start(self, chunk: Chunk) -> None:
        self._worker = Worker(_work, *self._arguments)
        self.pipe = self._worker.pipe
        self.give(chunk)
        self._since: float | None = None  # starting takes what it takes

    def give(self, chunk: Chunk) -> None:
        """Have what is left of a chunk decoded."""
        self.chunk = chunk
        self._since = time.monotonic()
        self.pipe.send((chunk.first + chunk.done, chunk.images[chunk.done :]))

    def hear(self) -> bool:
        """Take in one message; say whether the chunk is done."""
        try:
            said, what = self.pipe.recv()
        except (EOFError, ConnectionError):
            self._replace("the decoder crashed")
            return False
        self._since = time.monotonic()
        if said is Said.ERROR:
            raise what
        if said is Said.IMAGE:
            self.chunk.tried.append(what)
        return said is Said.DONE

    def check_time(self) -> None:
        """Replace the process if it is too long at an image."""
        if self._since is None or self.pipe.poll():
            return
        if time.monotonic() - self._since > SECONDS and self.chunk.done < len(self.chunk.images):
            self._replace(f"decoding took more than {SECONDS:g} s")

    def end(self) -> None:
        """End the process, which holds nothing that is not on disk."""
        self._worker.kill()
        self.pipe.close()

    def _replace(self, failure: str) -> None:
        self.end()
        if self._since is None:
            raise FedmedError("store: the processes that decode end before they begin; see above")
        if self.chunk.done < len(self.chunk.images):
            # Neither a crash nor a delay need be the image's fault: it is tried at each start.
            self.chunk.tried.append(Tried(None, None, failure, lasting=False))
        self._start(self.chunk)


def _work(parent: Connection, dataset: Dataset, target: Path) -> None:
    """Decode what ``parent`` sends: the first row, and images."""
    _limit_memory()
    parent.send((Said.STARTED, None))
    while True:
        first, images = parent.recv()
        try:
            for tried in _decoded(dataset, target, first, images):
                parent.send((Said.IMAGE, tried))
            parent.send((Said.DONE, None))
        except Exception as error:
            error.add_note("".join(traceback.format_exception(error)))
            parent.send((Said.ERROR, error))


def _limit_memory() -> None:
    """Have allocations fail beyond the limit, and leave no core dump, which would hold an image."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(FileNotFoundError):  # elsewhere than on Linux
        pages = int(Path("/proc/self/statm").read_text().split()[5])
        limit = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
