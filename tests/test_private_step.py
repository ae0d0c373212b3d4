"""A whole private local step is that of a slow plain loop: clip, noise, divide, optimizer."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import RecordDict
from monai.networks.nets import ViT
from test_clipping import clipped_and_summed, slow_gradients, without_chance
from torch import Tensor, nn

from fedmed import models
from fedmed.config import DPSGD, Client, compose
from fedmed.data.examples import Examples
from fedmed.models import architectures
from fedmed.strategies.fedprox import ProximalTerm
from fedmed.training.dpsgd import train as dpsgd
from fedmed.training.hooks import LocalHooks
from fedmed.training.sgd import train

UNIT = np.array([0, 1, 0, 2, 2, 2])  # the third patient is more than physical_batch holds
HOW = (
    "privacy=dpsgd",
    "privacy.noise_multiplier=0.5",
    "privacy.physical_batch=2",
    "client.lr=0.1",
    "client.weight_decay=0.1",
    "client.batch_size=100",
    "client.steps=3",
    *(f"client.augment.{key}=0" for key in ("rotate", "shift", "scale", "contrast")),
)


class Fixed:
    """Draws everybody, and noise that is known."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(7)

    def uniform(self, n: int) -> np.ndarray:
        return np.zeros(n)

    def normal(self, n: int) -> Tensor:
        return torch.from_numpy(self._rng.standard_normal(n, np.float32))


def kernels() -> nn.Module:
    """A tiny network with kernels of 3×3 pixels, of several channels and of one each."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, stride=2),
        nn.GroupNorm(2, 6),
        nn.ReLU(),
        nn.Conv2d(6, 12, 3, padding=1),
        nn.Conv2d(12, 12, 3, groups=12, bias=False),
        nn.Conv2d(12, 8, 1),
        nn.Flatten(),
        nn.Linear(8, 2),
    )


class Positioned(nn.Module):
    """Has a parameter of no known layer: its gradients are found image by image."""

    def __init__(self) -> None:
        super().__init__()
        self.first, *rest = kernels().children()
        self.position = nn.Parameter(torch.randn(1, 6, 3, 3))
        self.rest = nn.Sequential(*rest)

    def forward(self, images: Tensor) -> Tensor:
        moved: Tensor = self.rest(self.first(images) + self.position)
        return moved


def some(shape: tuple[int, ...], targets: int = 2) -> Examples:
    rng = np.random.default_rng(3)
    pixels: Any = rng.integers(0, 256, (len(UNIT), *shape), dtype=np.uint8)
    if len(shape) == 1:
        pixels = pixels.astype(np.float32) / 255
    labels = rng.integers(0, 2, (len(UNIT), targets)).astype(np.float32)
    labels[0, 0] = np.nan
    return Examples(pixels, labels, np.arange(len(UNIT)))


def optimizer(how: Client) -> Callable[[Tensor, Tensor], Tensor]:
    """Return SGD (Sutskever et al. 2013), Adam or AdamW (Loshchilov and Hutter 2019), by hand."""
    state: dict[str, Any] = {"m": 0.0, "v": 0.0, "t": 0}

    def step(w: Tensor, g: Tensor) -> Tensor:
        state["t"] += 1
        if how.optimizer == "adamw":
            w = w * (1 - how.lr * how.weight_decay)
        else:
            g = g + how.weight_decay * w
        if how.optimizer == "sgd":
            state["m"] = how.momentum * state["m"] + g
            change: Tensor = how.lr * state["m"]
        else:
            state["m"] = 0.9 * state["m"] + 0.1 * g
            state["v"] = 0.999 * state["v"] + 0.001 * g**2
            mean = state["m"] / (1 - 0.9 ** state["t"])
            variance = state["v"] / (1 - 0.999 ** state["t"])
            change = how.lr * mean / (variance.sqrt() + 1e-8)
        return w - change

    return step


def flat(network: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten().double() for p in network.parameters()])


def slowly(network: nn.Module, examples: Examples, how: Client, privacy: DPSGD, mu: float) -> None:
    """Train the network in place, with weights that are contiguous."""
    images, labels = examples.batch(slice(None), torch.device("cpu"))
    step, draws, start = optimizer(how), Fixed(), flat(network)
    for _ in range(how.steps or 0):
        each = slow_gradients(network, images, labels, UNIT)
        total = clipped_and_summed([g.double() for g in each], privacy.clip_norm)
        noise = 0.5 * privacy.clip_norm * draws.normal(len(start)).double()
        mean = (total + noise) / len(each)
        new = step(flat(network), mean + mu * (flat(network) - start))
        nn.utils.vector_to_parameters(new.float(), network.parameters())


def check(
    patch: pytest.MonkeyPatch,
    build: Callable[[], nn.Module],
    shape: tuple[int, ...],
    *overrides: str,
    mu: float = 0.0,
) -> None:
    """Compare the network as it is trained with a slow one, in both memory formats."""
    config = compose([*HOW, *overrides])
    privacy, how = config.privacy, config.client
    assert isinstance(privacy, DPSGD)
    examples, slow = some(shape), without_chance(build())
    start = flat(slow)
    slowly(slow, examples, how, privacy, mu)
    expected = flat(slow) - start
    for memory in (torch.contiguous_format, torch.channels_last):
        network = without_chance(build()).to(memory_format=memory)
        draws, rule = Fixed(), ProximalTerm(mu) if mu else LocalHooks()
        patch.setattr(dpsgd, "source", lambda *_, d=draws: d)
        dpsgd.train(network, examples, UNIT, how, privacy, 0.5, rule, RecordDict(), 0)
        error = float((flat(network) - start - expected).norm() / expected.norm())
        assert error < (0.1 if how.precision == "bfloat16" else 1e-3), (memory, error)


@pytest.mark.parametrize("optimizer_", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("build", [kernels, Positioned])
def test_a_step_does_not_depend_on_the_memory_format(
    build: Callable[[], nn.Module],
    precision: str,
    optimizer_: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    how = (
        f"client.optimizer={optimizer_}",
        f"client.momentum={0.9 if optimizer_ == 'sgd' else 0}",
        f"client.precision={precision}",
        "privacy.clip_norm=0.5",
    )
    check(monkeypatch, build, (8, 8), *how, mu=0.3 if optimizer_ == "adamw" else 0.0)


@pytest.mark.parametrize(
    ("name", "norm", "optimizer_"),
    [
        ("densenet_small", "group", "adam"),
        ("densenet_small", "frozen", "sgd"),
    ],
)
def test_a_step_of_each_model(
    name: str, norm: Any, optimizer_: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = (f"model={name}", "dataset.targets=[view,sex]", "dataset.size=32")
    how = (f"client.optimizer={optimizer_}", "client.steps=1", f"privacy.norm={norm}")
    config = compose(model)
    check(monkeypatch, lambda: models.build(config.model, 0, norm), (32, 32), *model, *how)


def small_transformer() -> nn.Module:
    torch.manual_seed(0)
    arguments = {"hidden_size": 12, "mlp_dim": 24, "num_layers": 1, "num_heads": 2}
    how = {"spatial_dims": 2, "classification": True, "num_classes": 2, "post_activation": ""}
    return architectures._Logits(ViT(1, (16, 16), (8, 8), **arguments, **how))


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(9, 2)


def test_a_step_of_a_transformer(monkeypatch: pytest.MonkeyPatch) -> None:
    check(monkeypatch, small_transformer, (16, 16), "client=adam")


def test_a_step_of_logistic_regression(monkeypatch: pytest.MonkeyPatch) -> None:
    check(monkeypatch, linear, (9,), "client=sgd")


@pytest.mark.parametrize("optimizer_", ["sgd", "adam", "adamw"])
def test_nor_does_a_step_without_privacy(optimizer_: str) -> None:
    how = compose([*HOW, f"client.optimizer={optimizer_}"]).client
    ends = []
    for memory in (torch.contiguous_format, torch.channels_last):
        network = kernels().to(memory_format=memory)
        train(network, some((8, 8)), how, ProximalTerm(0.3), RecordDict(), 0)
        ends.append(flat(network))
    moved = ends[0] - flat(kernels())
    assert float((ends[0] - ends[1]).norm() / moved.norm()) < 1e-3
