"""Federated averaging's round (McMahan et al., AISTATS 2017), for any strategy of Flower's.

Each client of the cohort trains from the same global arrays, and the strategy makes one set of
arrays of theirs.
"""

from flwr.app import ArrayRecord

from fedmed.core.errors import FedmedError
from fedmed.core.records import MetricRow
from fedmed.federation.aggregation import aggregate
from fedmed.federation.protocol import Participants, Protocol, training_rows


class Averaging(Protocol):
    """The cohort trains side by side, and the strategy aggregates."""

    def train(
        self, round_: int, arrays: ArrayRecord, participants: Participants
    ) -> tuple[list[MetricRow], ArrayRecord]:
        """Return the round's metrics and its aggregate; see :meth:`Protocol.train`."""
        replies, given = participants.collect(round_, participants.cohort(round_, arrays))
        seed = participants.config.seed
        aggregated = aggregate(participants.strategy, seed, round_, given)
        if aggregated is None:
            if replies.filter.answered:
                raise FedmedError(f"round {round_}: the strategy has made nothing of its replies")
            aggregated = arrays
        return training_rows(round_, replies), aggregated
