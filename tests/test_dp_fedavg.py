"""DP-FedAvg: what is clipped, where the noise is, how the norm adapts, and what is accounted."""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from conftest import TINY
from dp_accounting import ComposedDpEvent, GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from scipy import stats

from fedmed.aggregation.codec import Codec, Integers
from fedmed.config import compose
from fedmed.core.errors import ConfigError, FedmedError
from fedmed.core.seeding import seed_of
from fedmed.federation.strategy_state import StrategyState
from fedmed.federation.summands import Plan
from fedmed.federation.update_steps import decode
from fedmed.flower import process, serialization
from fedmed.models import from_record, to_record
from fedmed.privacy import Event
from fedmed.strategies.dp_fedavg import DPFedAvg
from fedmed.strategies.noisy_update import Mechanism, NoisyUpdate

DELTA = 1e-5
ORDERS = range(2, 64)
START = {"a": np.zeros((50, 40), np.float32), "b": np.zeros(30, np.float32)}
SIZE = sum(array.size for array in START.values())
SMALL = {"a": np.zeros(4, np.float32)}
Arrays = dict[str, np.ndarray]


class Nodes:
    """All of a Grid that a strategy asks for."""

    def __init__(self, n: int) -> None:
        self.n = n

    def get_node_ids(self) -> list[int]:
        return list(range(1, self.n + 1))


def grid(n: int) -> Grid:
    """Return so many nodes as what a strategy takes."""
    return cast(Grid, Nodes(n))


def strategy(z: float, clip: float = 1.0, q: float = 1.0, **more: Any) -> DPFedAvg:
    return DPFedAvg(q, z, clip, DELTA, seed=0, weighted_by_key="weight", **more)


def replies(dp: DPFedAvg, updates: Sequence[float], round_: int, start: Arrays) -> list[Message]:
    """Return what is sent when client k moves every weight by the k-th update."""
    return exchange(dp, updates, round_, start)[1]


def exchange(
    dp: DPFedAvg, updates: Sequence[float], round_: int, start: Arrays
) -> tuple[list[Message], list[Message]]:
    """Return what the server sends, and what comes back as it travels."""
    process.host()
    assert not dp.sums
    sent = []
    orders = list(dp.configure_train(round_, to_record(start), ConfigRecord(), grid(len(updates))))
    for order in orders:
        client = order.metadata.dst_node_id - 1
        moved = to_record({k: v + np.float32(updates[client]) for k, v in start.items()})
        metrics = MetricRecord({"weight": 1.0, "num-examples": 1})
        content = RecordDict({"arrays": moved, "metrics": metrics})
        seed = seed_of(0, "train", round_, client)
        step(dp).encode(order.content, content, RecordDict(), seed)
        sent.append(Message(content, reply_to=order))
    return orders, sent


def undone(dp: DPFedAvg, orders: Sequence[Message], sent: Iterable[Message]) -> Iterator[Message]:
    """Yield what came with the step undone, as the server does."""
    due = {order.metadata.dst_node_id: order.content for order in orders}
    for reply in sent:
        decode([step(dp)], due[reply.metadata.src_node_id], reply.content)
        yield reply


def step(dp: DPFedAvg) -> NoisyUpdate:
    return NoisyUpdate(dp.mechanism)


def integers(
    dp: DPFedAvg, updates: Sequence[float], round_: int, start: Arrays, least: int | None = None
) -> tuple[Plan, list[Message], list[Integers]]:
    """Return the grid, what is sent, and each member's integers, of whom ``least`` must survive."""
    process.host()
    orders = list(dp.configure_train(round_, to_record(start), ConfigRecord(), grid(len(updates))))
    vectors, plan = [], None
    for order in orders:
        client = order.metadata.dst_node_id - 1
        summand = dp.summand(order.content.config_records["config"], least or len(orders))
        blocks = summand.blocks({name: array.shape for name, array in start.items()})
        codec = Codec(tuple(blocks), 17, summand.truncate)
        plan = Plan(summand, codec, codec.width(len(orders)))
        moved = to_record({k: v + np.float32(updates[client]) for k, v in start.items()})
        content = RecordDict({"arrays": moved, "metrics": MetricRecord({"loss": 1.0})})
        seed = seed_of(0, "sum", round_, client)
        vectors.append(plan.encode(order.content, content, 1.0, seed))
    assert plan is not None
    return plan, orders, vectors


def summed(
    dp: DPFedAvg,
    updates: Sequence[float],
    round_: int,
    start: Arrays,
    lost: Collection[int] = (),
    least: int | None = None,
) -> list[Message]:
    """Return the one reply with the sum of all members' integers but for those that are lost."""
    plan, orders, vectors = integers(dp, updates, round_, start, least)
    left = [vector for at, vector in enumerate(vectors) if at not in lost]
    total = np.array(left, np.int32).sum(axis=0, dtype=np.int32)
    content, _ = plan.decode(total, orders[0].content, float(len(left)))
    return [Message(content, reply_to=orders[0])]


def release(
    dp: DPFedAvg, updates: Sequence[float], round_: int = 1, start: Arrays = START
) -> Arrays:
    """Return the released step, every array of it."""
    arrays, _ = dp.aggregate_train(
        round_,
        summed(dp, updates, round_, start)
        if dp.sums
        else undone(dp, *exchange(dp, updates, round_, start)),
    )
    assert arrays is not None
    return from_record(arrays)


def flat(arrays: Arrays) -> np.ndarray:
    return np.concatenate([array.ravel() for array in arrays.values()])


@pytest.mark.parametrize("noise", ["central", "distributed", "local"])
def test_each_update_is_clipped_over_all_arrays(noise: str) -> None:
    small = 0.5 / math.sqrt(SIZE)  # norm 0.5: not clipped
    step = release(strategy(0.0, noise=noise), [small, 100.0, -100.0, 100.0])
    clipped = 1.0 / math.sqrt(SIZE)  # norm 1
    grid_step = 2.0**-16 if noise == "distributed" else 0.0  # values are cut to it, towards zero
    for array in step.values():
        np.testing.assert_allclose(array, (small + clipped) / 4, rtol=1e-5, atol=grid_step)


def test_central_noise_has_the_stated_deviation() -> None:
    noise = flat(release(strategy(1.5, clip=2.0), [0.0] * 4))
    expected = 1.5 * 2.0 / 4  # z·C over the expected cohort
    assert stats.kstest(noise, "norm", args=(0, expected)).pvalue > 0.001
    np.testing.assert_array_equal(noise, flat(release(strategy(1.5, clip=2.0), [0.0] * 4)))
    assert not np.array_equal(noise, flat(release(strategy(1.5, clip=2.0), [0.0] * 4, 2)))
    nobody = flat(release(strategy(1.5, clip=2.0, q=1e-9), [0.0] * 4))
    assert nobody.std() > 0  # an empty cohort is a release too, of noise alone


@pytest.mark.parametrize(("noise", "of_each"), [("distributed", 0.5), ("local", 1.0)])
def test_clients_noise_has_the_stated_deviation(noise: str, of_each: float) -> None:
    """Of each of four members z·C/√4 or z·C, and of their sum z·C or z·C·√4."""
    dp = strategy(1.5, clip=2.0, noise=noise)
    if dp.sums:
        plan, _, vectors = integers(dp, [0.0] * 4, 1, START)
        sent = [flat(plan.codec.decode(vector)) for vector in vectors]
    else:
        sent = [
            flat(from_record(m.content.array_records["arrays"]))
            for m in replies(dp, [0.0] * 4, 1, START)
        ]
    for noisy in sent:
        assert stats.kstest(noisy, "norm", args=(0, of_each * 1.5 * 2.0)).pvalue > 0.001
    for one, other in ((0, 1), (1, 2), (2, 3)):
        assert abs(np.corrcoef(sent[one], sent[other])[0, 1]) < 0.1
    total = 4 * flat(release(strategy(1.5, clip=2.0, noise=noise), [0.0] * 4))
    assert stats.kstest(total, "norm", args=(0, 2 * of_each * 1.5 * 2.0)).pvalue > 0.001
    empty = strategy(1.5, q=1e-9, noise=noise)
    assert not list(empty.configure_train(1, to_record(START), ConfigRecord(), grid(4)))
    nobody, _ = empty.aggregate_train(1, [])
    assert nobody is not None  # the cohort is public: an empty one releases nothing
    assert not flat(from_record(nobody)).any()


def test_secure_noise_never_repeats() -> None:
    for noise in ("central", "distributed", "local"):
        first, second = (
            flat(release(strategy(1.5, clip=2.0, noise=noise, secure_noise=True), [0.0] * 4))
            for _ in range(2)
        )
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.1
        deviation = 1.5 * 2.0 / (2 if noise == "local" else 4)
        assert stats.kstest(first, "norm", args=(0, deviation)).pvalue > 1e-6


@pytest.mark.parametrize("lost", [(), (1,), (0, 3)])
def test_the_noise_is_enough_when_as_few_survive_as_must(lost: tuple[int, ...]) -> None:
    """A share is for t = 2 of 4: of the sum of n survivors the deviation is z·C·√(n/t)."""
    dp = strategy(1.5, clip=2.0, noise="distributed")
    arrays, _ = dp.aggregate_train(1, summed(dp, [0.0] * 4, 1, START, lost, least=2))
    assert arrays is not None
    left = 4 - len(lost)
    deviation = 1.5 * 2.0 * math.sqrt(left / 2) / left
    assert stats.kstest(flat(from_record(arrays)), "norm", args=(0, deviation)).pvalue > 0.001


def test_what_nothing_has_clipped_is_not_added() -> None:
    for noise in ("central", "local"):
        dp = strategy(1.0, noise=noise)
        with pytest.raises(FedmedError, match="DP-FedAvg takes NoisyUpdate"):
            dp.aggregate_train(1, replies(dp, [0.0] * 4, 1, SMALL))


def test_each_client_joins_with_probability_q() -> None:
    process.host()
    dp = strategy(1.0, q=0.3)
    start = to_record(SMALL)
    cohorts = [
        [m.metadata.dst_node_id for m in dp.configure_train(r, start, ConfigRecord(), grid(4))]
        for r in range(2000)
    ]
    counts = [sum(node in cohort for cohort in cohorts) for node in (1, 2, 3, 4)]
    assert all(stats.binomtest(count, 2000, 0.3).pvalue > 1e-4 for count in counts)
    assert [] in cohorts


@pytest.mark.parametrize(
    ("noise", "z", "quantile"), [("central", 1.0, 0.8), ("distributed", 1.0, 0.5)]
)
def test_the_norm_converges_to_the_quantile(noise: str, z: float, quantile: float) -> None:
    """Andrew et al. 2021, algorithm 1, on updates of known norms, with σ_b = m/20 (there)."""
    norms = np.random.default_rng(0).lognormal(1.0, 0.7, 40)
    updates = (norms / math.sqrt(SMALL["a"].size)).tolist()
    dp = strategy(z, clip=0.4, noise=noise, quantile=quantile, count_noise=40 / 20)
    path = []
    for round_ in range(1, 61):
        release(dp, updates, round_, SMALL)
        path.append(dp.clip_norm)
    assert path[0] == pytest.approx(0.4 * math.exp(0.2 * quantile), rel=0.03)  # none is below
    settled = np.mean(norms[:, None] <= np.array(path[-15:]))
    assert settled == pytest.approx(quantile, abs=0.05)


def test_the_noise_on_the_count_is_accounted() -> None:
    """Theorem 1: updates and count, composed by dp-accounting, cost what z alone does."""
    for z, count_noise, q in ((1.0, 0.6, 0.3), (2.0, 3.0, 0.05)):
        pair = [
            GaussianDpEvent(Mechanism("central", z, 0.5, count_noise).update_noise),
            GaussianDpEvent(2 * count_noise),  # plus or minus a half: the sensitivity is a half
        ]
        both, alone = PLDAccountant(), PLDAccountant()
        for event in pair:
            both.compose(event)
        assert both.get_epsilon(DELTA) == pytest.approx(
            alone.compose(GaussianDpEvent(z)).get_epsilon(DELTA), rel=1e-3
        )
        # one draw of the cohort for the two
        sampled, once = RdpAccountant(ORDERS), RdpAccountant(ORDERS)
        sampled.compose(PoissonSampledDpEvent(q, ComposedDpEvent(pair)), 10)
        once.compose(PoissonSampledDpEvent(q, GaussianDpEvent(z)), 10)
        assert sampled.get_epsilon(DELTA) == pytest.approx(once.get_epsilon(DELTA), rel=1e-6)
    adaptive = strategy(1.0, clip=2.0, quantile=0.5, count_noise=0.6)
    assert adaptive.privacy_events(1) == strategy(1.0).privacy_events(1)
    deviation = 2.0 / math.sqrt(1 - 1 / 1.2**2) / 4  # more than z·C over the cohort
    noise = flat(release(adaptive, [0.0] * 4))
    assert stats.kstest(noise, "norm", args=(0, deviation)).pvalue > 0.001


def test_a_resumed_run_goes_on_with_its_norm(tmp_path: Path) -> None:
    def federation() -> DPFedAvg:
        return strategy(0.5, clip=0.3, q=0.7, quantile=0.5)

    updates = [0.1, 0.4, 1.0, 3.0]
    whole = federation()
    steps = [flat(release(whole, updates, round_)) for round_ in (1, 2, 3, 4)]
    cut = federation()
    release(cut, updates, 1)
    release(cut, updates, 2)
    serialization.save(StrategyState(cut).state_dict(), tmp_path / "state")
    resumed = federation()
    StrategyState(resumed).load_state_dict(serialization.load(tmp_path / "state"))
    assert resumed.clip_norm != 0.3
    for round_ in (3, 4):
        np.testing.assert_array_equal(flat(release(resumed, updates, round_)), steps[round_ - 1])
    assert resumed.clip_norm == whole.clip_norm


def test_a_simulated_federation_has_its_noise_and_says_so() -> None:
    dp = strategy(1.5, clip=2.0, nominal_clients=100_000, nominal_cohort=500)
    noise = flat(release(dp, [0.0] * 4))
    assert stats.kstest(noise, "norm", args=(0, 1.5 * 2.0 / 500)).pvalue > 0.001
    assert dp.privacy_events(1)[0].rate == pytest.approx(500 / 100_000)
    assert any("SIMULATION" in line for line in dp.assumptions)
    assert not any("SIMULATION" in line for line in strategy(1.0).assumptions)


def test_who_hides_from_the_server_is_not_amplified_by_a_draw_that_it_knows() -> None:
    def events(noise: str) -> list[Event]:
        dp = strategy(3.0, q=0.5, noise=noise)
        orders = dp.configure_train(7, to_record(SMALL), ConfigRecord(), grid(8))
        joined = [order.metadata.dst_node_id - 1 for order in orders]
        assert 0 < len(joined) < 8
        found = dp.privacy_events(7)
        assert [event.client for event in found] == ([None] if noise == "central" else joined)
        return found

    assert events("central")[0] == Event(7, "client", 3.0, 0.5)
    assert {(e.noise_multiplier, e.rate) for e in events("distributed")} == {(3.0, 1.0)}
    assert {(e.noise_multiplier, e.rate) for e in events("local")} == {(1.5, 1.0)}  # 2C apart


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["strategy.quantile=0.5", "strategy.count_noise=0.5"], "strategy.count_noise: must be"),
        (["strategy.nominal_clients=100"], "strategy.nominal_cohort: a simulated federation"),
        (
            ["strategy.nominal_clients=100", "strategy.nominal_cohort=200"],
            "strategy.nominal_cohort: at most",
        ),
        (
            [
                "strategy.nominal_clients=100",
                "strategy.nominal_cohort=20",
                "strategy.noise=local",
            ],
            "strategy.nominal_clients: takes strategy.noise=central",
        ),
        (["strategy.noise=everywhere"], "strategy.noise: "),
    ],
)
def test_what_cannot_be_accounted_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        compose(["strategy=dp_fedavg", *overrides])
    assert "\n" not in str(error.value)


def test_without_noise_its_place_makes_no_difference(
    launch: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    task = (*TINY, "strategy=dp_fedavg", "strategy.noise_multiplier=0", "strategy.fraction=1")
    places = {
        "central": ("strategy.noise=central",),
        "distributed": ("strategy.noise=distributed", "aggregation=fixed", "aggregation.bits=26"),
    }
    losses = [
        launch(*task, *place, "rounds=1", folder=tmp_path / noise)["test"]["loss"]
        for noise, place in places.items()
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_it_learns_without_noise_and_not_with_much(
    launch: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    task = (
        *TINY,
        "dataset.patients=300",
        "dataset.targets=[view]",
        "strategy=dp_fedavg",
        "strategy.fraction=1.0",
        "rounds=6",
        "evaluate_every=6",
    )
    quiet, loud = (
        launch(*task, f"strategy.noise_multiplier={z}", folder=tmp_path / z) for z in ("0", "3")
    )
    assert quiet["test"]["macro_auroc"] > 0.85
    assert loud["test"]["macro_auroc"] < 0.7
    assert quiet["privacy"]["epsilon"] == "inf"
    assert 0 < loud["privacy"]["epsilon"] < 100
    assert loud["privacy"]["unit"] == "client"
