"""How a strategy aggregates, and replies folded into their mean as they come.

A weighted mean is the same whether a strategy is given every reply, or one reply with their mean
and the sum of their weights: Flower then divides that weight by itself and multiplies the arrays by
exactly 1. So the memory of the server does not grow with the cohort.
"""

from collections.abc import Iterable
from typing import Any, Literal, cast

import numpy as np
from flwr.app import Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from fedmed.arrays import decoded, record_of
from fedmed.errors import ConfigError
from fedmed.replies import EXAMPLES, WEIGHT

#: ``mean``: of a weighted mean alone, so that replies may be folded into it; ``own``: of each reply
#: as it comes, so that it may be forgotten; ``all``: of all replies at once.
Aggregation = Literal["mean", "own", "all"]
_MEANS: tuple[type[Strategy], ...] = (
    flower.FedAvg,
    flower.FedAvgM,
    flower.FedProx,
    flower.FedAdagrad,
    flower.FedAdam,
    flower.FedYogi,
)
_UNWEIGHTED: tuple[type[Strategy], ...] = (
    flower.Bulyan,
    flower.FedMedian,
    flower.FedTrimmedAvg,
    flower.Krum,
    flower.QFedAvg,
)


def aggregation_of(strategy: Strategy) -> Aggregation:
    """Return how a strategy aggregates: as its class declares (``aggregation``), or is known to.

    A class that aggregates in its own way and declares nothing is given all replies, whatever
    the class that it is derived from declares.
    """
    for kind in type(strategy).__mro__:
        if "aggregation" in vars(kind):
            return cast(Aggregation, vars(kind)["aggregation"])
        if kind in _MEANS:
            return "mean"
        if vars(kind).keys() & {"aggregate_train", "_check_and_log_replies"}:
            return "all"
    return "all"


def is_weighted(strategy: Strategy) -> bool:
    """Return whether a strategy looks at its clients' weights: as its class declares."""
    for kind in type(strategy).__mro__:
        if "weighted" in vars(kind):
            return bool(vars(kind)["weighted"])
        if kind in _UNWEIGHTED:
            return False
        if "aggregate_train" in vars(kind):
            return True
    return True


def check_weights(weighting: str, strategy: Strategy) -> None:
    """Refuse weights of clients that the strategy does not look at, or that are their own.

    Raises:
        ConfigError: naming the key.
    """
    name = type(strategy).__name__
    key = getattr(strategy, "weighted_by_key", WEIGHT)
    if key not in (WEIGHT, EXAMPLES):
        raise ConfigError(
            f"strategy.server.weighted_by_key: takes {WEIGHT} or {EXAMPLES}, which the server "
            f"knows beforehand, got {key}"
        )
    if weighting == "examples" and not is_weighted(strategy):
        raise ConfigError(f"strategy.weighting: has no effect with {name}; take uniform")
    if weighting == "uniform" and key == EXAMPLES:
        raise ConfigError(
            f"strategy.weighting: has no effect with weighted_by_key={EXAMPLES}; take {WEIGHT}"
        )


def fold(replies: Iterable[Message], weighted_by: str) -> list[Message]:
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
    first.content = RecordDict({key: record_of(mean), "metrics": weights})
    return [first]


def weight_of(content: RecordDict, weighted_by: str) -> float:
    """Return a reply's weight."""
    (record,) = content.metric_records.values()
    return float(cast(float, record[weighted_by]))
