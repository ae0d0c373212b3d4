"""What a client's reply must hold, and how it is read: nothing that it says of itself is believed.

Arrays are decoded once, within bounds, and compared with what was sent. A client's share of the
average is what it was told to have before the first round, not what it says afterwards.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

from fedmed.core.records import EXAMPLES, WEIGHT
from fedmed.core.texts import printable
from fedmed.federation.messages import AGGREGATION, ARRAYS, METRICS, PAYLOAD
from fedmed.flower.arrays import Undecodable, decoded, record_of

TRAINED = frozenset({"steps", "loss"})  # what the client app adds to a reply's metrics, trained
VALIDATED = frozenset({"loss", "utility"})  # and validated
MOST = 64  # metrics in a reply of which nothing else is agreed
LARGEST = float(1 << 62)  # of a metric that is a whole number
NAMED = 60  # characters of a name that is told
_NAME = re.compile(r"\w[\w./ -]{0,63}")

Kind = Literal["malformed", "wrong_shape"]


class Malformed(Exception):
    """A reply that is not what was asked for; the text says why, after the client's name."""

    def __init__(self, what: str, kind: Kind = "malformed") -> None:
        super().__init__(what)
        self.kind: Kind = kind


@dataclass(frozen=True)
class Terms:
    """What is known of sound replies before any comes; what is None is not known.

    Attributes:
        examples: client → how many examples are its share.
        weighting: whether those are its weight in the average, or all weigh 1.
        metrics: the names of a reply's metrics beside ``num-examples`` and ``weight``.
        lists: the names of those that are lists of numbers, and of how many each.
        extras: the numbers in each config record that the strategy's own rule adds.
        summed: whether its update is part of a sum: then it has one array, the payload, which the
            sum takes or refuses.
    """

    examples: Mapping[int, int] | None = None
    weighting: Literal["examples", "uniform"] | None = None
    metrics: frozenset[str] | None = None
    lists: Mapping[str, int] = field(default_factory=dict)
    extras: Mapping[str, frozenset[str]] = field(default_factory=dict)
    summed: bool = False

    @property
    def of_sum(self) -> "Terms":
        """Return those of replies that are part of a sum, which tell the server of nobody."""
        told = None if self.metrics is None else self.metrics - {"loss"}
        return replace(self, metrics=told, extras={}, summed=True)


def read(content: RecordDict, sent: RecordDict, client: int, terms: Terms) -> RecordDict:
    """Return what a reply holds, its arrays decoded and its weight the one that is due.

    Args:
        content: of the reply.
        sent: the array records that it answers, of whose names, types and shapes its own are.
        client: whose it is.
        terms: what else is known of it.

    Raises:
        Malformed: if it holds anything else.
    """
    arrays = {
        key: record_of(_arrays(content.array_records.get(key, ArrayRecord()), start, terms.summed))
        for key, start in sent.array_records.items()
    }
    extras = {key: _extra(key, content.get(key), names) for key, names in terms.extras.items()}
    metrics = [key for key in content if key in content.metric_records]
    if len(metrics) != 1:
        raise Malformed("returned no weight for the average" if not metrics else _surplus(metrics))
    if surplus := content.keys() - {*arrays, *extras, *metrics}:
        raise Malformed(_surplus(surplus))
    values = _metrics(content.metric_records[metrics[0]], client, terms)
    return RecordDict({**arrays, METRICS: values, **extras})


def read_fields(content: RecordDict) -> RecordDict:
    """Return what a reply to a step of an aggregation holds: one record, whose reader checks it.

    Raises:
        Malformed: if it holds anything else.
    """
    if surplus := content.keys() - {AGGREGATION, ARRAYS}:
        raise Malformed(_surplus(surplus))
    if AGGREGATION not in content.config_records:
        raise Malformed("returned no part of the sum that it was asked for")
    for name, array in content.array_records.get(ARRAYS, ArrayRecord()).items():
        _decoded(_shown(name), array)
    return content


def _arrays(
    returned: ArrayRecord, start: ArrayRecord, summed: bool
) -> dict[str, NDArray[np.generic]]:
    if summed:
        if list(returned) != [PAYLOAD]:
            raise Malformed("returned no payload of a sum", "wrong_shape")
        return {PAYLOAD: _decoded(PAYLOAD, returned[PAYLOAD])}
    for name in start:
        if name not in returned:
            raise Malformed(f"returned {_shown(name)} as nothing", "wrong_shape")
    for name in returned:
        if name not in start:
            raise Malformed(f"returned {_shown(name)}, where it is nothing", "wrong_shape")
    return {name: _array(name, returned[name], decoded(like)) for name, like in start.items()}


def _decoded(name: str, array: Array) -> NDArray[np.generic]:
    try:
        return decoded(array)
    except Undecodable as error:
        raise Malformed(f"returned {name}, which {error}") from None


def _array(name: str, array: Array, like: NDArray[np.generic]) -> NDArray[np.generic]:
    values = _decoded(name, array)
    if values.shape != like.shape:
        raise Malformed(
            f"returned {name} as {values.shape}, where it is {like.shape}", "wrong_shape"
        )
    if values.dtype != like.dtype:
        raise Malformed(f"returned {name} as {_shown(str(values.dtype))}, where it is {like.dtype}")
    return values


def _extra(key: str, record: object, names: frozenset[str]) -> ConfigRecord:
    if not isinstance(record, ConfigRecord) or record.keys() != names:
        raise Malformed(f"returned no {', '.join(sorted(names))} in its record {key}")
    for name, value in record.items():
        if not _is_number(value) or not math.isfinite(float(value)):  # type: ignore[arg-type]
            raise Malformed(f"returned no finite number as {name} in its record {key}")
    return record


def _metrics(record: MetricRecord, client: int, terms: Terms) -> MetricRecord:
    if len(record) > MOST:
        raise Malformed(f"returned {len(record)} metrics, of which there may be {MOST}")
    for name, value in record.items():
        if not _NAME.fullmatch(name):
            raise Malformed(f"returned a metric by the name of {_shown(name)}")
        if name in terms.lists:
            if not (isinstance(value, list) and len(value) == terms.lists[name]):
                raise Malformed(f"returned no list of {terms.lists[name]} numbers as its {name}")
            if not all(map(_is_number, value)):
                raise Malformed(f"returned no number in its {name}")
        elif not _is_number(value):
            raise Malformed(f"returned no number as its {name}")
    due = {EXAMPLES, WEIGHT, *terms.lists}
    if terms.metrics is not None and record.keys() != (due := due | terms.metrics):
        odd = sorted(record.keys() ^ due)[0]
        raise Malformed(f"returned {'no' if odd in due else 'a metric'} {_shown(odd)}")
    if missing := sorted(due - record.keys()):
        raise Malformed(f"returned no {missing[0]} for the average")
    size, weight = record[EXAMPLES], record[WEIGHT]
    if not isinstance(size, int) or size < 1:
        raise Malformed(f"returned {size} as the number of its examples")
    if terms.examples is not None and size != terms.examples[client]:
        raise Malformed(f"returned {size} examples, where it has {terms.examples[client]}")
    weights = {"examples": {float(size)}, "uniform": {1.0}, None: {1.0, float(size)}}
    if weight not in weights[terms.weighting]:
        raise Malformed(f"returned {weight} as its weight in the average of {size} examples")
    return record


def _is_number(value: object) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < LARGEST)


def _surplus(keys: object) -> str:
    names = ", ".join(_shown(str(key)) for key in sorted(keys)[:3])  # type: ignore[call-overload]
    return f"returned records that were not asked for: {names}"


def _shown(name: str) -> str:
    return printable(name, NAMED)
