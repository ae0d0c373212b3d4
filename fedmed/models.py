"""Networks: built from config with keyed random weights, loaded, saved and put into messages.

A network takes N×1×H×W float images, or N×F features, and gives N×T logits, one a target.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from flwr.app import ArrayRecord
from hydra.utils import get_object
from monai.networks.nets import ViT
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from fedmed import config as cfg
from fedmed.arrays import record_of
from fedmed.errors import ConfigError
from fedmed.seeding import seed_of

CHECKSUM = "fedmed_sha256"  # in the header of a model's file: arrays_sha256 of its arrays
Arrays = Mapping[str, NDArray[np.float32]]


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


def check_private(network: nn.Module) -> None:
    """Refuse a network that Opacus's validator refuses: one that mixes images or tracks them.

    Raises:
        ConfigError: naming the layer.
    """
    from opacus.validators import ModuleValidator  # takes a second, and is needed once

    if errors := ModuleValidator.validate(network.train(), strict=False):
        reason = str(errors[0]).splitlines()[0]
        raise ConfigError(f"model.network: not for privacy=dpsgd: {reason}")


def build(
    model: cfg.Model, seed: int, norm: Literal["batch", "group", "frozen"] = "batch"
) -> nn.Module:
    """Return the network with its initial weights: from the file, or drawn from the run's seed.

    Args:
        model: the network's configuration.
        seed: of the run.
        norm: what its batch norms become; their weights are kept.

    Raises:
        ConfigError: if the file is absent, damaged, or does not fit the network.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "weights"))
        network = cast(nn.Module, model.network.build())
    if norm != "batch":
        network = without_batch_norm(network, norm)
    if model.weights is not None:
        load(network, read_weights(model.weights, network))
    return network


def read_weights(path: Path, network: nn.Module) -> Arrays:
    """Read a .safetensors file that holds every float tensor of ``network``."""
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            checksum = (file.metadata() or {}).get(CHECKSUM)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"model.weights: cannot read {path}: {error}") from None
    if checksum is not None and checksum != arrays_sha256(arrays):
        raise ConfigError(f"model.weights: {path} is damaged: it is not what its checksum is of")
    shapes = {name: tuple(tensor.shape) for name, tensor in _floats(network).items()}
    wrong = [
        f"{name} is {arrays[name].shape if name in arrays else 'absent'} there, {shape} here"
        for name, shape in shapes.items()
        if name not in arrays or arrays[name].shape != shape
    ]
    if wrong:
        raise ConfigError(f"model.weights: {path} does not fit: {wrong[0]} ({len(wrong)} such)")
    return {name: arrays[name] for name in shapes}


def arrays_of(network: nn.Module, parameters_only: bool = False) -> dict[str, NDArray[np.float32]]:
    """Return copies of the float tensors of the state, or only of the parameters.

    Counters such as ``num_batches_tracked`` are left out: their mean has no meaning.
    """
    tensors = dict(network.named_parameters()) if parameters_only else _floats(network)
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in tensors.items()}


def buffers_of(network: nn.Module) -> dict[str, NDArray[np.float32]]:
    """Return copies of the float tensors that are not parameters: norm statistics."""
    parameters = dict(network.named_parameters())
    return {k: v for k, v in arrays_of(network).items() if k not in parameters}


def load(network: nn.Module, arrays: Arrays) -> None:
    """Copy ``arrays`` into the network, in place.

    A running variance that server-side arithmetic (noise, adaptive steps) has made negative is
    raised to zero, where the norm layer's own epsilon takes over.
    """
    state = network.state_dict()
    for name, array in arrays.items():
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if name.endswith("running_var"):
            tensor = tensor.clamp(min=0.0)
        state[name].copy_(tensor)


def to_record(arrays: Arrays) -> ArrayRecord:
    """Pack arrays for a Flower message."""
    return record_of(arrays)


def from_record(record: ArrayRecord) -> dict[str, NDArray[np.float32]]:
    """Unpack the arrays of a Flower message."""
    return {name: array.numpy().astype(np.float32, copy=False) for name, array in record.items()}


def arrays_sha256(arrays: Arrays) -> str:
    """Return a hash of names, shapes and bits."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name], dtype=np.float32)
        digest.update(f"{name}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _floats(network: nn.Module) -> dict[str, Tensor]:
    return {k: v for k, v in network.state_dict().items() if v.is_floating_point()}
