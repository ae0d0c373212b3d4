"""What of an update becomes integers in a sum, and what the sum is worth to the strategy.

Both ends of a sum come to the same grid by the same way: from the task, the arrays that were sent
and the number of members. Most strategies take a mean, and need no more than :class:`Mean`; one
whose sum is bounded and noisy says so by a method ``summand`` of its class.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, cast

import numpy as np
from flwr.app import ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

from fedmed.aggregation.base import IntegerSum
from fedmed.aggregation.codec import Block, Codec, Integers
from fedmed.config import Task
from fedmed.core.errors import ConfigError, FedmedError
from fedmed.core.records import WEIGHT
from fedmed.federation.messages import ARRAYS, CONFIG, METRICS
from fedmed.flower.arrays import decoded
from fedmed.models import from_record, to_record
from fedmed.privacy.disclosure import Disclosure
from fedmed.privacy.discrete import LEAST, discrete_gaussian
from fedmed.privacy.noise import Source

Update = dict[str, NDArray[np.float64]]
Shapes = Mapping[str, tuple[int, ...]]

LOSS = "training loss"  # the block of the clients' losses: no array of a network is called so
LARGEST_LOSS = 64.0  # an image's, times its client's relative weight
STATISTICS = ("running_mean", "running_var")  # what a norm statistic's name ends with


class Summand(ABC):
    """One client's part of a sum, by what the strategy makes of it.

    Attributes:
        truncate: whether its norm is bounded: then its integers are rounded towards zero, and not
            to the nearest, and its weight is 1.
    """

    truncate: ClassVar[bool] = False

    @abstractmethod
    def blocks(self, shapes: Shapes) -> list[Block]:
        """Return the blocks of the vector, for arrays of these names and shapes."""

    def values(self, update: Update) -> Update:
        """Return each block's values: those of what was trained, in double precision."""
        return update

    def draws(self, seed: int, sent: RecordDict, values: Update) -> Source:
        """Return the source of the noise, where a block has any.

        Args:
            seed: of this configuration, round and client alone.
            sent: what the client was sent.
            values: what the noise is to hide.
        """
        raise NotImplementedError(f"{type(self).__name__} has noise and no source of it")

    @abstractmethod
    def content(self, total: Update, sent: RecordDict, weight: float) -> RecordDict:
        """Return what the strategy is given in the place of all replies.

        Args:
            total: the sum of each block.
            sent: what the clients were sent.
            weight: the sum of the survivors' relative weights, which are 1 in the mean of all
                members.
        """


class Mean(Summand):
    """The change of each array, for a strategy that takes a weighted mean.

    Args:
        aggregation: whose ranges hold.
        weighted_by: the metric by which the strategy finds a reply's weight.
    """

    def __init__(self, aggregation: IntegerSum, weighted_by: str) -> None:
        self._aggregation = aggregation
        self._weighted_by = weighted_by

    def blocks(self, shapes: Shapes) -> list[Block]:
        """Return a block for each array; norm statistics have a range of their own."""
        own = self._aggregation
        limits = dict.fromkeys(shapes, own.range) | {
            name: own.statistics_range for name in shapes if name.endswith(STATISTICS)
        }
        return [Block(name, shape, limits[name]) for name, shape in shapes.items()]

    def content(self, total: Update, sent: RecordDict, weight: float) -> RecordDict:
        """Return the arrays that were sent, moved by the mean of their changes."""
        start = from_record(sent.array_records[ARRAYS])
        moved = {k: (w + total[k] / weight).astype(np.float32) for k, w in start.items()}
        return RecordDict(
            {ARRAYS: to_record(moved), METRICS: MetricRecord({self._weighted_by: weight})}
        )


class Summing(Protocol):
    """A strategy that says itself what is summed."""

    def summand(self, told: ConfigRecord, survivors: int) -> Summand:
        """Return a client's part of a sum.

        Args:
            told: what the strategy has told its clients.
            survivors: of how many clients at least the sum will be.
        """


@dataclass(frozen=True)
class Plan:
    """How the updates of a round become integers.

    Attributes:
        summand: what is summed.
        codec: on which grid.
        width: bits of a sum.
    """

    summand: Summand
    codec: Codec
    width: int

    def encode(self, sent: RecordDict, content: RecordDict, weight: float, seed: int) -> Integers:
        """Return a client's integers.

        Args:
            sent: what it was sent.
            content: its reply, which keeps its arrays; its loss is taken out of it.
            weight: its relative weight.
            seed: of what is random in it.

        Raises:
            OffGrid: if a value lies beyond its range.
            FedmedError: if the weight would move the bound of a norm, whoever tells it.
        """
        if self.summand.truncate and weight != 1:
            raise FedmedError(f"aggregation: {weight:g} is told as the weight of a bounded update")
        start = sent.array_records[ARRAYS]
        update = {
            name: decoded(array).astype(np.float64) - decoded(start[name])
            for name, array in content.array_records[ARRAYS].items()
        }
        values = self.summand.values(update)
        (metrics,) = content.metric_records.values()
        if LOSS in (block.name for block in self.codec.blocks):
            values[LOSS] = np.array(metrics["loss"], np.float64)
        metrics.pop("loss", None)
        vector = self.codec.encode(values, weight)
        return self._noisy(vector, sent, values, seed)

    def decode(self, total: Integers, sent: RecordDict, weight: float) -> tuple[RecordDict, float]:
        """Return what the strategy is given, and the mean loss; NaN where no losses are told.

        Args:
            total: the survivors' sum.
            sent: what they were sent.
            weight: the sum of their relative weights.
        """
        sums = self.codec.decode(total)
        loss = float(sums.pop(LOSS)) / weight if LOSS in sums else math.nan
        return self.summand.content(sums, sent, weight), loss

    def _noisy(self, vector: Integers, sent: RecordDict, values: Update, seed: int) -> Integers:
        if not any(block.deviation for block in self.codec.blocks):
            return vector
        draws = self.summand.draws(seed, sent, values)
        for block, place in self.codec.places():
            if block.deviation:
                sigma = block.deviation / block.step(self.codec.bits)
                # beyond a word at TAIL deviations only; there it wraps, as does the sum of words
                vector[place] += discrete_gaussian(block.size, sigma, draws).astype(np.int32)
        return vector


def plan_of(task: Task, aggregation: IntegerSum, sent: RecordDict, members: int) -> Plan:
    """Return how the updates of a round become integers; server and clients come to the same.

    Args:
        task: of the run.
        aggregation: the task's.
        sent: what the clients are sent.
        members: how many they are.

    Raises:
        ConfigError: if the integers of so many members would not fit, or the grid is too coarse
            for a member's share of the noise.
    """
    server = task.strategy.server
    strategy = server.build()
    summand: Summand
    if server.has("summand"):
        told = sent.config_records[CONFIG]
        summand = cast(Summing, strategy).summand(told, aggregation.survivors(members))
    else:
        summand = Mean(aggregation, getattr(strategy, "weighted_by_key", WEIGHT))
    arrays = sent.array_records[ARRAYS]
    blocks = summand.blocks({name: tuple(arrays[name].shape) for name in sorted(arrays)})
    if Disclosure.of(task).losses:
        blocks.append(Block(LOSS, (), LARGEST_LOSS))
    codec = Codec(tuple(blocks), aggregation.bits, summand.truncate)
    for block in blocks:
        if 0 < (share := block.deviation / block.step(codec.bits)) < LEAST:
            raise ConfigError(
                f"aggregation.bits: with {codec.bits} a client's share of the noise is {share:.2g} "
                f"steps of the grid, and {LEAST:g} are needed (strategy.noise_multiplier); take "
                "more bits"
            )
    width = codec.width(members)
    aggregation.check(members, width)
    return Plan(summand, codec, width)
