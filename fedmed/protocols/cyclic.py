"""Cyclic weight transfer: the model travels from hospital to hospital.

Chang et al., Distributed deep learning networks among institutions for medical imaging, JAMIA 2018.
Sheller et al. (Federated learning in medicine, Scientific Reports 2020) call it cyclic
institutional incremental learning and compare it with federated averaging; with ``rounds=1`` it is
their institutional incremental learning. Nothing is averaged, so every client sees what the one
before it has learnt, alone: a hospital's neighbour is as curious as the server of other protocols.
"""

from collections.abc import Iterator

from flwr.app import ArrayRecord, Message, RecordDict
from flwr.serverapp.strategy import FedAvg, Strategy

from fedmed.config import Task
from fedmed.core.errors import ConfigError
from fedmed.core.records import MetricRow
from fedmed.federation.messages import ARRAYS
from fedmed.federation.protocol import Participants, Protocol, training_rows


class CyclicWeightTransfer(Protocol):
    """Each client of the cohort trains from where the one before it ended, in their order.

    The global arrays are those of the last. A client that fails is passed over, if ``faults`` allow
    for it: the next begins where the last sound one ended.
    """

    def check(self, task: Task, strategy: Strategy) -> None:
        """Refuse a server's rule, and weights, since nothing is aggregated.

        Raises:
            ConfigError: naming the key.
        """
        if type(strategy) is not FedAvg:
            raise ConfigError(
                f"protocol: under cyclic nothing is averaged, so {type(strategy).__name__} has no "
                "effect; take strategy=fedavg, or fedprox, or protocol=averaging"
            )
        if task.strategy.weighting != "examples":
            raise ConfigError(
                "strategy.weighting: has no effect with protocol=cyclic, where nothing is averaged"
            )

    def train(
        self, round_: int, arrays: ArrayRecord, participants: Participants
    ) -> tuple[list[MetricRow], ArrayRecord]:
        """Return the round's metrics and the last client's arrays; see :meth:`Protocol.train`."""
        current = arrays
        cohort = participants.cohort(round_, arrays)

        def visits() -> Iterator[Message]:
            for message in sorted(cohort, key=participants.client_of):
                message.content = RecordDict({**message.content, ARRAYS: current})
                yield message

        replies = participants.train(round_, visits(), in_turn=True)
        for reply in replies:
            ((_, current),) = reply.content.array_records.items()
        return training_rows(round_, replies), current
