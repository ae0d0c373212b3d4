"""What a strategy remembers: all of it, as the class says or by itself, or the run is refused."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY
from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import FedAvg

from fedmed.core.errors import FedmedError
from fedmed.federation.rounds import Federation
from fedmed.federation.strategy_state import StrategyState
from fedmed.flower import serialization
from fedmed.models import from_record, to_record

SMALL = (*TINY, "dataset.patients=60", "client.steps=1", "rounds=3")
Launch = Callable[..., dict[str, Any]]
Aggregate = tuple[ArrayRecord | None, MetricRecord | None]


@dataclass(frozen=True)
class Memory:
    """What an optimizer has seen."""

    rounds: int = 0


class Counting(FedAvg):
    """Adds to each array a thousandth of the rounds so far, first counted in a round."""

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Aggregate:
        arrays, told = super().aggregate_train(server_round, replies)
        assert arrays is not None
        count = self.count()
        moved = {k: v + np.float32(1e-3 * count) for k, v in from_record(arrays).items()}
        return to_record(moved), told

    def count(self) -> int:
        self.rounds = getattr(self, "rounds", 0) + 1
        return self.rounds


class Rebinding(Counting):
    """Counts in a frozen dataclass, and says nothing of it."""

    def __init__(self, **fedavg: Any) -> None:
        super().__init__(**fedavg)
        self.memory = Memory()

    def count(self) -> int:
        self.memory = replace(self.memory, rounds=self.memory.rounds + 1)
        return self.memory.rounds


class Saying(Rebinding):
    """Counts in a frozen dataclass, and says so."""

    def state_dict(self) -> dict[str, Any]:
        return {"rounds": self.memory.rounds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.memory = Memory(state["rounds"])


class Half(Counting):
    """Says what to remember, and not how to go on with it."""

    def state_dict(self) -> dict[str, Any]:
        return {}


class Around(FedAvg):
    """A strategy around another one."""

    def __init__(self, inner: FedAvg) -> None:
        super().__init__()
        self.inner = inner


def of(name: str) -> str:
    return f"strategy.server._target_=test_strategy_state.{name}"


@pytest.mark.parametrize("name", ["Counting", "Saying"])
def test_a_resumed_run_is_the_whole_one(
    name: str, launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = launch(*SMALL, of(name), folder=tmp_path / "whole")
    go_on = Federation._round

    def cut(self: Federation, round_: int, *given: Any) -> Any:
        if round_ == 3:
            raise FedmedError("cut off")
        return go_on(self, round_, *given)

    monkeypatch.setattr(Federation, "_round", cut)
    with pytest.raises(FedmedError, match="cut off"):
        launch(*SMALL, of(name))
    monkeypatch.undo()
    assert launch(*SMALL, of(name))["model_sha256"] == whole["model_sha256"]


def test_what_would_be_lost_is_refused_by_name(launch: Launch, tmp_path: Path) -> None:
    with pytest.raises(FedmedError, match=r"^strategy\.server: .* Rebinding\.memory,") as error:
        launch(*SMALL, of("Rebinding"))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "checkpoint" / "checkpoint.safetensors").exists()


def test_half_of_the_two_is_refused(launch: Launch) -> None:
    with pytest.raises(FedmedError, match=r"Half has one of state_dict and load_state_dict"):
        launch(*SMALL, of("Half"))


@pytest.mark.parametrize("value", [Memory(), print, FedAvg()])
def test_what_a_round_is_the_first_to_set_is_remembered_or_refused(value: object) -> None:
    strategy = Counting()
    state = StrategyState(strategy)
    strategy.later = value  # type: ignore[attr-defined]
    with pytest.raises(FedmedError, match=r"Counting\.later,"):
        state.state_dict()
    strategy.later = 3  # type: ignore[attr-defined]
    assert state.state_dict()["later"] == 3


def test_within_a_strategy_it_is_the_same(tmp_path: Path) -> None:
    one, other = Around(Saying()), Around(Saying())
    kept = StrategyState(one)
    assert isinstance(one.inner, Saying)
    assert [one.inner.count(), one.inner.count()] == [1, 2]
    serialization.save(kept.state_dict(), tmp_path / "state")
    StrategyState(other).load_state_dict(serialization.load(tmp_path / "state"))
    assert isinstance(other.inner, Saying)
    assert other.inner.count() == 3
    odd = Around(Rebinding())
    kept = StrategyState(odd)
    assert isinstance(odd.inner, Rebinding)
    odd.inner.count()
    with pytest.raises(FedmedError, match=r"Around\.inner\.memory,"):
        kept.state_dict()
    replaced = Around(Saying())
    kept = StrategyState(replaced)
    replaced.inner = Saying()
    with pytest.raises(FedmedError, match=r"Around\.inner,"):
        kept.state_dict()
