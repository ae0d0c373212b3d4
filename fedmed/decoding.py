"""Decoding in worker processes that no broken image takes along.

A decoder written in C may crash, hang or ask for all the memory there is. Workers tell of every
image as it is done, so that the one at which a worker died, or stayed too long, is known: it is
left out with the reason, and a new worker goes on after it.
"""

import os
import resource
import signal
import time
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from multiprocessing import connection
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from fedmed import pixels
from fedmed.errors import FedmedError, UnreadableImage
from fedmed.processes import context, leave_with_parent
from fedmed.table import Dataset

SECONDS = 120.0  # an image may take, several times what the largest that is read does
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
        done: how many of them have been tried.
        failures: the rows of those that could not be read, and why.
    """

    first: int
    images: list[str]
    done: int = 0
    failures: dict[int, str] = field(default_factory=dict)

    def note(self, failure: str | None) -> None:
        """Note what became of the next image."""
        if failure is not None:
            self.failures[self.first + self.done] = failure
        self.done += 1


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
        for failure in _decoded(dataset, target, chunk.first, chunk.images):
            chunk.note(failure)
        yield chunk


def _decoded(
    dataset: Dataset, target: Path, first: int, images: Sequence[str]
) -> Iterator[str | None]:
    """Decode into the rows from ``first``; yield for each image why it could not be read, if so.

    Rows are written, not mapped: a full disk is then an error instead of the end of the process.
    """
    header = np.load(target, mmap_mode="r").offset
    with target.open("r+b", buffering=0) as file:
        for row, image in enumerate(images, first):
            try:
                fitted = dataset.read(image)
                if fitted.dtype == np.uint8:
                    fitted = pixels.fit(fitted, dataset.size, dataset.aspect)
            except UnreadableImage as error:
                yield str(error)
            except MemoryError:
                yield f"needs more than {MEMORY >> 30} GiB of memory"
            else:
                file.seek(header + row * fitted.nbytes)
                file.write(fitted.tobytes())
                yield None
        os.fsync(file.fileno())


def _in_workers(
    dataset: Dataset, target: Path, chunks: Sequence[Chunk], workers: int
) -> Iterator[Chunk]:
    waiting = deque(chunks)
    team = [_Worker(dataset, target, waiting.popleft()) for _ in range(min(workers, len(waiting)))]
    try:
        while team:
            heard = connection.wait([worker.connection for worker in team], timeout=1)
            for worker in [worker for worker in team if worker.connection in heard]:
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
        self.connection, theirs = context().Pipe()
        self._process = context().Process(
            target=_work, args=(*self._arguments, theirs), daemon=True
        )
        self._process.start()
        theirs.close()
        self.give(chunk)
        self._since: float | None = None  # starting takes what it takes

    def give(self, chunk: Chunk) -> None:
        """Have what is left of a chunk decoded."""
        self.chunk = chunk
        self._since = time.monotonic()
        self.connection.send((chunk.first + chunk.done, chunk.images[chunk.done :]))

    def hear(self) -> bool:
        """Take in one message; say whether the chunk is done."""
        try:
            said, what = self.connection.recv()
        except (EOFError, ConnectionError):
            self._replace("the decoder crashed")
            return False
        self._since = time.monotonic()
        if said is Said.ERROR:
            raise what
        if said is Said.IMAGE:
            self.chunk.note(what)
        return said is Said.DONE

    def check_time(self) -> None:
        """Replace the process if it is too long at an image."""
        if self._since is None or self.connection.poll():
            return
        if time.monotonic() - self._since > SECONDS and self.chunk.done < len(self.chunk.images):
            self._replace(f"decoding took more than {SECONDS:g} s")

    def end(self) -> None:
        """End the process, which holds nothing that is not on disk."""
        self._process.kill()
        self._process.join()
        self.connection.close()

    def _replace(self, failure: str) -> None:
        self.end()
        if self._since is None:
            raise FedmedError("store: the processes that decode end before they begin; see above")
        if self.chunk.done < len(self.chunk.images):
            self.chunk.note(failure)
        self._start(self.chunk)


def _work(dataset: Dataset, target: Path, parent: Connection) -> None:
    """Decode what ``parent`` sends: the first row, and images."""
    leave_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    _limit_memory()
    parent.send((Said.STARTED, None))
    while True:
        first, images = parent.recv()
        try:
            for failure in _decoded(dataset, target, first, images):
                parent.send((Said.IMAGE, failure))
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
