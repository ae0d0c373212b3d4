"""A network's weights and statistics as arrays: taken, set, hashed, read and put into messages."""

import fnmatch
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from flwr.app import ArrayRecord
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from fedmed.core.errors import ConfigError
from fedmed.flower.arrays import record_of

CHECKSUM = "fedmed_sha256"  # in the header of a model's file: arrays_sha256 of its arrays
Arrays = Mapping[str, NDArray[np.float32]]


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


def arrays_of(network: nn.Module) -> dict[str, NDArray[np.float32]]:
    """Return copies of the float tensors of the state: parameters and norm statistics.

    Counters such as ``num_batches_tracked`` are left out: their mean has no meaning.
    """
    floats = _floats(network)
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in floats.items()}


def shared_names(network: nn.Module, state: str | Sequence[str]) -> frozenset[str]:
    """Return the names of the arrays that travel between clients and server.

    Args:
        network: whose arrays are meant.
        state: ``full``: all of :func:`arrays_of`; ``parameters``: without norm statistics; or
            patterns, such as ``features.*``, of the names of the parameters that travel.

    Raises:
        ConfigError: if a pattern names no parameter, or none that those before it do not, or all
            parameters are named.
    """
    if state == "full":
        return frozenset(_floats(network))
    parameters = [name for name, _ in network.named_parameters()]
    if isinstance(state, str):
        return frozenset(parameters)
    shared: set[str] = set()
    for i, pattern in enumerate(state):
        named = fnmatch.filter(parameters, pattern)
        if not named:
            parts = dict.fromkeys(name.partition(".")[0] + ".*" for name in parameters)
            raise ConfigError(
                f"strategy.state: {pattern} names no parameter of the network, which has "
                f"{', '.join(parts)}, such as {parameters[0]}"
            )
        if shared.issuperset(named):
            before = ", ".join(state[:i])
            raise ConfigError(f"strategy.state: {pattern} adds nothing to {before}; leave it out")
        shared.update(named)
    if len(shared) == len(parameters):
        raise ConfigError(
            f"strategy.state: {', '.join(state)} names every parameter; take parameters"
        )
    return frozenset(shared)


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
