"""Folding replies as they come gives a strategy's own aggregate, and holds no reply."""

import weakref
from collections.abc import Iterator

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict

from fedmed import flower
from fedmed.config import CONF, compose
from fedmed.fold import fold
from fedmed.models import from_record, to_record

ALL = {path.stem: compose([f"strategy={path.stem}"]) for path in (CONF / "strategy").glob("*.yaml")}
MEANS = sorted(name for name, config in ALL.items() if config.strategy.fold == "mean")
STREAMED = sorted(name for name, config in ALL.items() if config.strategy.fold != "none")
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
    flower.host()
    start = to_record({"w": np.ones((4, 5), "f"), "b": np.ones(7, "f")})
    aggregates = []
    for given in (list(replies()), fold(replies(), "weight")):
        strategy = ALL[name].strategy.server.build()
        strategy.configure_train(1, start, ConfigRecord(), Nodes())
        arrays, _ = strategy.aggregate_train(1, given)
        aggregates.append(from_record(arrays))
    for key, value in aggregates[0].items():
        assert aggregates[1][key].dtype == value.dtype
        np.testing.assert_allclose(aggregates[1][key], value, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", STREAMED)
def test_no_reply_outlives_its_turn(name: str) -> None:
    flower.host()
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

    given = watched() if ALL[name].strategy.fold == "own" else fold(watched(), "weight")
    arrays, _ = strategy.aggregate_train(1, given)
    assert arrays is not None
    assert len(gone) == len(SIZES)


def test_nothing_folds_to_nothing() -> None:
    assert fold([], "weight") == []
