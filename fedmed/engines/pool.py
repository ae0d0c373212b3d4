"""Worker processes for the local engine, any of which may die without the others.

Each has a pipe of its own, so that what a dead one was at is known and no lock dies with it. A
thread hands out the work, so that no worker waits while this process averages. With no workers the
work is done here, when its result is asked for.

It is not how images are decoded (``data/decoding.py``), though both have the same processes: there
a worker tells of each image of a chunk, its death is that of one image after which another worker
goes on, and nobody averages meanwhile. Here a task is done or it is not, and is never tried again.
"""

import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from fedmed.core.errors import FedmedError
from fedmed.core.processes import Worker, await_end, context
from fedmed.engines.waiting import Say, Waiting

log = logging.getLogger(__name__)

LOOK = 1.0  # seconds between two looks at processes that are waited for
SAID, GONE = 5, 300  # looks after which a stopped process is told of, and counts as dead
STOPPED = ("T", "t")
DEAD = "a worker process died, killed or out of memory; fewer runner.workers need less of it"


class WorkerDied(Exception):
    """The process that was at a task has ended: killed, or out of memory."""


class Result(Protocol):
    """What will be known when a task is done."""

    def result(self, timeout: float | None = None) -> Any:
        """Return it; raises TimeoutError, WorkerDied, or what the task raised."""


class Pool(Protocol):
    """Where tasks are done, in the order of their submission."""

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Result:
        """Have ``function(*arguments)`` called."""

    def wait(self, result: Any, timeout: float | None, waiting: Waiting) -> Any:
        """Return a result as it does itself; say in ``waiting`` that it is waited for."""

    def abandon(self, result: Any) -> None:
        """Give a task up, whatever it takes."""

    def close(self) -> None:
        """End."""


class Workers:
    """A pool of processes.

    Args:
        n: how many.
        start: called in each of them with its number, before its first task.
        say: called with a line for a person, when a process is stopped (SIGSTOP).
    """

    def __init__(self, n: int, start: Callable[[int], None], say: Say = log.warning) -> None:
        self._say = say
        self._woken, self._wake = context().Pipe(duplex=False)
        self._tasks: deque[_Task] = deque()
        self._lock = threading.Lock()  # on who is at what
        self._team = [_Worker(index, start) for index in range(n)]
        self._open = True
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":  # noqa: D102
        task = _Task(function, arguments, Future())
        self._tasks.append(task)
        self._wake.send(None)
        return task.result

    def wait(self, result: "Future[Any]", timeout: float | None, waiting: Waiting) -> Any:
        """Return a result; look at the processes while it is not there.

        One that is stopped is told of, and counts as dead when it does not go on. Slow ones are
        waited for, whatever they take.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            left = LOOK if end is None else min(LOOK, max(end - time.monotonic(), 0))
            try:
                return result.result(left)
            except TimeoutError:
                if end is not None and time.monotonic() >= end:
                    raise
            for worker in self._team:
                worker.look(self._say)
            waiting.go_on()

    def abandon(self, result: "Future[Any]") -> None:
        """Forget a task that waits; end the process that is at it, which a new one replaces."""
        with self._lock:
            if not result.cancel():
                for worker in self._team:
                    if worker.task and worker.task.result is result:
                        worker.kill()

    def close(self) -> None:
        """End the processes; they hold nothing that is not handed over."""
        self._open = False
        self._wake.send(None)
        self._thread.join()
        for worker in self._team:
            worker.kill()

    def _serve(self) -> None:
        while self._open:
            with self._lock:
                self._hand_out()
            living = [worker for worker in self._team if worker.pipe]
            ends = [end for worker in living for end in (worker.pipe, worker.sentinel) if end]
            heard = connection.wait([self._woken, *ends])
            if self._woken in heard:
                self._woken.recv()
            with self._lock:
                for worker in living:
                    if worker.pipe in heard or worker.sentinel in heard:
                        worker.hear()

    def _hand_out(self) -> None:
        for worker in self._team:
            while self._tasks and worker.task is None:
                task = self._tasks.popleft()
                if task.result.set_running_or_notify_cancel():
                    worker.give(task)


class Inline:
    """A pool of this process alone."""

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Deferred":  # noqa: D102
        return Deferred(function, arguments)

    def wait(self, result: "Deferred", timeout: float | None, waiting: Waiting) -> Any:
        """Return what the call returns."""
        return result.result(timeout)

    def abandon(self, result: "Deferred") -> None:
        """Do nothing: what is not asked for is not begun."""

    def close(self) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class Deferred:
    """A call that is made when its result is asked for."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]

    def result(self, timeout: float | None = None) -> Any:
        """Return what the call returns; one that took longer than ``timeout`` counts for nothing.

        Raises:
            TimeoutError: if it did, or no time is left to begin.
        """
        began = time.monotonic()
        if timeout is not None and timeout <= 0:
            raise TimeoutError
        value = self.function(*self.arguments)
        if timeout is not None and time.monotonic() - began > timeout:
            raise TimeoutError
        return value


@dataclass
class _Task:
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    result: "Future[Any]"


class _Worker:
    """A process, the task it is at, and the next process when it has died.

    Attributes:
        task: what it is at.
        pipe: to it; None between its death and the next task.
    """

    def __init__(self, index: int, start: Callable[[int], None]) -> None:
        self._arguments = index, start
        self.task: _Task | None = None
        self.pipe: Connection | None = None
        self._stopped = 0  # how often it was looked at and stopped, without going on
        self._begin()

    def give(self, task: _Task) -> None:
        """Hand over a task, to a new process if there is none."""
        self.task = task
        if self.pipe is None:
            self._begin()
        assert self.pipe
        with suppress(BrokenPipeError):  # it has just died, which hear() is told too
            self.pipe.send((task.function, task.arguments))

    def hear(self) -> None:
        """Take in a result, or the process's death."""
        assert self.pipe
        try:
            if not self.pipe.poll():
                raise EOFError  # it has ended, though another process may hold its pipe
            done, value = self.pipe.recv()
        except Exception:  # it has ended, or what it says makes no sense
            await_end()
            self.kill()
            self.pipe.close()
            self.pipe = None
            done, value = False, WorkerDied()
        task, self.task = self.task, None
        if task and done:
            task.result.set_result(value)
        elif task:
            task.result.set_exception(value)

    @property
    def sentinel(self) -> int:
        """What is ready to be read once the process has ended."""
        return self._worker.process.sentinel

    def look(self, say: Say) -> None:
        """Tell of a process that is stopped, and end one that does not go on."""
        process = self._worker.process
        state = _state(process.pid)
        self._stopped = self._stopped + 1 if state in STOPPED else 0
        if self._stopped == SAID:
            say(
                f"worker process {process.pid} is stopped (by SIGSTOP or a debugger): kill "
                f"-CONT {process.pid} lets it go on, or it counts as dead in {GONE:g} s"
            )
        if self._stopped == GONE:
            process.kill()

    def kill(self) -> None:
        """End the process."""
        self._worker.kill()

    def _begin(self) -> None:
        self._worker = Worker(_work, *self._arguments)
        self.pipe = self._worker.pipe
        self._stopped = 0


def _state(process: int | None) -> str:
    """Return the letter of a process's state, as ps shows it; nothing where that is not known."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def _work(parent: Connection, index: int, start: Callable[[int], None]) -> None:
    """Do the tasks that come."""
    start(index)
    while True:
        function, arguments = parent.recv()
        try:
            answer = True, function(*arguments)
        except FedmedError as error:
            answer = False, error
        except Exception:
            answer = False, RuntimeError(traceback.format_exc())
        parent.send(answer)
