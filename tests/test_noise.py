"""Two releases that differ in anything have independent noise; one that is repeated is the same."""

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import tiny_network
from flwr.app import ConfigRecord, RecordDict
from test_dp_fedavg import START, flat, grid, replies, strategy
from test_dp_fedavg import release as released_step

from fedmed.config import DPSGD, Config, compose
from fedmed.core.seeding import fingerprint
from fedmed.data.examples import Examples
from fedmed.datasets.phantom import Phantom
from fedmed.federation.messages import RELEASE
from fedmed.models import from_record, to_record
from fedmed.privacy import mechanisms
from fedmed.privacy.noise import Seeded, _generator, source
from fedmed.privacy.release import Released, patient_counts
from fedmed.strategies.noisy_update import CLIPPING
from fedmed.training.dpsgd import train as dpsgd
from fedmed.training.dpsgd.sampling import Draw, Sampler
from fedmed.training.hooks import LocalHooks

CPU = torch.device("cpu")
UNITS = 24
HOW = (
    *("privacy=dpsgd", "privacy.noise_multiplier=1", "privacy.clip_norm=2"),
    *("client=sgd", "client.momentum=0", "client.lr=1", "client.steps=1", "client.batch_size=99"),
)


@cache
def composed(*overrides: str) -> Config:
    return compose([*HOW, *overrides])


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    return abs(float(np.corrcoef(one.ravel(), other.ravel())[0, 1]))


def trained(
    z: float, *overrides: str, seed: int = 0, identity: str = "", **data: Any
) -> tuple[np.ndarray, list[list[int]]]:
    """Return the sum that a client's only step releases, and whom it has drawn."""
    config = composed(*overrides)
    assert isinstance(config.privacy, DPSGD)
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (UNITS, 8, 8), dtype=np.uint8)
    labels = rng.integers(0, 2, (UNITS, 2)).astype(np.float32)
    pixels[0, 0, 0] = data.get("pixel", pixels[0, 0, 0])
    labels[0, 0] = data.get("label", labels[0, 0])
    unit = np.arange(UNITS - data.get("removed", 0))
    network = tiny_network(data.get("start", 0))
    if data.get("last"):
        network = network.to(memory_format=torch.channels_last)
    before = torch.cat([p.detach().flatten().clone() for p in network.parameters()])
    drawn = []
    real = Sampler.draw

    def draw(self: Sampler) -> Draw:
        drawn.append(real(self))
        return drawn[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sampler, "draw", draw)
        arguments = (Examples(pixels, labels, unit), unit, config.client, config.privacy, z)
        dpsgd.train(network, *arguments, LocalHooks(), RecordDict(), seed, identity)
    after = torch.cat([p.detach().flatten() for p in network.parameters()])
    expected = min(len(unit), config.client.batch_size)
    return (before - after).double().numpy() * expected, [one.which.tolist() for one in drawn]


DIFFERENT: dict[str, tuple[float, tuple[str, ...], dict[str, Any]]] = {
    "noise": (8.0, (), {}),
    "clipping norm": (1.0, ("privacy.clip_norm=1",), {}),
    "memory": (1.0, ("privacy.physical_batch=4",), {}),
    "learning rate": (1.0, ("client.weight_decay=0.1",), {}),
    "configuration": (1.0, (), {"identity": "another"}),
    "round or client": (1.0, (), {"seed": 1}),
    "a patient removed": (1.0, (), {"removed": 1}),
    "a pixel edited": (1.0, (), {"pixel": 7}),
    "a label edited": (1.0, (), {"label": np.nan}),
    "starting weights": (1.0, (), {"start": 1}),
    "rounding": (1.0, (), {"last": True}),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_two_trainings_that_differ_have_independent_noise(what: str) -> None:
    z, overrides, other = DIFFERENT[what]
    one, two = trained(1.0)[0], trained(z, *overrides, **other)[0]
    of_one = one - trained(0.0)[0]
    of_two = two - trained(0.0, *overrides, **other)[0]
    assert correlation(of_one, of_two) < 5 / len(of_one) ** 0.5
    np.testing.assert_array_equal(two, trained(z, *overrides, **other)[0])


def test_of_two_runs_at_other_noise_the_sum_cannot_be_taken() -> None:
    """With noise that is shared, it would be the sum itself, to rounding."""
    true = trained(0.0)[0]
    one, eight = trained(1.0)[0], trained(8.0)[0]
    taken = one - (one - eight) / (1 - 8)
    expected = 2 * np.hypot(1 - 1 / 7, 8 / 7 / 8) * len(true) ** 0.5  # C times the two noises'
    assert np.linalg.norm(taken - true) > expected / 2


@pytest.mark.parametrize("what", sorted({*DIFFERENT} - {"rounding", "a patient removed"}))
def test_who_is_drawn_is_independent_too(what: str) -> None:
    z, overrides, other = DIFFERENT[what]
    fewer = ("client.batch_size=12", "client.steps=4")
    one = trained(1.0, *fewer)[1]
    assert one != trained(z, *fewer, *overrides, **other)[1]
    assert one == trained(1.0, *fewer)[1]
    if what != "round or client":  # without noise runs are compared on the same draws
        assert trained(0.0, *fewer)[1] == trained(0.0, *fewer, *overrides, **other)[1]


def noise_of(place: str, z: float, updates: list[float], **more: Any) -> np.ndarray:
    """Return the noise on the sum of the clients' updates."""
    true = 4 * flat(released_step(strategy(0.0, clip=2.0, **more), updates))
    noisy = 4 * flat(released_step(strategy(z, clip=2.0, noise=place, **more), updates))
    return np.asarray(noisy - true)


@pytest.mark.parametrize("place", ["central", "distributed", "local"])
@pytest.mark.parametrize(
    ("z", "last"),
    [(2.0, 0.001), (1.0, 0.0), (1.0, 0.0010001)],  # other noise, a client's data or a bit of them
)
def test_strategies_that_differ_have_independent_noise(place: str, z: float, last: float) -> None:
    updates = [0.001, 0.002, -0.001, 0.001]
    one, two = noise_of(place, 1.0, updates), noise_of(place, z, [*updates[:-1], last])
    members = 0.25 * 3 if place != "central" and z == 1 else 0  # the others' release is repeated
    assert correlation(one, two) < members + 5 / len(one) ** 0.5
    np.testing.assert_array_equal(one, noise_of(place, 1.0, updates))


def test_the_noise_on_the_count_is_independent_too() -> None:
    def votes(z: float) -> list[float]:
        dp = strategy(z, clip=2.0, noise="local", quantile=0.5, count_noise=3.0)
        sent = replies(dp, [0.001] * 200, 1, {"a": np.zeros(2, np.float32)})
        return [float(str(m.content.config_records[CLIPPING]["vote"])) for m in sent]

    assert correlation(np.array(votes(1.0)), np.array(votes(2.0))) < 0.35
    assert votes(1.0) == votes(1.0)


def test_cohorts_are_those_of_a_configuration_and_its_data() -> None:
    def cohort(release: str, z: float = 1.0, round_: int = 1) -> list[int]:
        config = ConfigRecord({RELEASE: release})
        orders = strategy(z, q=0.5).configure_train(round_, to_record(START), config, grid(60))
        sent = list(orders)
        assert not any(RELEASE in m.content.config_records["config"] for m in sent)
        return [m.metadata.dst_node_id for m in sent]

    assert cohort("a") == cohort("a")
    assert len({tuple(c) for c in (cohort("a"), cohort("b"), cohort("a", 2.0))}) == 3
    assert cohort("a", 0.0) == cohort("b", 0.0)
    assert cohort("a", 0.0) != cohort("a", 0.0, 2)


def counted(epsilon: float, clients: int = 40, without: int | None = None) -> np.ndarray:
    """Return the noise on label counts that are too large to be cut at 0."""
    table = pd.DataFrame({"a": np.ones(2000), "patient": [f"p{i}" for i in range(2000)]})
    assigned = table[["patient"]].assign(client=np.arange(2000) % clients)
    table = table.drop(index=[] if without is None else [without])
    released = patient_counts(table, assigned, ["a"], epsilon, seed=0)
    true = table.merge(assigned, on="patient").groupby("client").size().to_numpy()
    return (released[["patients", "a"]].to_numpy() - true[:, None])[:39]


def test_label_counts_of_another_epsilon_partition_or_patient_have_other_noise() -> None:
    one = counted(1.0)
    for other in (counted(2.0), counted(1.0, clients=39), counted(1.0, without=7)):
        assert correlation(one, other) < 0.6
    np.testing.assert_array_equal(one, counted(1.0))


@pytest.mark.parametrize("name", ["laplace", "geometric", "gaussian"])
def test_a_generator_made_again_gives_other_noise_to_another_release(name: str) -> None:
    mechanism, more = getattr(mechanisms, name), {"delta": 1e-5} if name == "gaussian" else {}
    value = np.arange(1000)

    def noise(value: np.ndarray, sensitivity: int, epsilon: float) -> np.ndarray:
        rng = np.random.default_rng(0)
        noisy: np.ndarray = mechanism(value, sensitivity, epsilon, rng=rng, **more) - value
        return noisy

    one, edited = noise(value, 1, 0.5), value.copy()
    edited[7] += 1
    for other in (noise(value, 1, 1.0), noise(value, 2, 0.5), noise(edited, 1, 0.5)):
        assert correlation(one, other) < 0.2
    np.testing.assert_array_equal(one, noise(value, 1, 0.5))


def test_a_choice_made_again_is_independent_at_another_epsilon() -> None:
    def choices(epsilon: float) -> np.ndarray:
        rngs = [np.random.default_rng(i) for i in range(300)]
        ask = (mechanisms.report_noisy_max, mechanisms.exponential)
        return np.array([[one(np.zeros(2), 1.0, epsilon, rng) for rng in rngs] for one in ask])

    np.testing.assert_array_equal(choices(1.0), choices(1.0))
    for one, other in zip(choices(1.0), choices(2.0), strict=True):
        assert correlation(one, other) < 0.3


def test_an_image_edited_in_its_place_is_released_with_other_noise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of = {"_target_": "fedmed.datasets.phantom.Phantom"}
    data = Released(["view"], 64, of, epsilon=1e4, block=2)
    grey = np.full((64, 64), 120, np.uint8)
    edited = grey.copy()
    edited[0, 0] += 2  # so little that the blocks' means are as they were, but for one
    seen = []
    for image in (grey, edited, grey):
        monkeypatch.setattr(Phantom, "read", lambda *_, i=image: i)
        seen.append(data.read("any")[::2, ::2].astype(float)[1:] - 120)
    assert seen[0].std() > 0
    assert correlation(seen[0], seen[1]) < 5 / seen[0].size ** 0.5
    np.testing.assert_array_equal(seen[0], seen[2])


def test_all_of_a_seed_decides_the_noise() -> None:
    """Of a Mersenne Twister's seed PyTorch takes 32 bits; NumPy's is another of the same kind."""
    one, other = (torch.Generator(CPU) for _ in range(2))
    one.manual_seed(5)
    other.manual_seed(5 + 2**32)
    assert torch.equal(torch.randn(99, generator=one), torch.randn(99, generator=other))
    streams = [Seeded(seed, CPU).normal(5000).numpy() for seed in (5, 5 + 2**32, 5 + 2**62)]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert correlation(streams[a], streams[b]) < 0.1
    assert torch.equal(Seeded(5, CPU).normal(50), Seeded(5, CPU).normal(50))


def test_a_stream_is_that_of_numpys_twister() -> None:
    drawn = torch.empty(2000, dtype=torch.int32).random_(generator=_generator(2**40 + 5, CPU))
    state = np.random.MT19937(2**40 + 5)
    state.random_raw(1)  # it begins with the last word of its state
    assert (drawn.numpy() == state.random_raw(2000) % 2**31).all()


def test_a_source_is_keyed_by_its_release_and_needs_none() -> None:
    plain, one, two = (source(3, CPU, False, *release) for release in ((), ("a",), ("b",)))
    draws = [s.uniform(3).tolist() for s in (plain, one, two, Seeded(3, CPU))]
    assert draws[0] == draws[3]
    assert draws[1] != draws[2] != draws[0]


def test_fingerprints_tell_values_and_types_apart() -> None:
    array = np.arange(6.0)
    different = [
        *((), (1,), (1.0,), (True,), ("1",), (b"1",), (None,), ([1],), ([[1]],), ([1], [])),
        *(([], [1]), ("a", "b"), ("ab",), (["a", "b"],), ("a", ["b"]), ({"a": 1},), ({"b": 1},)),
        *((array,), (array.reshape(2, 3),), (array.reshape(3, 2),), (array.astype("f4"),)),
        *((array.astype(int),), (np.zeros((0, 3)),), (np.zeros((0, 2)),), (-array,)),
    ]
    assert len({fingerprint(*values) for values in different}) == len(different)
    wide = np.asfortranarray(array.reshape(2, 3))
    assert fingerprint(wide) == fingerprint(torch.from_numpy(array.reshape(2, 3)))
    record = to_record({"w": wide.astype(np.float32)})
    assert fingerprint(record) == fingerprint(from_record(record))
    with pytest.raises(TypeError, match="no fingerprint"):
        fingerprint(object())
