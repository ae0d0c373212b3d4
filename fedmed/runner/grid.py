"""An engine over any Grid of Flower's: its own simulation, or a SuperLink with hospitals behind.

Flower draws node ids from the operating system and hands out replies as they arrive. Here the
nodes have the ids of every other engine, and replies come back in the order of the clients.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from flwr.app import ArrayRecord, Error, Message, RecordDict
from flwr.serverapp import Grid

from fedmed.client.brief import BRIEF
from fedmed.errors import FedmedError
from fedmed.faults import LATE
from fedmed.metrics import Floats
from fedmed.runner.engine import Engine
from fedmed.runner.local import SHARD
from fedmed.workplace import Workplace

POLL = 0.05  # seconds between two looks for replies


class GridEngine(Engine):
    """A federation behind a Grid of Flower's.

    Args:
        grid: Flower's.
        nodes: the Grid's node for each client; a simulation's nodes may play several.
        run_config: what each client is told about the run.
        here: where the test split is scored.
        check: called while waiting; raises if no reply can come any more.
    """

    def __init__(
        self,
        grid: Grid,
        nodes: Sequence[int],
        run_config: Mapping[str, str],
        here: Workplace,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(len(nodes), run_config)
        self._grid = grid
        self._nodes = nodes
        self._here = here
        self._check = check

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Deliver the messages and yield the replies in the order of the clients.

        Raises:
            FedmedError: if a message cannot be delivered.
        """
        messages = sorted(messages, key=lambda m: m.metadata.dst_node_id)
        sent = [self._addressed(message, timeout) for message in messages]
        if len([i for i in self._grid.push_messages(sent) if i]) < len(sent):
            raise FedmedError("Flower could not deliver a message: has a node left for good?")
        ids = [message.metadata.message_id for message in sent]
        del sent
        waiting = set(ids)
        deadline = time.monotonic() + timeout if timeout else None
        arrived: dict[str, Message] = {}
        for message, id_ in zip(messages, ids, strict=True):
            while id_ not in arrived and not _over(deadline):
                self._collect(waiting, arrived)
            yield self._reply(message, arrived.pop(id_, None))

    def score(self, arrays: ArrayRecord) -> Floats:
        """Return the probabilities, N×T, of the test images under ``arrays``."""
        self._here.receive(arrays)
        starts = range(0, len(self._here.examples("test")), SHARD)
        return np.concatenate([self._here.score(i, i + SHARD) for i in starts])

    def _addressed(self, message: Message, timeout: float | None) -> Message:
        """Return the message as it goes to the client's own node, with its brief."""
        metadata = message.metadata
        content = RecordDict({**message.content, BRIEF: self._sent(message)})
        node = self._nodes[self.client_of(metadata.dst_node_id)]
        return Message(content, node, metadata.message_type, ttl=timeout)

    def _collect(self, waiting: set[str], arrived: dict[str, Message]) -> None:
        """Move the replies that have come by now, after a pause if there are none."""
        self._check()
        new = {r.metadata.reply_to_message_id: r for r in self._grid.pull_messages(waiting)}
        arrived |= new
        waiting.difference_update(new)  # asked for again, Flower would answer that it has none
        if not new:
            time.sleep(POLL)

    def _reply(self, message: Message, reply: Message | None) -> Message:
        if reply is None:
            return Message(Error(LATE, "no answer in time"), reply_to=message)
        if reply.has_error():
            return Message(reply.error, reply_to=message)
        return self._received(message, reply.content)


def _over(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() > deadline
