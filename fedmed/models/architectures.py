"""Networks that MONAI lacks, and a published fault.

A network takes N×1×H×W float images, or N×F features, and gives N×T logits, one a target.
"""

from typing import Any, cast

from hydra.utils import get_object
from monai.networks.nets import ViT
from torch import Tensor, nn

from fedmed.core.errors import ConfigError


class _Logits(nn.Module):
    """MONAI's ViT without the hidden states that it returns beside the logits."""

    def __init__(self, network: ViT) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.network(images)[0])


def vit(size: int, outputs: int) -> nn.Module:
    """Return a ViT of the widths of ViT-S on ``size``×``size`` images in 8-pixel patches."""
    if size % 8:
        raise ConfigError(f"dataset.size: must be a multiple of 8 for model=vit, got {size}")
    network = ViT(
        in_channels=1,
        img_size=(size, size),
        patch_size=(8, 8),
        hidden_size=384,
        mlp_dim=1536,
        num_layers=12,
        num_heads=6,
        spatial_dims=2,
        classification=True,
        num_classes=outputs,
        post_activation="",
    )
    return _Logits(network)


class DoubleSigmoid(nn.Module):
    """Another network whose training takes the sigmoid of its probabilities: a published fault.

    A loss that expects logits is given probabilities (Privacy in Practice, arXiv:2211.11434, in the
    private arms). What is tested is the network's own probability.

    Args:
        of: import path of the network's class.
        network: the network's own arguments.
    """

    def __init__(self, of: str, **network: Any) -> None:
        super().__init__()
        self.network = cast(nn.Module, get_object(of)(**network))

    def forward(self, images: Tensor) -> Tensor:
        """Return N×T logits, or in training what was taken for them."""
        logits = cast(Tensor, self.network(images))
        return logits.sigmoid() if self.training else logits
