"""The imprint attack works through a sum, and a client refuses the model that it needs."""

import copy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from fedmed import config as cfg
from fedmed import models
from fedmed.aggregation.base import Party, Session
from fedmed.aggregation.codec import Block, Codec
from fedmed.aggregation.fixed import FixedPoint
from fedmed.client.context import ClientContext
from fedmed.client.model_check import alike, check_model, first_layer
from fedmed.client.vault import Vault
from fedmed.federation.messages import Unfit

SIDE, BINS, CLIENTS, IMAGES = 8, 512, 4, 4
HIDING = ("tracking.mode=disabled", "aggregation=secagg")


def owning(network: nn.Module, *overrides: str) -> ClientContext:
    """Return what a client has whose own network is this one."""
    task = cfg.compose([*HIDING, *overrides])
    nothing = np.empty((0, SIDE, SIDE), np.uint8)
    return ClientContext(
        task,
        network,
        models.arrays_of(network),
        nothing,
        np.empty((0, 1), np.float32),
        pd.DataFrame(),
    )


def linear() -> nn.Module:
    """Return a network whose first layer sees the whole image."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, BINS), nn.ReLU(), nn.Linear(BINS, 1))


def imprint(network: nn.Module, brightness: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Return weights by which a row is on where an image is brighter than its threshold."""
    arrays = models.arrays_of(network)
    arrays["1.weight"][:] = 1 / SIDE**2
    arrays["1.bias"][:] = -np.quantile(brightness, (np.arange(BINS) + 0.5) / BINS)
    arrays["3.weight"][:] = 1e-3
    arrays["3.bias"][:] = 0
    return arrays


def trained(network: nn.Module, images: torch.Tensor) -> dict[str, NDArray[np.float64]]:
    """Return the change of one honest step of gradient descent."""
    before = models.arrays_of(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=1000.0)
    logits = network(images)
    labels = torch.arange(len(images)).remainder(2).float()[:, None]
    nn.functional.binary_cross_entropy_with_logits(logits, labels).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    after = models.arrays_of(network)
    return {name: after[name].astype(np.float64) - before[name] for name in before}


def test_without_the_check_images_come_out_of_a_sum_and_with_it_the_model_is_refused(
    tmp_path: Path,
) -> None:
    draw = np.random.default_rng(0)
    level = draw.uniform(0.2, 0.8, (CLIENTS * IMAGES, 1, 1))
    images = np.clip(level * 255 + draw.normal(0, 30, (len(level), SIDE, SIDE)), 0, 255).round()
    seen = torch.tensor(images / 255, dtype=torch.float32)
    public = draw.uniform(0.15, 0.85, 10_000).astype(np.float32)  # what the server knows
    network = linear()
    malicious = imprint(network, public)
    shapes = {name: array.shape for name, array in malicious.items()}
    codec = Codec(tuple(Block(name, shape, 1024.0) for name, shape in shapes.items()), bits=30)
    aggregation = FixedPoint(bits=30, range=1024.0, statistics_range=64.0, threshold=0.6667)
    session = Session("run", 1, bytes(16), tuple(range(CLIENTS)))
    width = codec.width(CLIENTS)
    server = aggregation.collector(session, codec.size, width)
    for client in range(CLIENTS):
        lent = copy.deepcopy(network)
        models.load(lent, malicious)
        change = trained(lent, seen[client * IMAGES : (client + 1) * IMAGES])
        own = Party(client, Vault(tmp_path / str(client)))
        server.add(client, aggregation.protect(session, codec.encode(change), width, {}, own))

    total = codec.decode(server.open(lambda *_: None))
    rows = -np.diff(total["1.weight"], axis=0)
    opened = -np.diff(total["1.bias"])
    lit = np.abs(opened) > 1e-3
    found = (rows[lit] / opened[lit][:, None] * 255).round().reshape(-1, SIDE, SIDE)
    recovered = sum(any(np.array_equal(image, one) for one in found) for image in images)
    assert recovered >= 12, f"{recovered} of {len(images)}: the attack is to work"

    mine = owning(network)
    check_model(mine, models.to_record(models.arrays_of(network)), 1)
    with pytest.raises(Unfit, match=r"\(model\): refuses .* 100% of the rows of 1.weight"):
        check_model(mine, models.to_record(malicious), 1)
    check_model(owning(network, "aggregation=fixed"), models.to_record(malicious), 1)


@pytest.mark.parametrize("scaled", [1.0, -3.0, 1e-30])
def test_copies_that_are_scaled_or_a_part_of_the_rows_are_seen(scaled: float) -> None:
    weights = np.random.default_rng(1).normal(size=(64, 1, 7, 7)).astype(np.float32)
    assert alike(weights) == 0
    weights[::4] = weights[0]
    weights[4] *= scaled
    assert alike(weights) == 0.25


def test_rows_of_zeros_and_rows_of_few_inputs_are_like_none() -> None:
    assert alike(np.zeros((64, 1, 7, 7), np.float32)) == 0
    assert alike(np.ones((64, 4), np.float32)) == 0
    assert alike(np.ones((3, 49), np.float32)) == 0


LARGE = ("densenet121", "resnet18", "efficientnet_b0", "vit")
MODELS = ("densenet_small", *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE))


@pytest.mark.parametrize("name", MODELS)
def test_an_honest_model_passes_before_and_after_training(name: str) -> None:
    state = "parameters" if name == "resnet18" else "full"
    config = cfg.compose([f"model={name}", f"strategy.state={state}", *HIDING])
    network = models.build(config.model, 0, config.norm)
    own = owning(network, f"model={name}", f"strategy.state={state}")
    names = models.shared_names(network, state)
    torch.manual_seed(0)
    images = torch.rand(8, 1, config.dataset.arguments["size"], config.dataset.arguments["size"])
    targets = torch.zeros(8, len(config.dataset.arguments["targets"]))  # all alike: rows collapse
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    assert first_layer(network)
    for _ in range(4):
        arrays = models.arrays_of(network)
        check_model(own, models.to_record({k: v for k, v in arrays.items() if k in names}), 1)
        for _ in range(3):
            optimizer.zero_grad()
            loss = nn.functional.binary_cross_entropy_with_logits(network(images), targets)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()


def test_a_network_of_one_layer_has_no_thresholds_that_part_images() -> None:
    network = nn.Linear(64, 16)
    own = owning(network)
    same = {"weight": np.ones((16, 64), np.float32), "bias": np.zeros(16, np.float32)}
    check_model(own, models.to_record(same), 1)


def test_what_is_none_of_the_network_or_not_finite_or_far_off_is_refused() -> None:
    network = linear()
    own, good = owning(network), models.arrays_of(network)
    bad = {
        "1 arrays that are none": good | {"more": np.zeros(1, np.float32)},
        "lacks 1": {name: array for name, array in good.items() if name != "3.bias"},
        "3.bias is": good | {"3.bias": np.zeros(2, np.float32)},
        "3.bias is nan": good | {"3.bias": np.full(1, np.nan, np.float32)},
        "3.weight is inf": good | {"3.weight": np.full((1, BINS), np.inf, np.float32)},
        "3.bias is 1e": good | {"3.bias": np.full(1, 1e6, np.float32)},
    }
    for what, arrays in bad.items():
        with pytest.raises(Unfit, match=what):
            check_model(own, models.to_record(arrays), 1)
