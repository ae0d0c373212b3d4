"""Rows of a store as a network sees them, and its scores on them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedmed.data.inputs import InputSpec

BLOCK = 1024  # rows read at once


@dataclass(frozen=True)
class Examples:
    """Some rows of a store.

    Attributes:
        pixels: uint8 N×H×W of the whole store, memory-mapped; or features, float32 N×F.
        labels: float32 N×T of the whole store; 1, 0, or NaN where not known.
        rows: which rows are meant.
    """

    pixels: NDArray[np.uint8] | NDArray[np.float32]
    labels: NDArray[np.float32]
    rows: NDArray[np.intp]
    _moved: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    @property
    def input(self) -> InputSpec:
        """What each row is."""
        return InputSpec.of(self.pixels)

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, which: NDArray[np.intp] | slice, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return images, n×1×H×W in [-1, 1], or features as they are, n×F; and labels, n×T."""
        if device.type == "cpu":
            rows = self.rows[which]
            images, labels = (
                torch.from_numpy(self.pixels[rows]),
                torch.from_numpy(self.labels[rows]),
            )
        else:
            at = which if isinstance(which, slice) else torch.from_numpy(which).to(device)
            images, labels = (whole[at] for whole in self._resident(device))
        if self.input.is_image:
            images = images.unsqueeze(1).float().div_(127.5).sub_(1.0)
        return images, labels

    def blocks(self) -> Iterator[NDArray[Any]]:
        """Yield pixels or features, and labels, of all rows in their order, some at a time."""
        for i in range(0, len(self.rows), BLOCK):
            rows = self.rows[i : i + BLOCK]
            yield self.pixels[rows]
            yield self.labels[rows]

    def _resident(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the pixels and labels of all rows, moved to the device once and as they are."""
        if device not in self._moved:
            pixels = torch.from_numpy(self.pixels[self.rows]).to(device)
            self._moved[device] = pixels, torch.from_numpy(self.labels[self.rows]).to(device)
        return self._moved[device]


@torch.no_grad()
def predict(
    network: nn.Module, examples: Examples, batch_statistics: bool = False, batch_size: int = 256
) -> NDArray[np.float32]:
    """Return the probabilities, n×T, of the examples in their order.

    With ``batch_statistics``, batch norm normalises by each batch instead of by its statistics.
    A network whose numbers overflow, as they do under heavy noise, tells nothing: its score is 0.5.
    """
    device = next(network.parameters()).device
    network.eval()
    for layer in network.modules() if batch_statistics else ():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.train()
    parts = [
        torch.sigmoid(network(examples.batch(slice(i, i + batch_size), device)[0]))
        for i in range(0, len(examples), batch_size)
    ]
    return torch.cat(parts).float().nan_to_num(0.5).cpu().numpy()
