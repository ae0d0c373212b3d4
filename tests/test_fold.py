"""Folding replies as they come gives a strategy's own aggregate, and holds no reply."""

import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import flwr.serverapp.strategy as flower_strategies
import numpy as np
import pytest
from conftest import TINY
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg, FedMedian

from fedmed.config import CONF, compose
from fedmed.core.errors import ConfigError
from fedmed.federation.aggregation import streaming_mean
from fedmed.flower import process
from fedmed.flower.strategies import aggregation_of
from fedmed.models import from_record, to_record

ALL = {path.stem: compose([f"strategy={path.stem}"]) for path in (CONF / "strategy").glob("*.yaml")}
HOW = {name: aggregation_of(config.strategy.server.build()) for name, config in ALL.items()}
MEANS = sorted(name for name, how in HOW.items() if how == "mean")
STREAMED = sorted(name for name, how in HOW.items() if how != "all")
SIZES = (3, 500, 41)


class Nodes:
    """All that a strategy asks a grid for."""

    def get_node_ids(self) -> list[int]:
        return [1, 2, 3]


def replies(record: str = "arrays") -> Iterator[Message]:
    for node, size in enumerate(SIZES, 1):
        rng = np.random.default_rng(node)
        arrays = {"w": rng.normal(size=(4, 5)).astype("f"), "b": rng.normal(size=7).astype("f")}
        values = MetricRecord({"num-examples": size, "weight": float(size), "loss": 0.1 * node})
        content = RecordDict({record: to_record(arrays), "metrics": values})
        yield Message(content, dst_node_id=node, message_type="train")


@pytest.mark.parametrize("name", MEANS)
def test_folded_is_what_the_strategy_makes_of_all(name: str) -> None:
    process.host()
    start = to_record({"w": np.ones((4, 5), "f"), "b": np.ones(7, "f")})
    aggregates = []
    for given in (list(replies()), streaming_mean(replies(), "weight")):
        strategy = ALL[name].strategy.server.build()
        strategy.configure_train(1, start, ConfigRecord(), Nodes())
        arrays, _ = strategy.aggregate_train(1, given)
        aggregates.append(from_record(arrays))
    for key, value in aggregates[0].items():
        assert aggregates[1][key].dtype == value.dtype
        np.testing.assert_allclose(aggregates[1][key], value, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", STREAMED)
def test_no_reply_outlives_its_turn(name: str) -> None:
    process.host()
    strategy = compose(["strategy.fraction=1", f"strategy={name}"]).strategy.server.build()
    start = to_record({"w": np.ones((4, 5), "f"), "b": np.ones(7, "f")})
    strategy.configure_train(1, start, ConfigRecord(), Nodes())
    gone: list[weakref.ref[RecordDict]] = []

    def watched() -> Iterator[Message]:
        for reply in replies():
            assert sum(ref() is not None for ref in gone[1:]) <= 1, "replies pile up"
            reply.content["clipping"] = ConfigRecord({"vote": 0.5})
            gone.append(weakref.ref(reply.content))
            yield reply

    given = watched() if HOW[name] == "own" else streaming_mean(watched(), "weight")
    arrays, _ = strategy.aggregate_train(1, given)
    assert arrays is not None
    assert len(gone) == len(SIZES)


def test_nothing_folds_to_nothing() -> None:
    assert streaming_mean([], "weight") == []


class Renamed(FedAvg):
    """A mean by another name, that chooses its cohort in its own way."""

    def configure_train(self, *arguments: Any) -> Iterable[Message]:
        return super().configure_train(*arguments)


class Last(FedAvg):
    """Takes the last reply, and says nothing of it."""

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        *_, last = replies
        return last.content.array_records["arrays"], None


class StreamedLast(Last):
    """The same, declared."""

    aggregation = "own"


class FromMedian(FedMedian):
    """A median by another name."""


def test_the_class_says_how_it_aggregates() -> None:
    """Every strategy that Flower has, and classes derived from them; a key has no say."""
    means = {"FedAvg", "FedAvgM", "FedProx", "FedAdagrad", "FedAdam", "FedYogi"}
    for name in set(flower_strategies.__all__) - {"Result", "Strategy"}:
        kind = getattr(flower_strategies, name)
        strategy = object.__new__(kind)
        assert aggregation_of(strategy) == ("mean" if name in means else "all"), name
    assert {HOW[name] for name in ("fedmedian", "fedtrimmedavg", "krum")} == {"all"}
    assert {HOW[name] for name in HOW if name.startswith("dp_fedavg")} == {"own"}
    assert aggregation_of(Renamed()) == "mean"
    assert aggregation_of(Last()) == "all"
    assert aggregation_of(StreamedLast()) == "own"
    assert aggregation_of(FromMedian()) == "all"
    with pytest.raises(ConfigError, match=r"strategy\.fold: unknown key"):
        compose(["strategy=fedmedian", "strategy.fold=mean"])
    with pytest.raises(ConfigError, match=r"strategy\.fold: unknown key"):
        compose(["strategy=fedmedian", "+strategy.fold=mean"])


def test_a_run_of_a_class_of_ones_own_is_given_every_reply(
    launch: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """Its weights are the last client's, not the mean that FedAvg would make."""
    rest = ("rounds=1", "strategy.weighting=uniform")
    last = launch(*TINY, *rest, "strategy.server._target_=test_fold.Last", folder=tmp_path / "a")
    alone = "faults.inject=[{kind:dropout,clients:[0,1,2]}]"
    only = launch(*TINY, *rest, alone, "faults.on_failure=exclude", folder=tmp_path / "b")
    mean = launch(*TINY, *rest, folder=tmp_path / "c")
    assert last["model_sha256"] == only["model_sha256"] != mean["model_sha256"]
