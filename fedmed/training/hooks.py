"""What a strategy may change in a client's local training. FedAvg changes nothing."""

from flwr.app import RecordDict
from torch import nn


class LocalHooks:
    """Hooks into local training; a strategy overrides what it needs (``strategy.local``).

    A rule is made anew for each message. What it must remember from round to round it keeps in
    ``state``, which stays with the client and is checkpointed. What is done to an update after
    training is an ``UpdateStep``'s; a class may be both.
    """

    def start(self, network: nn.Module, state: RecordDict) -> None:
        """See the network with the global weights, before the first step."""

    def gradient(self, network: nn.Module) -> None:
        """Change the gradients in place, after each backward pass."""

    def finish(self, network: nn.Module, state: RecordDict) -> None:
        """See the network after the last step."""
