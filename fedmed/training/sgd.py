"""Local training: masked binary cross-entropy, a few epochs or steps, one optimizer a round."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from flwr.app import RecordDict
from numpy.typing import NDArray
from torch import Tensor, nn, optim

from fedmed.config import Client
from fedmed.data.examples import Examples
from fedmed.training.augmentation import augment
from fedmed.training.hooks import LocalHooks


def masked_bce(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean binary cross-entropy over the known labels, 0 if none is known."""
    known = ~labels.isnan()
    loss = F.binary_cross_entropy_with_logits(
        logits, labels.nan_to_num(), weight=known.to(logits.dtype), reduction="sum"
    )
    return loss / known.sum().clamp(min=1)


def train(
    network: nn.Module,
    examples: Examples,
    how: Client,
    rule: LocalHooks,
    state: RecordDict,
    seed: int,
) -> tuple[float, int]:
    """Train the network in place.

    Args:
        network: with the global weights; on its device, in its memory format.
        examples: the client's training rows.
        how: local training's configuration.
        rule: what the strategy changes.
        state: what the client keeps from round to round.
        seed: of the order of batches, augmentation and dropout.

    Returns:
        The mean loss over the steps, and the number of steps.
    """
    device = next(network.parameters()).device
    optimizer = optimizer_of(network, how)
    rng = torch.Generator().manual_seed(seed)
    network.train()
    rule.start(network, state)
    losses = []
    autocast = torch.autocast(device.type, torch.bfloat16, how.precision == "bfloat16")
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)  # layers such as dropout draw from the global generator
        for which in batches(len(examples), how, seed):
            images, labels = examples.batch(which, device)
            images = augment(images, examples.input, how.augment, rng)
            optimizer.zero_grad()
            with autocast:
                logits = network(images)
            loss = masked_bce(logits.float(), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            rule.gradient(network)
            optimizer.step()
            losses.append(loss.detach())
    rule.finish(network, state)
    return float(torch.stack(losses).mean()), len(losses)


def batches(n: int, how: Client, seed: int) -> Iterator[NDArray[np.intp]]:
    """Yield the positions of each step's examples: shuffled passes, as many as configured.

    A single example left over at the end of a pass joins the batch before it, since batch norm
    cannot be computed on one.
    """
    rng = np.random.default_rng(seed)
    starts = list(range(0, n, how.batch_size))
    if len(starts) > 1 and n - starts[-1] == 1:
        starts.pop()
    steps = how.steps or how.epochs * len(starts)
    for step in range(steps):
        at = step % len(starts)
        if at == 0:
            order = rng.permutation(n)
        yield order[starts[at] : starts[at + 1] if at + 1 < len(starts) else n]


def optimizer_of(network: nn.Module, how: Client) -> optim.Optimizer:
    """Return the optimizer; fused, since a step over many small tensors is mostly overhead."""
    common: dict[str, Any] = {"lr": how.lr, "weight_decay": how.weight_decay, "fused": True}
    if how.optimizer == "sgd":
        return optim.SGD(network.parameters(), momentum=how.momentum, **common)
    kind = optim.Adam if how.optimizer == "adam" else optim.AdamW
    return kind(network.parameters(), **common)
