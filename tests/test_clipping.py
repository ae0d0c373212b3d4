"""Clipped sums: as a slow loop gives them, and nobody moves them by more than the norm."""

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_network
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fedmed import models
from fedmed.client.clipping import ClippedSum, image_losses
from fedmed.config import CONF, compose

MODELS = sorted({path.stem for path in (CONF / "model").glob("*.yaml")} - {"logistic_regression"})
UNIT = np.array([0, 0, 1])  # two patients of three images: double precision takes its time


def images_and_labels(n: int, targets: int, size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (n, targets), generator=rng).float()
    labels[0, 0] = math.nan  # not known
    return torch.randn(n, 1, size, size, generator=rng), labels


def without_chance(network: nn.Module) -> nn.Module:
    """Switch off what is random in the forward pass, so that two passes compare."""
    for layer in network.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
        if hasattr(layer, "drop_connect_rate"):
            layer.drop_connect_rate = 0.0
    return network.train()


def slow_gradients(network: nn.Module, images: Tensor, labels: Tensor, unit: Any) -> list[Tensor]:
    """Return each unit's gradient by one backward pass an image: nothing vectorised."""
    found = []
    for u in np.unique(unit):
        gradient: Any = 0.0
        for i in np.flatnonzero(unit == u):
            network.zero_grad()
            known = ~labels[i].isnan()
            logits = network(images[i : i + 1])[0]
            each = nn.functional.binary_cross_entropy_with_logits(
                logits[known], labels[i][known], reduction="sum"
            )
            (each / labels.shape[1]).backward()
            parts = [
                torch.zeros_like(p) if p.grad is None else p.grad for p in network.parameters()
            ]
            gradient = gradient + torch.cat([part.flatten() for part in parts])
        found.append(gradient)
    return found


def clipped_and_summed(gradients: list[Tensor], clip: float) -> Tensor:
    return torch.stack([g * min(1.0, clip / float(g.norm())) for g in gradients]).sum(dim=0)


@pytest.mark.parametrize(
    ("name", "norm"), [*((name, "group") for name in MODELS), ("densenet_small", "frozen")]
)
def test_clipped_sums_equal_a_slow_loop(name: str, norm: Any) -> None:
    config = compose([f"model={name}", "dataset.targets=[view,sex]", "dataset.size=32"])
    network = without_chance(models.build(config.model, 0, norm)).double()
    images, labels = (x.double() for x in images_and_labels(len(UNIT), 2, 32))
    gradients = slow_gradients(network, images, labels, UNIT)
    clip = sum(float(g.norm()) for g in gradients) / 2  # one patient below, one above
    expected = clipped_and_summed(gradients, clip)
    clipped = ClippedSum(network, clip)
    clipped.add_units(images, labels, UNIT)
    assert float((clipped.total - expected).norm() / expected.norm()) < 1e-5
    clipped.total.zero_()
    for u in range(2):  # each patient as one that is too large for the memory
        mine = np.flatnonzero(u == UNIT)
        clipped.add_large_unit((images[[i]], labels[[i]]) for i in mine)
    assert float((clipped.total - expected).norm() / expected.norm()) < 1e-5


class Twice(nn.Module):
    """A layer that is used twice: its gradient does not follow from one input and output."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(self.layer(images).relu())


def layers_of_all_kinds() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, (3, 5), stride=(2, 1), padding=(1, 2)),
        nn.GroupNorm(3, 6),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 6, 3, dilation=2, padding=2, groups=6, bias=False),
        nn.Conv2d(6, 8, 3, stride=2, groups=2),
        nn.GroupNorm(2, 8, affine=False),
        nn.Conv2d(8, 12, 1),
        nn.LeakyReLU(inplace=True),
        nn.Conv2d(12, 90, 2, stride=2, padding=1),  # few positions of many numbers: ghost norms
        nn.Flatten(2),
        nn.LayerNorm(8),
        nn.Linear(8, 6),
        nn.Flatten(),
        nn.Linear(540, 6),
    )


@pytest.mark.parametrize("sizes", [[1, 1, 1, 1], [2, 2, 2], [1, 3, 2, 3]])
@pytest.mark.parametrize("first", [nn.Identity, partial(nn.GroupNorm, 1, 1)])
@pytest.mark.parametrize("more", [nn.Identity, Twice])
def test_layers_of_all_kinds_and_units_of_all_sizes(
    sizes: list[int], first: Any, more: Any
) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(first(), layers_of_all_kinds(), more()).double()
    unit = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    images, labels = (x.double() for x in images_and_labels(len(unit), 6, 16))
    expected = clipped_and_summed(slow_gradients(network, images, labels, unit), 0.2)
    clipped = ClippedSum(network, 0.2)
    losses = clipped.add_units(images, labels, unit)
    assert float((clipped.total - expected).norm() / expected.norm()) < 1e-5
    torch.testing.assert_close(losses, image_losses(network(images), labels).detach())
    assert all(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize("sizes", [[2, 2], [1, 3]])
@pytest.mark.parametrize("out", [9, 15])  # narrower than the input, and wider
def test_kernels_by_their_pixels(sizes: list[int], out: int) -> None:
    """One of them is padded by more than it sees."""
    torch.manual_seed(0)
    uneven = nn.Conv2d(12, out, (3, 2), padding=(3, 0), dilation=(1, 2))
    layers = [nn.Conv2d(1, 12, 3, padding=1), uneven, nn.Flatten(), nn.Linear(out * 20 * 14, 2)]
    network = nn.Sequential(*layers).double()
    unit = np.repeat(np.arange(2), sizes)
    images, labels = (x.double() for x in images_and_labels(4, 2, 16))
    expected = clipped_and_summed(slow_gradients(network, images, labels, unit), 0.2)
    clipped = ClippedSum(network, 0.2)
    clipped.add_units(images, labels, unit)
    assert float((clipped.total - expected).norm() / expected.norm()) < 1e-5


@settings(max_examples=60, deadline=None)
@given(
    scales=st.lists(
        st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 255.0, 1e8, 1e20, 1e38, math.inf, math.nan]),
        min_size=2,
        max_size=7,
    ),
    cancel=st.booleans(),
    clip=st.sampled_from([1e-3, 1.0, 50.0]),
    seed=st.integers(0, 1000),
)
def test_no_patient_moves_the_sum_by_more_than_the_clipping_norm(
    scales: list[float], cancel: bool, clip: float, seed: int
) -> None:
    """Whatever the images are: huge, infinite, or such that their gradients cancel."""
    network = tiny_network()
    with torch.no_grad():
        network[4].weight.mul_(100 if cancel else 1)
    n = len(scales)
    images, labels = images_and_labels(n, 2, 8, seed)
    images *= torch.tensor(scales).view(-1, 1, 1, 1)
    if cancel:  # the same image as its own opposite
        images[1:] = images[:1]
        labels[1:] = 1 - labels[:1]
    unit = np.random.default_rng(seed).integers(0, 3, n)
    clipped = ClippedSum(network, clip)
    clipped.add_units(images, labels, unit)
    whole = clipped.total.clone()
    assert whole.isfinite().all()
    for u in np.unique(unit):
        rest = unit != u
        clipped.total.zero_()
        if rest.any():
            clipped.add_units(images[rest], labels[rest], unit[rest])
        moved = float((whole - clipped.total).norm())
        assert moved <= clip * (1 + 1e-4), (u, moved)


def test_loss_of_an_image_depends_on_no_other() -> None:
    logits, labels = torch.randn(4, 3), torch.tensor([[1.0, 0.0, math.nan]] * 4)
    together = image_losses(logits, labels)
    for i in range(4):
        torch.testing.assert_close(image_losses(logits[[i]], labels[[i]])[0], together[i])
    known = nn.functional.binary_cross_entropy_with_logits(logits[0, :2], labels[0, :2])
    torch.testing.assert_close(together[0], known * 2 / 3)
