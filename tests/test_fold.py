"""A strategy is given its replies as its class declares, and by no key."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import flwr.serverapp.strategy as flower_strategies
import pytest
from conftest import TINY
from flwr.app import Message
from flwr.serverapp.strategy import FedAvg, FedMedian

from fedmed.config import CONF, compose
from fedmed.core.errors import ConfigError
from fedmed.federation.aggregation import streaming_mean
from fedmed.flower.strategies import aggregation_of

ALL = {path.stem: compose([f"strategy={path.stem}"]) for path in (CONF / "strategy").glob("*.yaml")}
HOW = {name: aggregation_of(config.strategy.server.build()) for name, config in ALL.items()}


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
