"""Clipped sums: as a slow loop gives them, and nobody moves them by more than the norm."""

import itertools
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
from fedmed.config import CONF, compose
from fedmed.training.dpsgd.clipping import ClippedSum, image_losses

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
            layer.drop_connect_rate = 0.0  # type: ignore[assignment]
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
            (each / labels.shape[1]).backward()  # type: ignore[no-untyped-call]
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
        twice: Tensor = self.layer(self.layer(images).relu())
        return twice


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
        network.get_parameter("4.weight").mul_(100 if cancel else 1)
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


def added(network: nn.Module, images: Tensor, labels: Tensor, unit: Any, bf16: bool) -> Tensor:
    """Return what units add to the sum, over a clipping norm of 0.01."""
    clipped = ClippedSum(network, 0.01)
    with torch.autocast("cpu", torch.bfloat16, bf16):
        if len(images) and not isinstance(unit, np.ndarray):
            clipped.add_large_unit((images[[i]], labels[[i]]) for i in range(len(images)))
        elif len(images):
            clipped.add_units(images, labels, unit)
    return clipped.total.double() / 0.01


class Weighted(nn.Module):
    """Multiplies each feature by a weight and adds them up: a parameter of no known layer."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, features))

    def forward(self, features: Tensor) -> Tensor:
        return (features * self.weight).sum(1, keepdim=True).expand(-1, 6)


class Twice9(Twice):
    """The same, of nine features."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(9, 9)


NETWORKS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "layers": (layers_of_all_kinds, (1, 16, 16)),
    "table": (partial(nn.Linear, 30, 6), (30,)),
    "deep table": (lambda: nn.Sequential(nn.Linear(30, 9), Twice9(), nn.Linear(9, 6)), (30,)),
    "weighted": (partial(Weighted, 30), (30,)),
}


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("whole", [True, False])  # or a patient in pieces
@pytest.mark.parametrize("name", NETWORKS)
def test_a_unit_adds_at_most_the_clipping_norm_in_every_precision(
    name: str, whole: bool, bf16: bool
) -> None:
    build, shape = NETWORKS[name]
    for seed, scale in itertools.product(range(2), [1e-3, 1.0, 1e4, 1e9, 1e19, 1e30]):
        torch.manual_seed(seed)
        network = build()
        images, labels = torch.randn(3, *shape) * scale, torch.randint(0, 2, (3, 6)).float()
        norm = float(added(network, images, labels, np.zeros(3) if whole else None, bf16).norm())
        assert norm <= 1, (scale, norm)


@pytest.mark.parametrize("way", ["units", "pieces"])
@pytest.mark.parametrize("build", [partial(nn.Linear, bias=False, out_features=1), Weighted])
def test_millions_of_weights_add_at_most_the_clipping_norm(build: Any, way: str) -> None:
    """A sum of so many squares comes out too small in single precision."""
    n = 4_000_000
    network = build(n) if build is Weighted else build(in_features=n)
    nn.init.zeros_(network.weight)
    outputs = 6 if build is Weighted else 1
    unit = np.zeros(1) if way == "units" else None
    norm = added(network, torch.ones(1, n), torch.ones(1, outputs), unit, False).norm()
    assert 1 - 1e-4 <= float(norm) <= 1


@pytest.mark.parametrize("outputs", [1, 64])
@pytest.mark.parametrize("copies", [1, 8])
def test_gradients_of_opposite_signs_add_no_more_than_their_sum(outputs: int, copies: int) -> None:
    """Features of 1e9, exact in single precision, whose gradients cancel exactly; their sum not."""
    rng = np.random.default_rng(1)
    first = rng.integers(2**23, 2**24, (3, 900)) * 64
    last = first[0] + first[1] - first[2]
    exact = np.vstack([first, last])[:, (last > 0) & (last < 2**30)].repeat(copies, axis=0)
    order = rng.permutation(len(exact))
    features = torch.from_numpy(exact.astype(np.float32)[order])
    assert (features.numpy() == exact[order]).all()
    positive = torch.tensor([1.0, 1.0, 0.0, 0.0]).repeat_interleave(copies)[order]
    network = nn.Linear(features.shape[1], outputs, bias=False)
    nn.init.zeros_(network.weight)
    others, theirs = torch.randn(20, features.shape[1]), torch.randint(0, 2, (20, outputs)).float()
    unit = np.r_[np.zeros(len(features)), 1:21]
    labels = torch.cat([positive[:, None].expand(-1, outputs), theirs])
    everyone = added(network, torch.cat([features, others]), labels, unit, False)
    rest = added(network, others, theirs, unit[len(features) :], False)
    assert float((everyone - rest).norm()) <= 1 + 1e-4


@pytest.mark.parametrize("bf16", [False, True])
def test_units_weigh_as_in_a_slow_loop_in_every_precision(bf16: bool) -> None:
    """The sum over units, each in a pass of its own, in double precision from there on."""
    torch.manual_seed(0)
    network = layers_of_all_kinds()
    images, labels = images_and_labels(6, 6, 16)
    unit = np.array([0, 1, 2, 0, 1, 0])
    found = added(network, images, labels, unit, bf16)
    with torch.autocast("cpu", torch.bfloat16, bf16):
        gradients = [g.double() for g in slow_gradients(network, images, labels, unit)]
    expected = clipped_and_summed(gradients, 0.01) / 0.01
    assert float((found - expected).norm() / expected.norm()) < (0.03 if bf16 else 1e-4)


def test_loss_of_an_image_depends_on_no_other() -> None:
    logits, labels = torch.randn(4, 3), torch.tensor([[1.0, 0.0, math.nan]] * 4)
    together = image_losses(logits, labels)
    for i in range(4):
        torch.testing.assert_close(image_losses(logits[[i]], labels[[i]])[0], together[i])
    known = nn.functional.binary_cross_entropy_with_logits(logits[0, :2], labels[0, :2])
    torch.testing.assert_close(together[0], known * 2 / 3)
