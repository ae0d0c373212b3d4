"""The local engine: a pool of one-thread worker processes on this machine.

Flower draws node ids from the operating system and hands out replies as they arrive. Here nodes
are the clients in order, and replies come back in that order: the reason why any Flower strategy
repeats to the bit.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice

import torch
from flwr.app import Error, Message

from fedmed import config as cfg
from fedmed.client.context import device
from fedmed.engines import worker
from fedmed.engines.contents import Contents
from fedmed.engines.pool import DEAD, Inline, Pool, Result, WorkerDied, Workers
from fedmed.engines.waiting import Say, Waiting
from fedmed.engines.worker import Request
from fedmed.federation.engine import Engine
from fedmed.federation.messages import DIED, LATE, RAISED, TaskSpec
from fedmed.flower import process, serialization

AHEAD = 8  # clients for each worker that may be begun before the first of them is averaged


class LocalEngine(Engine):
    """The federation on this machine.

    Args:
        runner: how many workers, on which device.
        sizes: training images of each client: the largest start first.
        say: called with a line for a person who waits.

    Attributes:
        pool: the workers, open to whatever else is to be computed.
    """

    def __init__(self, runner: cfg.Local, sizes: Sequence[int], say: Say) -> None:
        super().__init__(len(sizes))
        self._sizes = sizes
        self._say = say
        self._contents = Contents()
        n = workers(runner)
        self.pool: Pool = (
            Workers(n, partial(worker.start, runner.deterministic), say) if n else Inline()
        )
        self._ahead = AHEAD * max(n, 1)
        process.host()
        torch.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        self.pool.close()
        self._contents.close()

    def exchange(
        self,
        messages: Sequence[Message],
        tasks: Mapping[int, TaskSpec],
        timeout: float | None = None,
    ) -> Iterator[Message]:
        """Deliver messages and yield the replies in the order of the clients.

        A client that raises, whose process dies or that takes until ``timeout`` is answered for by
        an error reply. Later clients train while an earlier one's reply is looked at. Replies wait
        for their turn on the disk, and no client is begun much before its turn, so that neither
        memory nor disk grows with the cohort.

        Args:
            messages: at most one to a node; one content is written once for all its receivers.
            tasks: node → what its client is told beside.
            timeout: seconds; None waits for ever.
        """
        messages = sorted(messages, key=lambda m: m.metadata.dst_node_id)
        end = None if timeout is None else time.monotonic() + timeout
        with self._contents.shared(m.content for m in messages) as files:
            waiting = iter(self._longest_first(messages))
            results = {}

            def begin(n: int) -> None:
                for message in islice(waiting, n):
                    node = message.metadata.dst_node_id
                    request = Request(
                        files[id(message.content)],
                        self._contents.new(),
                        message.metadata.message_type,
                        node,
                        tasks[node],
                    )
                    results[node] = request, self.pool.submit(worker.execute, request)

            begin(self._ahead)
            for message in messages:
                yield self._reply(message, *results.pop(message.metadata.dst_node_id), end)
                begin(1)

    def _longest_first(self, messages: list[Message]) -> list[Message]:
        """Return the order to begin in: the last ones so that the workers end together."""
        rest = len(messages) - self._ahead
        last = sorted(messages[max(rest, 0) :], key=lambda m: -self._size(m))
        return messages[: max(rest, 0)] + last

    def _size(self, message: Message) -> int:
        return self._sizes[self.client_of(message.metadata.dst_node_id)]

    def _reply(
        self, message: Message, request: Request, result: Result, end: float | None
    ) -> Message:
        try:
            left = None if end is None else max(end - time.monotonic(), 0)
            client = self.client_of(message.metadata.dst_node_id)
            failure = self.pool.wait(result, left, Waiting(f"client {client}", self._say))
        except TimeoutError:
            self.pool.abandon(result)
            return Message(Error(LATE, "no answer in time"), reply_to=message)
        except WorkerDied:
            return Message(Error(DIED, DEAD), reply_to=message)
        if failure:
            return Message(Error(RAISED, failure), reply_to=message)
        content = serialization.load(request.reply, durable=False)
        request.reply.unlink()
        return Message(content, reply_to=message)


def workers(runner: cfg.Runner) -> int:
    """Return the number of worker processes: as configured, or one a core or GPU share."""
    if isinstance(runner, cfg.Local | cfg.Ray) and runner.workers != "auto":
        return int(runner.workers)
    if isinstance(runner, cfg.Local) and device(runner.device).type == "cuda":
        return torch.cuda.device_count() * runner.clients_per_gpu
    cores = len(os.sched_getaffinity(0))
    return min(cores, int(os.environ.get("SLURM_CPUS_PER_TASK", cores)))  # not all bind their jobs
