"""What becomes of batch norms, which mix the images of a batch, where training is private."""

import math
from collections.abc import Callable
from typing import Literal, cast

import torch.nn.functional as F
from torch import Tensor, nn

from fedmed.core.errors import ConfigError


class FrozenBatchNorm(nn.Module):
    """Batch norm by statistics that stay as they are; its weight and bias are trained.

    The statistics are those of ``model.weights``, or 0 and 1.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.register_buffer("running_mean", norm.running_mean)
        self.register_buffer("running_var", norm.running_var)

    def forward(self, images: Tensor) -> Tensor:
        """Return the images, N×C×H×W, normalised channel by channel, weighted and shifted."""
        return self._norm(images, self.weight, self.bias)

    def normal(self, images: Tensor) -> Tensor:
        """Return the images as they are before weight and bias."""
        return self._norm(images, None, None)

    def _norm(self, images: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        mean, variance = cast(Tensor, self.running_mean), cast(Tensor, self.running_var)
        return F.batch_norm(images, mean, variance, weight, bias, eps=self.eps)


def _group_norm(norm: nn.BatchNorm2d) -> nn.GroupNorm:
    """Return a group norm of at most 32 groups (Wu and He 2018) with the weights of ``norm``."""
    channels = norm.num_features
    group = nn.GroupNorm(math.gcd(32, channels), channels, norm.eps)
    group.weight, group.bias = norm.weight, norm.bias
    return group


_NORMS: dict[str, Callable[[nn.BatchNorm2d], nn.Module]] = {
    "group": _group_norm,
    "frozen": FrozenBatchNorm,
}


def without_batch_norm(network: nn.Module, norm: Literal["group", "frozen"]) -> nn.Module:
    """Replace each batch norm, in place: it makes an image's gradient depend on other images."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, _NORMS[norm](child))
    return network


def use_batch_statistics(network: nn.Module) -> None:
    """Let each batch norm forget its statistics, in place: it goes by the batch it is given."""
    for layer in network.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.running_mean = layer.running_var = None


def check_private(network: nn.Module) -> None:
    """Refuse a network that Opacus's validator refuses: one that mixes images or tracks them.

    Raises:
        ConfigError: naming the layer.
    """
    from opacus.validators import ModuleValidator  # takes a second, and is needed once

    if errors := ModuleValidator.validate(network.train(), strict=False):
        reason = str(errors[0]).splitlines()[0]
        raise ConfigError(f"model.network: not for privacy=dpsgd: {reason}")
