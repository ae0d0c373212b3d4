"""What a strategy may change in a client's local training. FedAvg changes nothing."""

from collections.abc import Mapping
from types import MappingProxyType

from flwr.app import RecordDict
from torch import nn


class LocalHooks:
    """Hooks into local training; a strategy overrides what it needs (``strategy.local``).

    A rule is made anew for each message. What it must remember from round to round it keeps in
    ``state``, which stays with the client and is checkpointed.

    Attributes:
        metrics: the names of the metrics that :meth:`reply` adds; the server takes no others.
        records: the config records that it adds, and the names of the finite numbers in each.
    """

    metrics: frozenset[str] = frozenset()
    records: Mapping[str, frozenset[str]] = MappingProxyType({})

    def start(self, network: nn.Module, state: RecordDict) -> None:
        """See the network with the global weights, before the first step."""

    def gradient(self, network: nn.Module) -> None:
        """Change the gradients in place, after each backward pass."""

    def finish(self, network: nn.Module, state: RecordDict) -> None:
        """See the network after the last step."""

    def reply(self, sent: RecordDict, content: RecordDict, seed: int) -> None:
        """Change what travels back, in place.

        Args:
            sent: what the server sent: global arrays and its config.
            content: trained arrays and metrics, on their way to the server.
            seed: of what is random in the reply; of this configuration, round and client alone.
        """
