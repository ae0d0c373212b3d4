"""The local engine: Flower's Grid over a pool of one-thread worker processes.

Flower draws node ids from the operating system and hands out replies as they arrive. Here nodes
are the clients in order, and replies come back in that order: the reason why any Flower strategy
repeats to the bit.
"""

import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from flwr.app import ArrayRecord, Error, Message, RecordDict

from fedmed import config as cfg
from fedmed.client.context import device
from fedmed.core.errors import FedmedError
from fedmed.engines import worker
from fedmed.engines.pool import Inline, Pool, Result, WorkerDied, Workers
from fedmed.engines.waiting import Waiting
from fedmed.engines.worker import Order, RunConfig
from fedmed.evaluation.metrics import Floats
from fedmed.federation.engine import Engine
from fedmed.federation.faults import DIED, LATE, RAISED
from fedmed.flower import process, serialization

SHARD = 512  # test images a task; fixed, so that scores do not depend on the number of workers
AHEAD = 8  # clients for each worker that may be begun before the first of them is averaged


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
        n = workers(runner)
        self._pool: Pool = (
            Workers(n, partial(worker.start, runner.deterministic), lambda text: self.say(text))
            if n
            else Inline()
        )
        self._ahead = AHEAD * max(n, 1)
        process.host()
        torch.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        self._pool.close()
        self._scratch.cleanup()

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Deliver the messages and yield the replies in the order of the clients.

        A client that raises, whose process dies or that takes until ``timeout`` is answered for by
        an error reply. Later clients train while an earlier one's reply is looked at. Replies wait
        for their turn on the disk, and no client is begun much before its turn, so that neither
        memory nor disk grows with the cohort.
        """
        messages = sorted(messages, key=lambda m: m.metadata.dst_node_id)
        end = None if timeout is None else time.monotonic() + timeout
        with self._shared(m.content for m in messages) as files:
            waiting = iter(self._longest_first(messages))
            results = {}

            def begin(n: int) -> None:
                for message in islice(waiting, n):
                    order = self._order(message, files[id(message.content)])
                    results[order.node] = order, self._pool.submit(worker.play, order)

            begin(self._ahead)
            for message in messages:
                yield self._reply(message, *results.pop(message.metadata.dst_node_id), end)
                begin(1)

    def score(self, arrays: ArrayRecord) -> Floats:
        """Return the probabilities, N×T, of the test images under ``arrays``.

        Raises:
            FedmedError: if a worker process dies.
        """
        content = RecordDict({"arrays": arrays})
        starts = range(0, self._test_images, SHARD)
        with self._shared([content]) as files:
            file, told = files[id(content)], self._run_config
            shards = [self._pool.submit(worker.score, file, i, i + SHARD, told) for i in starts]
            try:
                waiting = Waiting("the scores of the test images", self.say)
                return np.concatenate([self._pool.wait(one, None, waiting) for one in shards])
            except WorkerDied:
                raise FedmedError(f"scoring the test images: {DEAD}") from None

    def _longest_first(self, messages: list[Message]) -> list[Message]:
        """Return the order to begin in: the last ones so that the workers end together."""
        rest = len(messages) - self._ahead
        last = sorted(messages[max(rest, 0) :], key=lambda m: -self._size(m))
        return messages[: max(rest, 0)] + last

    def _size(self, message: Message) -> int:
        return self._sizes[self.client_of(message.metadata.dst_node_id)]

    @contextmanager
    def _shared(self, contents: Iterable[RecordDict]) -> Iterator[dict[int, Path]]:
        """Leave each content in a file, however many its receivers."""
        files: dict[int, Path] = {}
        try:
            for content in contents:
                if id(content) not in files:
                    files[id(content)] = self._scratch_file()
                    serialization.save(content, files[id(content)], durable=False)
            yield files
        finally:
            for file in files.values():
                file.unlink(missing_ok=True)

    def _scratch_file(self) -> Path:
        self._contents += 1
        return Path(self._scratch.name) / f"{self._contents}.safetensors"

    def _order(self, message: Message, content: Path) -> Order:
        metadata = message.metadata
        return Order(
            content,
            self._scratch_file(),
            metadata.message_type,
            metadata.dst_node_id,
            self._sent(message),
        )

    def _reply(self, message: Message, order: Order, result: Result, end: float | None) -> Message:
        try:
            left = None if end is None else max(end - time.monotonic(), 0)
            client = self.client_of(message.metadata.dst_node_id)
            failure = self._pool.wait(result, left, Waiting(f"client {client}", self.say))
        except TimeoutError:
            self._pool.abandon(result)
            return Message(Error(LATE, "no answer in time"), reply_to=message)
        except WorkerDied:
            return Message(Error(DIED, DEAD), reply_to=message)
        if failure:
            return Message(Error(RAISED, failure), reply_to=message)
        content = serialization.load(order.reply, durable=False)
        order.reply.unlink()
        return self._received(message, content)


DEAD = "a worker process died, killed or out of memory; fewer runner.workers need less of it"


def workers(runner: cfg.Runner) -> int:
    """Return the number of worker processes: as configured, or one a core or GPU share."""
    if not isinstance(runner, cfg.Deployment) and runner.workers != "auto":
        return int(runner.workers)
    if isinstance(runner, cfg.Local) and device(runner).type == "cuda":
        return torch.cuda.device_count() * runner.clients_per_gpu
    cores = len(os.sched_getaffinity(0))
    return min(cores, int(os.environ.get("SLURM_CPUS_PER_TASK", cores)))  # not all bind their jobs
