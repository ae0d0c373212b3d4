"""An engine over any Grid of Flower's: its own simulation, or a SuperLink with hospitals behind.

Flower draws node ids from the operating system and hands out replies as they arrive. Here the
nodes have the ids of every other engine, and replies come back in the order of the clients.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid

from fedmed.core.errors import FedmedError
from fedmed.engines.waiting import Say, Waiting
from fedmed.federation.engine import Engine
from fedmed.federation.messages import LATE, TaskSpec

POLL = 0.05  # seconds between two looks for replies
SETTLED = 0.5  # seconds after which a simulation has all of its nodes


class GridEngine(Engine):
    """A federation behind a Grid of Flower's.

    Args:
        grid: Flower's.
        nodes: the Grid's node for each client; a simulation's nodes may play several.
        say: called with a line for a person who waits.
        check: called while waiting; raises if no reply can come any more.
        deadline: seconds that a reply is waited for where an exchange does not say; None: for ever.
    """

    def __init__(
        self,
        grid: Grid,
        nodes: Sequence[int],
        say: Say,
        check: Callable[[], None] = lambda: None,
        deadline: float | None = None,
    ) -> None:
        super().__init__(len(nodes))
        self._grid = grid
        self._nodes = nodes
        self._say = say
        self._check = check
        self._deadline = deadline

    def exchange(
        self,
        messages: Sequence[Message],
        tasks: Mapping[int, TaskSpec],
        timeout: float | None = None,
    ) -> Iterator[Message]:
        """Deliver messages and yield the replies in the order of the clients.

        Args:
            messages: at most one to a node.
            tasks: node → what its client is told beside.
            timeout: seconds; None waits as long as the engine's deadline.

        Raises:
            FedmedError: if a message cannot be delivered.
        """
        timeout = self._deadline if timeout is None else timeout
        messages = sorted(messages, key=lambda m: m.metadata.dst_node_id)
        sent = [self._addressed(message, tasks, timeout) for message in messages]
        until = None if timeout is None else time.monotonic() + timeout
        clients = [self.client_of(message.metadata.dst_node_id) for message in messages]
        replies = exchange(self._grid, sent, until, self._check, partial(self._waiting, clients))
        del sent
        for message, answer in zip(messages, replies, strict=True):
            yield self._reply(message, answer)

    def _waiting(self, clients: Sequence[int], place: int) -> Waiting:
        return Waiting(f"client {clients[place]}", self._say)

    def _addressed(
        self, message: Message, tasks: Mapping[int, TaskSpec], timeout: float | None
    ) -> Message:
        """Return the message as it goes to the client's own node, with its task."""
        metadata = message.metadata
        content = RecordDict({**message.content, **tasks[metadata.dst_node_id].records()})
        node = self._nodes[self.client_of(metadata.dst_node_id)]
        return Message(content, node, metadata.message_type, ttl=timeout)

    def _reply(self, message: Message, reply: Message | None) -> Message:
        if reply is None:
            return Message(Error(LATE, "no answer in time"), reply_to=message)
        if reply.has_error():
            return Message(reply.error, reply_to=message)
        return Message(reply.content, reply_to=message)


def exchange(
    grid: Grid,
    messages: Sequence[Message],
    until: float | None,
    check: Callable[[], None] = lambda: None,
    waiting_for: Callable[[int], Waiting] | None = None,
) -> Iterator[Message | None]:
    """Send messages and yield the reply to each, in their order, as soon as it is there.

    Args:
        grid: Flower's.
        messages: of any kind, to any node.
        until: the monotonic time after which None is yielded for what has not come.
        check: called while waiting; raises if no reply can come any more.
        waiting_for: gives what is said while the reply to the n-th message is waited for.

    Raises:
        FedmedError: if a message cannot be delivered.
    """
    if len([i for i in grid.push_messages(messages) if i]) < len(messages):
        raise FedmedError("Flower could not deliver a message: a node has left the federation")
    ids = [message.metadata.message_id for message in messages]
    del messages
    unanswered = set(ids)
    arrived: dict[str, Message] = {}
    for place, id_ in enumerate(ids):
        waiting = waiting_for(place) if waiting_for else None
        while id_ not in arrived and (until is None or time.monotonic() < until):
            check()
            new = {r.metadata.reply_to_message_id: r for r in grid.pull_messages(unanswered)}
            arrived |= new
            unanswered.difference_update(new)  # asked again, Flower would answer that it has none
            if not new:
                time.sleep(POLL)
            if waiting:
                waiting.go_on()
        yield arrived.pop(id_, None)


def simulated(grid: Grid, clients: int) -> list[int]:
    """Return which of a simulation's nodes plays each client; there may be fewer nodes."""
    nodes: list[int] = []
    while not nodes or len(nodes) < len(list(grid.get_node_ids())):
        nodes = sorted(grid.get_node_ids())
        time.sleep(SETTLED)  # Flower registers them while its server app starts
    return [nodes[client % len(nodes)] for client in range(clients)]
