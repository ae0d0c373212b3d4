"""Worker processes: forked from a server that has imported what is slow, gone with their parent."""

import multiprocessing
import os
import threading
from multiprocessing import connection, forkserver
from multiprocessing.context import ForkServerContext

WORKER = "fedmed.client.app"  # imports all that a worker needs


def context(preload: str = WORKER) -> ForkServerContext:
    """Return the way processes are started: forked from a process that never ran a thread.

    It is started once and has imported ``preload``. Forking the main process would carry over locks
    held by its threads (progress bar, wandb); spawning would import MONAI anew in each worker, 5 s
    every time.
    """
    started = multiprocessing.get_context("forkserver")
    started.set_forkserver_preload([preload])
    return started


def warm_up(preload: str = WORKER) -> None:
    """Begin to import in the fork server what workers need, beside this process's own imports."""
    context(preload)
    forkserver.ensure_running()


def leave_with_parent() -> None:
    """End this process when the one that asked for it dies, however it dies."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "only worker processes have a parent"

    def wait() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
