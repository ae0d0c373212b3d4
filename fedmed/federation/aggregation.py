"""How replies become an aggregate: as the strategy's class declares (``aggregation``).

- ``mean``: a weighted mean is all that the strategy takes. It is the same whether it is given every
  reply, or one reply with their mean and the sum of their weights: Flower then divides that weight
  by itself and multiplies the arrays by exactly 1. So the memory of the server does not grow with
  the cohort.
- ``own``: it goes through the replies once, in the order of the clients, and forgets each.
- ``all``: it is given all replies at once, such as a median, which takes a minimum of them.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from fedmed.core.records import WEIGHT
from fedmed.core.seeding import seeded_globals
from fedmed.federation import robust
from fedmed.federation.messages import METRICS
from fedmed.flower.arrays import decoded, record_of
from fedmed.flower.strategies import Aggregation, aggregation_of

#: What a strategy is given of a round's replies.
Aggregator = Callable[[Strategy, int, Iterable[Message]], Iterable[Message]]


def aggregate(
    strategy: Strategy, seed: int, round_: int, replies: Iterable[Message]
) -> ArrayRecord | None:
    """Return the strategy's aggregate of a round's replies, None if it makes nothing of them.

    Args:
        strategy: any Flower strategy.
        seed: of the run; what a strategy draws from global generators is keyed by it.
        round_: the round.
        replies: sound ones, with every update step undone; consumed once, in order.

    Raises:
        ConfigError: if there are too few for the strategy's rule.
        FedmedError: if it cannot do without those that are missing.
    """
    given = AGGREGATORS[aggregation_of(strategy)](strategy, round_, replies)
    with seeded_globals(seed, "aggregate", round_):
        return strategy.aggregate_train(round_, given)[0]


def streaming_mean(replies: Iterable[Message], weighted_by: str) -> list[Message]:
    """Return one reply in place of all, or none where there is none.

    The sum is taken in double precision and in the order of the replies: the same bits whatever
    the engine.

    Args:
        replies: each with one array record, of names and shapes alike, and one metric record.
        weighted_by: the metric that is a reply's weight.
    """
    sums: dict[str, NDArray[np.float64]] = {}
    kinds: dict[str, np.dtype[Any]] = {}
    total, first = 0.0, None
    for reply in replies:
        first = first or reply
        ((key, record),) = reply.content.array_records.items()
        weight = weight_of(reply.content, weighted_by)
        for name, array in record.items():
            values = decoded(array)
            if name not in sums:
                sums[name], kinds[name] = np.zeros(values.shape), values.dtype
            sums[name] += np.multiply(values, weight, dtype=np.float64)
        total += weight
    if first is None:
        return []
    mean = {name: np.asarray(sums.pop(name) / total, dtype=kind) for name, kind in kinds.items()}
    weights = MetricRecord({weighted_by: total})
    first.content = RecordDict({key: record_of(mean), METRICS: weights})
    return [first]


def weight_of(content: RecordDict, weighted_by: str) -> float:
    """Return a reply's weight."""
    (record,) = content.metric_records.values()
    return float(cast(float, record[weighted_by]))


def _mean(strategy: Strategy, round_: int, replies: Iterable[Message]) -> Iterable[Message]:
    return streaming_mean(replies, getattr(strategy, "weighted_by_key", WEIGHT))


def _all(strategy: Strategy, round_: int, replies: Iterable[Message]) -> Iterable[Message]:
    answers = list(replies)
    if answers:
        robust.check(strategy, len(answers), round_)
    return answers


def _own(strategy: Strategy, round_: int, replies: Iterable[Message]) -> Iterable[Message]:
    return replies


AGGREGATORS: Mapping[Aggregation, Aggregator] = {"mean": _mean, "all": _all, "own": _own}
