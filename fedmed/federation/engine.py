"""What every engine is: the transport of messages to clients that have an order, and no more."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Self

from flwr.app import Message

from fedmed.federation.messages import TaskSpec
from fedmed.flower.private import NodeGrid


class Engine(NodeGrid):
    """A transport that a run can be driven over. Its nodes are the clients in order, from 1.

    One that calls the ClientApp itself does so in a context of ``flower.node_config.simulated``: a
    node in any other has to have a hospital's policy.

    Args:
        clients: how many there are.
    """

    def __init__(self, clients: int) -> None:
        self._clients = clients

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Free what the engine holds."""

    @abstractmethod
    def exchange(
        self,
        messages: Sequence[Message],
        tasks: Mapping[int, TaskSpec],
        timeout: float | None = None,
    ) -> Iterator[Message]:
        """Deliver messages and yield the replies one by one, in the order of the clients.

        Who fails is answered for by an error reply; who takes longer than ``timeout`` seconds by
        one too, or not at all. Consume them all: what is not taken may not have been done.

        Args:
            messages: at most one to a node. Several may share a content, which is not to change.
            tasks: node → what its client is told beside.
            timeout: seconds; None waits for ever.
        """

    def get_node_ids(self) -> list[int]:
        """Return the nodes in the order of their clients."""
        return [client + 1 for client in range(self._clients)]

    def client_of(self, node: int) -> int:
        """Return the client behind a node."""
        return node - 1
