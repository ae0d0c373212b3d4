"""Sums of updates: one hash however they are added, which is that of sums written out by hand."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import TINY, metrics, summary
from flwr.app import Message, RecordDict
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray

from fedmed import models
from fedmed.aggregation.codec import Codec
from fedmed.aggregation.masked import SecureAggregation
from fedmed.client.context import open_context
from fedmed.config import compose
from fedmed.core.errors import ConfigError, FedmedError
from fedmed.core.seeding import seed_of
from fedmed.experiment.data import prepare
from fedmed.models import Arrays, from_record, to_record
from fedmed.runs.verify import Known, verify
from fedmed.training import sgd
from fedmed.training.hooks import LocalHooks

Launch = Callable[..., dict[str, Any]]
AGGREGATIONS = ("fixed", "secagg", "paillier", "bfv", "ckks")
HIDING = AGGREGATIONS[1:]
SMALL = (*TINY, "client=sgd", "client.steps=2", "rounds=2")
KEYS = {"paillier": ("aggregation.key_bits=2048",)}  # which take a tenth of the time to make
EIGHT = (*SMALL, "partition.clients=8", "dataset.patients=160")
#: Two of eight drop out in the second round, one before it trains and one whose process dies.
DROPOUT = (
    "faults.on_failure=exclude",
    "faults.inject=[{kind:dropout,clients:[2,5],rounds:[2]},{kind:raise,clients:[5],rounds:[1]}]",
)
DISTRIBUTED = (
    "strategy=dp_fedavg",
    "strategy.noise=distributed",
    "strategy.noise_multiplier=0.5",
    "strategy.clip_norm=0.3",
    "strategy.fraction=1",
)
EACH = ("strategy=fedadam", "strategy=dp_fedavg")  # strategies tried with every aggregation


def choice(name: str) -> tuple[str, ...]:
    """Return the overrides that take an aggregation."""
    return (f"aggregation={name}", *KEYS.get(name, ()))


def by_hand(
    folder: Path, store: Path, overrides: Sequence[str], absent: Sequence[int] = ()
) -> tuple[Arrays, list[float]]:
    """Return the weights after federated averaging on the grid, and the losses' means by round.

    The integers are Python's, and a step is looked for among the powers of two.
    """
    config = compose([*overrides, f"store={store}"])
    pixels = prepare(config, lambda *_: None, 0).store.path
    own = open_context(config, "cpu", pixels, folder / "table.parquet", folder / "partition.csv")
    clients = range(int(own.index["client"].max()) + 1)
    sizes = [len(own.examples("train", client)) for client in clients]
    weights = [size * len(sizes) / sum(sizes) for size in sizes]
    present = [client for client in clients if client not in absent]
    most = 2 ** (config.aggregation.arguments["bits"] - 1)
    arrays: Arrays = dict(own.initial)
    means = []
    for round_ in range(1, config.rounds + 1):
        total = {name: np.zeros(array.shape, object) for name, array in arrays.items()}
        losses = 0.0
        for client in present:
            models.load(own.network, arrays)
            seed = seed_of(config.seed, "train", round_, client)
            examples = own.examples("train", client)
            loss, _ = sgd.train(
                own.network, examples, config.client, LocalHooks(), RecordDict(), seed
            )
            losses += round(loss * weights[client] / (64 / most)) * (64 / most)
            for name, trained in models.arrays_of(own.network).items():
                change = (trained.astype(float) - arrays[name].astype(float)) * weights[client]
                whole = np.vectorize(round, otypes=[object])(change / step(name, config, most))
                total[name] = total[name] + whole
        weight = sum(weights[client] for client in present)
        arrays = {
            name: (
                array.astype(float)
                + (total[name] * step(name, config, most)).astype(float) / weight
            ).astype(np.float32)
            for name, array in arrays.items()
        }
        means.append(losses / weight)
    return arrays, means


def step(name: str, config: Any, most: int) -> float:
    """Return the least power of two of which ``most`` reach the range of an array."""
    statistic = name.endswith(("running_mean", "running_var"))
    reach = config.aggregation.arguments["statistics_range" if statistic else "range"]
    return float(min(2.0**e for e in range(-60, 30) if 2.0**e * most >= reach))


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_the_weights_are_those_of_sums_written_out_by_hand(
    launch: Launch, store: Path, tmp_path: Path, name: str
) -> None:
    done = launch(*SMALL, *choice(name))
    expected, losses = by_hand(tmp_path / "run", store, (*SMALL, *choice(name)))
    assert done["model_sha256"] == models.arrays_sha256(expected)
    rows = metrics(tmp_path / "run")
    told = rows[(rows["scope"] == "train") & (rows["metric"] == "loss")]
    assert told["client"].isna().all(), "a client's own loss is for nobody"
    assert told["value"].tolist() == pytest.approx(losses, abs=1e-12)


def test_who_drops_out_is_left_out_of_the_mean(launch: Launch, store: Path, tmp_path: Path) -> None:
    """Shares and weights are of those who are left, also where their masks must be found again."""
    config = (*EIGHT, *choice("secagg"), "faults.on_failure=exclude")
    done = launch(*config, "faults.inject=[{kind:raise,clients:[2,5]}]")
    expected, _ = by_hand(tmp_path / "run", store, config, absent=(2, 5))
    assert done["model_sha256"] == models.arrays_sha256(expected)
    assert done["faults"]["by_client"] == {"2": 2, "5": 2}


@pytest.mark.parametrize(
    "strategy",
    [
        ("strategy=fedadam", "strategy.state=parameters"),
        ("strategy=fedavgm", "strategy.weighting=uniform"),
        ("strategy=fedprox", "strategy.state=[features.*]"),
        DISTRIBUTED,
        ("strategy=dp_fedavg_adaptive", *DISTRIBUTED[1:3], "strategy.fraction=1"),
        ("privacy=dpsgd", "privacy.noise_multiplier=1"),
    ],
    ids=lambda one: one[0].partition("=")[2],
)
def test_one_hash_over_all_aggregations(
    launch: Launch, tmp_path: Path, strategy: Sequence[str]
) -> None:
    found = {}
    for name in AGGREGATIONS if strategy[0] in EACH else ("fixed", "secagg"):
        config = (*EIGHT, *DROPOUT, *strategy, *choice(name))
        done = launch(*config, folder=tmp_path / name)
        found[name] = (done["model_sha256"], str(done["privacy"]["epsilon"]), done["faults"])
    assert len({one[0] for one in found.values()}) == 1, found
    assert len({one[1] for one in found.values()}) == 1, found
    assert found["fixed"][2]["by_client"] == {"2": 1, "5": 2}


@pytest.mark.parametrize(
    ("name", "runner"),
    [("secagg", "runner=ray"), ("secagg", "runner.workers=1"), ("bfv", "runner.workers=2")],
)
def test_engines_come_to_the_same(launch: Launch, tmp_path: Path, name: str, runner: str) -> None:
    config = [*EIGHT, *DROPOUT, *choice(name)]
    here = launch(*config, folder=tmp_path / "here")
    if runner == "runner=ray":
        config = [one for one in config if not one.startswith("runner")]
    there = launch(*config, runner, folder=tmp_path / "there")
    assert there["model_sha256"] == here["model_sha256"]
    verify(tmp_path / "there", Known())


def test_in_the_open_the_record_is_the_same_again(launch: Launch, tmp_path: Path) -> None:
    heads = [
        launch(*SMALL, *choice("fixed"), f"runner.workers={n}", folder=tmp_path / str(n))["record"]
        for n in (0, 2)
    ]
    assert heads[0] == heads[1]


def test_the_usual_faults_are_told_as_they_are_without_a_sum(
    launch: Launch, tmp_path: Path
) -> None:
    """A server that sees no update is told by its client what the server would have said."""
    config = (*EIGHT, "faults=chaos", "aggregation.threshold=0.5", "rounds=4")
    found = [
        launch(*config, *choice(name), folder=tmp_path / name)["faults"]
        for name in ("fixed", "secagg")
    ]
    plain = launch(*EIGHT, "faults=chaos", "rounds=4", folder=tmp_path / "float")["faults"]
    assert found[0] == found[1]
    assert found[0]["by_client"] == plain["by_client"]
    assert plain["by_kind"] == found[0]["by_kind"]


def test_a_value_beyond_the_range_is_a_fault(launch: Launch) -> None:
    with pytest.raises(FedmedError, match=r"values of the update lie beyond the range"):
        launch(*SMALL, *choice("fixed"), "aggregation.range=1e-5")


@pytest.mark.parametrize("name", HIDING)
def test_too_few_hide_nobody(launch: Launch, name: str) -> None:
    pair = ("partition.clients=2", "aggregation.threshold=0.5")
    with pytest.raises(FedmedError, match="hides each update among 3"):
        launch(*SMALL, *choice(name), *pair)


@pytest.mark.parametrize("name", ["fixed", "secagg", "ckks"])
def test_fewer_survivors_than_the_threshold_end_the_run(launch: Launch, name: str) -> None:
    gone = "faults.inject=[{kind:dropout,clients:[0,1],rounds:[2]}]"
    with pytest.raises(FedmedError, match=r"2 of 4 clients are left, and .*threshold takes 3"):
        launch(*SMALL, *choice(name), "faults.on_failure=exclude", gone)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("strategy=fedmedian",), "FedMedian needs each update; take strategy=fedavg"),
        (("strategy=krum",), "needs each update"),
        (("strategy=dp_fedavg",), "takes distributed where the server has sums alone"),
        (("strategy=dp_fedavg_local",), "takes distributed where the server has sums alone"),
        (("protocol=cyclic",), "this protocol asks for each"),
        (("aggregation.bits=31",), "come to sums of 33 bits"),
        (("aggregation.range=0",), "aggregation.range"),
        (("aggregation.threshold=0.4",), "secure aggregation takes 0.5 or more"),
    ],
)
def test_what_needs_each_update_is_refused(
    launch: Launch, overrides: Sequence[str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        launch(*SMALL, *choice("secagg"), *overrides)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("aggregation=ckks", "aggregation.scale_bits=20"), "aggregation.scale_bits=20: the noise"),
        (("aggregation=bfv", "aggregation.plain_bits=18"), "aggregation.plain_bits=18"),
        (("aggregation=paillier", "aggregation.key_bits=1024"), "2048 or more"),
        (("aggregation=bfv", "aggregation.holder=4"), "aggregation.holder: client 4, of 0 to 3"),
    ],
)
def test_what_no_sum_can_have_is_refused_before_the_first_round(
    launch: Launch, tmp_path: Path, overrides: Sequence[str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        launch(*SMALL, *overrides)
    assert not (tmp_path / "run" / "metrics.csv").exists()


def test_distributed_noise_takes_a_sum(launch: Launch) -> None:
    with pytest.raises(ConfigError, match=r"take aggregation=secagg, or fixed to simulate it"):
        launch(*SMALL, *DISTRIBUTED)


def test_no_secret_outlives_its_round(launch: Launch, tmp_path: Path) -> None:
    launch(*SMALL, *choice("secagg"))
    assert list((tmp_path / "run").rglob("secret-*")) == []


def test_a_round_moves_hardly_more_than_without(launch: Launch, tmp_path: Path) -> None:
    moved = [
        launch(*SMALL, "model=resnet18", "rounds=1", *choice(name), folder=tmp_path / name)
        for name in ("float", "secagg")
    ]
    plain, masked = (summary(tmp_path / name) for name in ("float", "secagg"))
    assert len(moved) == 2
    assert masked["bytes_up"] <= 1.01 * plain["bytes_up"]
    assert math.isclose(masked["bytes_down"], plain["bytes_down"], rel_tol=0.01)


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_what_the_server_receives_tells_whose_update_it_is_only_in_the_open(
    launch: Launch, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Membership of one payload: which of eight clients' true vectors is it made from?

    Whoever sees integers in the open names the right one each time, which is the attack's control.
    Against masks and ciphers it does as well as guessing: of 32 guesses with a chance of 1 in 8
    more than 13 are right with a probability of 2e-5.
    """
    vectors: list[NDArray[np.int32]] = []
    payloads: list[NDArray[np.int32]] = []
    encode, take = Codec.encode, type(compose([*EIGHT, *choice(name)]).aggregation.build())

    def noted(self: Codec, values: Any, weight: float = 1.0) -> NDArray[np.int32]:
        vectors.append(encode(self, values, weight).copy())
        return vectors[-1]

    def received(self: Any, session: Any, vector: Any, *rest: Any) -> Any:
        payload = protect(self, session, vector, *rest)
        whole = payload.view(np.uint8)[: payload.nbytes // 4 * 4].view(np.int32)
        payloads.append(whole.copy())
        return payload

    protect = take.protect
    monkeypatch.setattr(Codec, "encode", noted)
    monkeypatch.setattr(take, "protect", received)
    launch(*EIGHT, "rounds=4", "client.steps=1", *choice(name))
    assert len(vectors) == len(payloads) == 32
    right = 0
    for i, payload in enumerate(payloads):
        candidates = vectors[i // 8 * 8 : i // 8 * 8 + 8]
        n = min(len(payload), len(candidates[0]))
        found = [_likeness(payload[:n], vector[:n]) for vector in candidates]
        right += int(np.argmax(found)) == i % 8
    assert right == 32 if name == "fixed" else right <= 13


def _likeness(one: NDArray[np.int32], other: NDArray[np.int32]) -> float:
    return float(abs(np.corrcoef(one.astype(float), other.astype(float))[0, 1]))


def test_whose_share_fails_after_training_keeps_what_it_has_learnt(
    launch: Launch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its vector is in the sum: its own state of the round counts, and the fault is told."""
    config = (*EIGHT, *choice("secagg"), "strategy.state=parameters", "rounds=3")
    whole = launch(*config, folder=tmp_path / "whole")
    answered = SecureAggregation.answer

    def fails(self: Any, session: Any, step: str, told: Any, own: Any) -> Any:
        if (session.round, step, own.client) == (1, "consent", 3):
            return {"signature": b"none"}
        return answered(self, session, step, told, own)

    monkeypatch.setattr(SecureAggregation, "answer", fails)
    done = launch(*config, "faults.on_failure=exclude", folder=tmp_path / "cut")
    assert done["model_sha256"] == whole["model_sha256"]
    assert done["faults"] == {"excluded": 1, "by_kind": {"malformed": 1}, "by_client": {"3": 1}}
    scored = [
        rows[rows["scope"] == "val"].reset_index(drop=True)
        for rows in (metrics(tmp_path / name) for name in ("whole", "cut"))
    ]
    pd.testing.assert_frame_equal(scored[0], scored[1])  # by its own norm statistics


class Tailoring(FedAvg):
    """Sends each client arrays of its own."""

    def configure_train(self, *args: Any, **kwargs: Any) -> list[Message]:
        messages = list(super().configure_train(*args, **kwargs))
        for message in messages:
            arrays = from_record(message.content.array_records["arrays"])
            own = to_record({name: array * 2 for name, array in arrays.items()})
            message.content = RecordDict({**message.content, "arrays": own})
        return messages


def test_what_clients_are_sent_is_the_same_for_all(launch: Launch) -> None:
    """Changes of different arrays would add up to nothing, without a word."""
    own = f"strategy.server={{_target_:{__name__}.Tailoring}}"
    with pytest.raises(ConfigError, match="sends clients arrays of their own"):
        launch(*SMALL, *choice("fixed"), own)
