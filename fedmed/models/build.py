"""Networks built from the configuration, with keyed random weights or those of a file."""

from typing import Literal, cast

import torch
from torch import nn

from fedmed import config as cfg
from fedmed.core.seeding import seed_of
from fedmed.models.normalization import without_batch_norm
from fedmed.models.state import load, read_weights


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
