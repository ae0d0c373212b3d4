"""DP-SGD does what it says: noise, sampling; nothing else leaves a client."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, metrics, tiny_network
from flwr.app import RecordDict
from safetensors.numpy import load_file
from scipy import stats
from torch import Tensor, nn

from fedmed.config import DPSGD, compose
from fedmed.core.errors import FedmedError
from fedmed.data.examples import Examples
from fedmed.privacy.noise import OperatingSystem, Seeded, Source
from fedmed.strategies.fedprox import ProximalTerm
from fedmed.training.dpsgd import train as dpsgd
from fedmed.training.dpsgd.sampling import Sampler
from fedmed.training.hooks import LocalHooks

CPU = torch.device("cpu")
DP = ("privacy=dpsgd", "privacy.noise_multiplier=1", "client.batch_size=8", "client.steps=2")


def private(*overrides: str) -> tuple[Any, DPSGD]:
    config = compose([*TINY, "privacy=dpsgd", "privacy.noise_multiplier=1", *overrides])
    assert isinstance(config.privacy, DPSGD)
    return config.client, config.privacy


def trained(
    unit: np.ndarray, rule: LocalHooks | None = None, seed: int = 0, z: float = 1.5, **how: Any
) -> Tensor:
    """Return how far one client's training moves the weights of a tiny network, flat."""
    overrides = [f"{k.replace('__', '.')}={v}" for k, v in how.items()]
    client, privacy = private("client=sgd", "client.momentum=0", "client.lr=1", *overrides)
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (len(unit), 8, 8), dtype=np.uint8)
    labels = rng.integers(0, 2, (len(unit), 2)).astype(np.float32)
    network = tiny_network()
    before = torch.cat([p.detach().flatten().clone() for p in network.parameters()])
    examples = Examples(pixels, labels, np.arange(len(unit)))
    dpsgd.train(
        network, examples, unit, client, privacy, z, rule or LocalHooks(), RecordDict(), seed
    )
    return torch.cat([p.detach().flatten() for p in network.parameters()]) - before


class Nobody(Seeded):
    """Draws nobody, and the same noise."""

    def uniform(self, n: int) -> np.ndarray:
        return np.ones(n)


@pytest.mark.parametrize("draws", [Nobody(0, CPU), OperatingSystem(CPU)])
def test_noise_has_the_stated_deviation_and_an_empty_draw_is_noise_alone(
    draws: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of black images without a known label every gradient is 0, and nobody's is too."""
    monkeypatch.setattr(dpsgd, "source", lambda *_: draws)
    how = ("client=sgd", "client.momentum=0", "client.lr=1", "client.steps=1")
    client, privacy = private(*how, "client.batch_size=4", "privacy.clip_norm=2")
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 300))
    before = [p.detach().clone() for p in network.parameters()]
    black = Examples(
        np.zeros((8, 8, 8), np.uint8), np.full((8, 300), np.nan, np.float32), np.arange(8)
    )
    dpsgd.train(
        network, black, np.arange(8), client, privacy, 1.5, LocalHooks(), RecordDict(), seed=0
    )
    moved = [p.detach() - b for p, b in zip(network.parameters(), before, strict=True)]
    noise = torch.cat([m.flatten() for m in moved]).double().numpy()
    assert stats.kstest(noise, "norm", args=(0, 1.5 * 2.0 / 4)).pvalue > 1e-4  # z·C over q·n


@pytest.mark.parametrize("source", [Seeded(0, CPU), OperatingSystem(CPU)])
def test_sources_draw_what_they_say(source: Source) -> None:
    normal = source.normal(200_001).double().numpy()
    assert stats.kstest(normal, "norm").pvalue > 1e-4
    assert stats.kstest(source.uniform(100_000), "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(normal[:100_000], normal[100_000:200_000])[0, 1]) < 0.02


def test_units_are_drawn_at_the_stated_rate_and_on_their_own() -> None:
    unit = np.repeat(np.arange(20), [1, 2, 3, 4] * 5)[np.random.default_rng(0).permutation(50)]
    sampler = Sampler(unit, 0.3, 2, Seeded(0, CPU))
    counts, pairs, sizes = np.zeros(20), np.zeros((20, 20)), set()
    for _ in range(4000):
        draw = sampler.draw()
        drawn = np.unique(draw.unit)
        assert (unit[draw.which] == draw.unit).all()
        assert len(set(draw.which)) == len(draw.which)
        sizes |= {(int(u), int((draw.unit == u).sum())) for u in drawn}
        counts[drawn] += 1
        pairs[np.ix_(drawn, drawn)] += 1
    assert all(stats.binomtest(int(count), 4000, 0.3).pvalue > 1e-4 for count in counts)
    together = pairs[np.triu_indices(20, 1)]
    assert all(stats.binomtest(int(n), 4000, 0.09).pvalue > 1e-5 for n in together)
    assert sizes == {(u, min(2, int((unit == u).sum()))) for u in range(20)}


def test_memory_does_not_decide_the_result() -> None:
    """Micro-batches of one image or of all give the same step."""
    unit = np.repeat(np.arange(8), [1, 2, 3, 4] * 2)
    still = {f"client__augment__{key}": 0 for key in ("rotate", "shift", "scale", "contrast")}
    common: dict[str, Any] = {
        "client__batch_size": 8,
        "client__steps": 2,
        "privacy__clip_norm": 0.1,
        "z": 0.0,
    } | still
    one, three, all_ = (trained(unit, privacy__physical_batch=n, **common) for n in (1, 3, 100))
    torch.testing.assert_close(one, all_, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(three, all_, rtol=1e-4, atol=1e-5)


def test_fedprox_composes() -> None:
    """Its pull towards the global weights is added to the noisy gradient, and is not noisy."""
    unit = np.arange(8)
    common: dict[str, Any] = {"client__batch_size": 8, "client__steps": 6, "client__lr": 0.1}
    free, held = (trained(unit, ProximalTerm(mu), **common) for mu in (0.0, 5.0))
    assert float(held.norm()) < 0.7 * float(free.norm())
    assert torch.equal(trained(unit, None, **common), free)


def test_bits_do_not_depend_on_workers(
    launch: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    config = (*TINY, *DP, "rounds=1")
    runs = [launch(*config, f"runner.workers={n}", folder=tmp_path / str(n)) for n in (0, 1, 2)]
    assert len({run["model_sha256"] for run in runs}) == 1


def test_nothing_leaves_a_client_but_noisy_weights(
    launch: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    summary = launch(*TINY, *DP, "rounds=1")
    told = metrics(tmp_path / "run").dropna(subset="client")
    assert set(told["metric"]) == {"num-examples", "steps", "epsilon"}
    names = load_file(tmp_path / "run" / "checkpoint" / "model.safetensors")
    assert not any("running" in name for name in names)
    assert not any("release_metrics" in line for line in summary["privacy"]["assumptions"])
    switched = launch(*TINY, *DP, "rounds=1", "privacy.release_metrics=true", folder=tmp_path / "2")
    assert {"loss", "macro_auroc"} <= set(metrics(tmp_path / "2")["metric"])
    assert any("release_metrics" in line for line in switched["privacy"]["assumptions"])
    assert switched["model_sha256"] != summary["model_sha256"]  # another release has other noise


def test_frozen_statistics_stay_as_they_are(
    launch: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    launch(*TINY, *DP, "rounds=1", "privacy.norm=frozen", "strategy.weighting=uniform")
    arrays = load_file(tmp_path / "run" / "checkpoint" / "model.safetensors")
    means = [array for name, array in arrays.items() if "running_mean" in name]
    assert means
    assert not any(array.any() for array in means)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], "privacy.epsilon: give it, and the noise is found for the planned steps"),
        (["privacy.epsilon=0"], "privacy.epsilon: input should be greater than 0, got 0"),
        (["privacy.noise_multiplier=-1"], "privacy.noise_multiplier: input should be greater than"),
        (["privacy.epsilon=1", "privacy.delta=1"], "privacy.delta: input should be less than 1"),
        (["privacy.epsilon=1", "privacy.unit=site"], "privacy.unit: input should be 'patient' or "),
        (["privacy.epsilon=1", "privacy.norm=batch"], "privacy.norm: input should be 'group' or "),
        (["privacy.epsilon=1", "privacy.clip=1"], "privacy.clip: unknown key; privacy takes"),
        (
            ["privacy.epsilon=1", "privacy.unit=image", "privacy.images_per_patient=2"],
            "privacy.images_per_patient: is of privacy.unit=patient; where images are the unit",
        ),
    ],
)
def test_configuration_is_refused_in_one_line(overrides: list[str], said: str) -> None:
    with pytest.raises(FedmedError) as error:
        compose(["privacy=dpsgd", *overrides])
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_keys_of_dpsgd_without_it_are_refused() -> None:
    with pytest.raises(FedmedError, match=r"epsilon is a key of privacy=dpsgd"):
        compose(["privacy.epsilon=1"])


def test_a_budget_below_one_round_is_refused(launch: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(FedmedError, match=r"privacy.epsilon: one round spends \d.*, the budget is"):
        launch(*TINY, *DP, "privacy.epsilon=0.01")


def test_killed_the_run_ends_the_same(
    command: Callable[..., subprocess.Popen[str]],
    launch: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    """After ``kill -9`` in a round and a relaunch, ε is what it would have been."""
    config = (*TINY, *DP, "rounds=4")
    whole = launch(*config, folder=tmp_path / "whole")
    cut = tmp_path / "cut"
    process = command(*config, f"hydra.run.dir={cut}")
    assert process.stdout is not None
    for line in process.stdout:
        if "round 2/4" in line:
            break
    process.kill()
    process.wait()
    again = launch(*config, folder=cut)
    assert again["privacy"] == whole["privacy"]
    assert again["model_sha256"] == whole["model_sha256"]
