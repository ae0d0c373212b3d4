"""Replies folded into their mean as they come.

A weighted mean is the same whether a strategy is given every reply, or one reply with their mean
and the sum of their weights: Flower then divides that weight by itself and multiplies the arrays by
exactly 1. So the memory of the server does not grow with the cohort.
"""

from collections.abc import Iterable
from typing import Any, cast

import numpy as np
from flwr.app import Message, MetricRecord, RecordDict
from numpy.typing import NDArray

from fedmed.federation.messages import METRICS
from fedmed.flower.arrays import decoded, record_of


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
