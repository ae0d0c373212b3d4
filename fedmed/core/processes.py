"""Worker processes: forked from a server that has imported what is slow, gone with their parent."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import connection, forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from types import FrameType
from typing import Any

WORKER = "fedmed.client.app"  # imports all that a worker needs, but for
SLOW = ("monai.networks.nets", "sklearn.metrics")  # which are imported where they are used
#: What Slurm sends ahead of KILL: on preemption, and ahead of the time limit.
WARNINGS = {signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}
ENDING = 60.0  # seconds after a warning in which who was warned is killed
_warned = threading.Event()
_naming = threading.Lock()


class Process(ForkServerProcess):
    """A process that imports nothing of the script which starts it.

    Multiprocessing would import that script anew in every process, and so begin again whatever it
    does where it does not ask for ``__name__``, as few scripts and no notebook do.
    """

    def start(self) -> None:
        """Start it."""
        with _nameless_main():
            super().start()


class _Context(ForkServerContext):
    Process = Process


@contextmanager
def _nameless_main() -> Iterator[None]:
    """Let the main module be none that could be imported."""
    names = vars(sys.modules["__main__"])
    with _naming:
        file, spec = names.pop("__file__", None), names.get("__spec__")
        names["__spec__"] = None
        try:
            yield
        finally:
            names["__spec__"] = spec
            if file is not None:
                names["__file__"] = file


def context(preload: str = WORKER) -> ForkServerContext:
    """Return the way processes are started: forked from a process that never ran a thread.

    It is started once and has imported ``preload`` and what is slow. Forking the main process would
    carry over locks held by its threads (progress bar, wandb); spawning would import MONAI anew in
    each worker, 5 s every time.
    """
    started = _Context()
    started.set_forkserver_preload([preload, *SLOW])
    with sheltered():
        forkserver.ensure_running()
    return started


class Worker:
    """A process that does what it is sent, until it is killed.

    It is deaf to Ctrl-C, which is for its parent to act upon, and ends when its parent does,
    however that dies. What one does of many tasks, and what its death means, is for its pool to
    say: ``engines/pool.py`` has a client's message answered or not, ``data/decoding.py`` goes on
    after the image that a worker died of.

    Args:
        work: called in the process with its end of the pipe and the arguments; it does not return.
        arguments: what else it takes.

    Attributes:
        pipe: to the process.
        process: which has begun.
    """

    def __init__(self, work: Callable[..., None], *arguments: Any) -> None:
        self.pipe, theirs = context().Pipe()
        self.process = context().Process(target=_work, args=(work, theirs, *arguments), daemon=True)
        self.process.start()
        theirs.close()

    def kill(self) -> None:
        """End the process, which is to hold nothing that is not handed over."""
        self.process.kill()
        self.process.join()


def _work(work: Callable[..., None], *arguments: Any) -> None:
    leave_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    work(*arguments)


def warm_up(preload: str = WORKER) -> None:
    """Begin to import in the fork server what workers need, beside this process's own imports."""
    context(preload)


@contextmanager
def sheltered() -> Iterator[None]:
    """Start processes that are deaf to :data:`WARNINGS`.

    A cluster sends them to every process of a job that is to end soon. What becomes of the run is
    for its main process to decide: helpers that went at once would make it fail. The mask passes
    to what is started, and on to what that starts.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, WARNINGS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def listen() -> None:
    """Hear the warnings again, in a process that a fork server has started as a run of its own."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, WARNINGS)


def remember_warnings() -> None:
    """Note in this process when TERM comes, and let whoever handled it before handle it still."""
    before = signal.getsignal(signal.SIGTERM)

    def note(number: int, frame: FrameType | None) -> None:
        _warned.set()
        if callable(before):
            before(number, frame)

    signal.signal(signal.SIGTERM, note)


def await_end() -> None:
    """Wait for the end that this process was warned of; return at once if it was not.

    A cluster that ends a job kills its processes one by one. Who sees a helper go first must not
    call the run failed: it is to be queued again.
    """
    if _warned.is_set():
        time.sleep(ENDING)


def leave_with_parent() -> None:
    """End this process when the one that asked for it dies, however it dies."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "only worker processes have a parent"

    def wait() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
