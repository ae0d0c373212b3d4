"""FedProx (Li et al., Federated Optimization in Heterogeneous Networks, MLSys 2020).

The server is FedAvg's. The clients minimise their loss plus mu/2 · ‖w − w_global‖², the square of
the norm over all weights together (paper, equation 2).
"""

from typing import Annotated

from flwr.app import RecordDict
from pydantic import Field
from torch import Tensor, nn

from fedmed.training.hooks import LocalHooks


class ProximalTerm(LocalHooks):
    """Adds the gradient of the proximal term, mu · (w − w_global), to that of the loss.

    Args:
        mu: the weight of the term, at least 0.
    """

    def __init__(self, mu: Annotated[float, Field(ge=0)]) -> None:
        self.mu = mu
        self._anchor: list[Tensor] = []

    def start(self, network: nn.Module, state: RecordDict) -> None:
        """Keep the global weights; of those that stay with the client its own, as they are."""
        self._anchor = [p.detach().clone() for p in network.parameters()]

    def gradient(self, network: nn.Module) -> None:
        """Pull each weight towards its global value."""
        for weight, anchor in zip(network.parameters(), self._anchor, strict=True):
            if weight.grad is not None:
                weight.grad.add_(weight.detach() - anchor, alpha=self.mu)
