"""The local engine: Flower's Grid over a pool of one-thread worker processes.

Flower draws node ids from the operating system and hands out replies as they arrive. Here nodes
are the clients in order, and replies come back in that order: the reason why any Flower strategy
repeats to the bit.
"""

import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import torch
from flwr.app import ArrayRecord, Error, Message, RecordDict

from fedmed import config as cfg
from fedmed import flower, trees
from fedmed.errors import FedmedError
from fedmed.metrics import Floats
from fedmed.processes import context
from fedmed.runner import worker
from fedmed.runner.engine import Engine
from fedmed.runner.worker import Order, RunConfig
from fedmed.workplace import device

SHARD = 512  # test images a task; fixed, so that scores do not depend on the number of workers
CLIENT_ERROR = 1

T = TypeVar("T")


class LocalEngine(Engine):
    """The federation on this machine.

    Args:
        runner: how many workers, on which device.
        run_config: what the client app is told about the run.
        sizes: training images of each client: the largest start first.
        test_images: size of the test split.
    """

    def __init__(
        self,
        runner: cfg.Local,
        run_config: RunConfig,
        sizes: Sequence[int],
        test_images: int,
    ) -> None:
        super().__init__(len(sizes), run_config)
        self._sizes = sizes
        self._test_images = test_images
        self._scratch = tempfile.TemporaryDirectory(prefix="fedmed-")
        self._contents = 0
        self._pool = _start_pool(n) if (n := workers(runner)) else None
        flower.host()
        torch.set_num_threads(1)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._pool:
            self._pool.shutdown(wait=error is None, cancel_futures=True)
        self._scratch.cleanup()

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Deliver the messages and return the replies in the order of the clients.

        A client that raises is answered for by an error reply with its traceback.

        Raises:
            FedmedError: if a worker process dies.
        """
        messages = sorted(messages, key=lambda m: m.metadata.dst_node_id)
        files: dict[int, Path] = {}  # one file a content, however many its receivers
        orders = []
        for message in messages:
            if id(message.content) not in files:
                files[id(message.content)] = self._share(message.content)
            orders.append(self._order(message, files[id(message.content)]))
        longest_first = sorted(orders, key=lambda o: -self._sizes[self.client_of(o.node)])
        results = {order.node: self._submit(worker.play, order) for order in longest_first}
        replies = []
        for message in messages:  # in order, so that of several failures always the same is told
            replies.append(self._reply(message, results[message.metadata.dst_node_id]()))
            self.on_reply(replies[-1])
        for file in files.values():
            file.unlink()
        return replies

    def score(self, arrays: ArrayRecord) -> Floats:
        """Return the probabilities, N×T, of the test images under ``arrays``."""
        file = self._share(RecordDict({"arrays": arrays}))
        starts = range(0, self._test_images, SHARD)
        shards = [self._submit(worker.score, file, i, i + SHARD, self._run_config) for i in starts]
        scores = np.concatenate([shard() for shard in shards])
        file.unlink()
        return scores

    def _share(self, content: RecordDict) -> Path:
        self._contents += 1
        path = Path(self._scratch.name) / f"{self._contents}.safetensors"
        trees.save(content, path, durable=False)
        return path

    def _order(self, message: Message, content: Path) -> Order:
        metadata = message.metadata
        return Order(content, metadata.message_type, metadata.dst_node_id, self._sent(message))

    def _submit(self, function: Callable[..., T], *arguments: Any) -> Callable[[], T]:
        """Return what waits for the result; without a pool, the waiting is the work."""
        if not self._pool:
            return partial(function, *arguments)
        try:
            return partial(_result, self._pool.submit(function, *arguments))
        except BrokenProcessPool:
            raise FedmedError(_DEAD) from None

    def _reply(self, message: Message, content: RecordDict | str) -> Message:
        if isinstance(content, str):
            return Message(Error(CLIENT_ERROR, content), reply_to=message)
        return self._received(message, content)


_DEAD = (
    "a worker process died, killed or out of memory; what the last checkpoint holds is safe: "
    "run the same command again, with fewer runner.workers if memory is short"
)


def workers(runner: cfg.Runner) -> int:
    """Return the number of worker processes: as configured, or one a core or GPU share."""
    if runner.workers != "auto":
        return int(runner.workers)
    if isinstance(runner, cfg.Local) and device(runner).type == "cuda":
        return torch.cuda.device_count() * runner.clients_per_gpu
    cores = len(os.sched_getaffinity(0))
    return min(cores, int(os.environ.get("SLURM_CPUS_PER_TASK", cores)))  # not all bind their jobs


def _start_pool(n: int) -> ProcessPoolExecutor:
    started = context()
    return ProcessPoolExecutor(n, started, worker.start, (started.Value("i", 0),))


def _result(future: "Future[T]") -> T:
    try:
        return future.result()
    except BrokenProcessPool:
        raise FedmedError(_DEAD) from None
