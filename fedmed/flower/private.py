"""Names of Flower's that it does not promise to keep, used by other rooms through here alone."""

from collections.abc import Iterable
from typing import Any

from flwr.app import Message
from flwr.clientapp.typing import ClientAppCallable
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run

__all__ = ["ClientAppCallable", "ErrorCode", "NodeGrid"]


class NodeGrid(Grid):
    """A Grid that knows its nodes and no more: all that Flower's strategies ask for.

    The rest of the interface is for server apps that drive a SuperLink themselves.
    """

    def set_run(self, run: Run) -> None:  # noqa: D102
        raise NotImplementedError

    @property
    def run(self) -> Run:  # noqa: D102
        raise NotImplementedError

    def create_message(self, *_: Any, **__: Any) -> Message:  # noqa: D102
        raise NotImplementedError

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:  # noqa: D102
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:  # noqa: D102
        raise NotImplementedError

    def send_and_receive(  # noqa: D102
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        raise NotImplementedError
