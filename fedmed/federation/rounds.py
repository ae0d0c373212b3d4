"""The rounds: train, validate, test, checkpoint; any protocol, any strategy, any engine.

Flower's own loop (``Strategy.start``) always begins at round 1. This one drives the same public
methods, so that a run goes on from its checkpoint as if it had never been cut off.
"""

import logging
import time
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flwr.app import ArrayRecord

from fedmed.core.errors import FedmedError
from fedmed.core.records import POOLED, MetricRow
from fedmed.evaluation import metrics
from fedmed.evaluation.metrics import Floats
from fedmed.federation.asked import Asked
from fedmed.federation.checkpoint import Checkpoint
from fedmed.federation.protocol import Participants, Protocol
from fedmed.federation.reply_filter import unlike
from fedmed.federation.strategy_state import StrategyState
from fedmed.federation.validation import validate
from fedmed.models import Arrays, from_record, to_record

log = logging.getLogger(__name__)

OnUpdate = Callable[[int], Sequence[MetricRow]]
OnRound = Callable[[int, Sequence[MetricRow], Arrays], None]


class Record(typing.Protocol):
    """What binds the rounds, so that it can be shown later what was done."""

    def begin(self, state: Checkpoint) -> None:
        """Bind what the run begins with, and its first metrics."""

    def resume(self, state: Checkpoint) -> None:
        """See that what is bound is what a checkpoint was made with."""

    def append(self, before: Checkpoint, state: Checkpoint, asked: Sequence[Asked]) -> str:
        """Bind a round whose checkpoint is not yet on the disk, and return the head for it.

        Args:
            before: the state before the round.
            state: after it.
            asked: what clients were asked in it, and what came back.
        """


@dataclass
class Federation:
    """The rounds of a run.

    Attributes:
        protocol: what happens in one.
        participants: the clients.
        score: returns the probabilities of the test images, N×T, under given arrays.
        truth: labels of the test images, N×T.
        record: keeps what was done, before it counts.
        checkpoint: the file.
    """

    protocol: Protocol
    participants: Participants
    score: Callable[[ArrayRecord], Floats]
    truth: Floats
    record: Record
    checkpoint: Path

    def __post_init__(self) -> None:
        self._remembered = StrategyState(self.participants.strategy)

    def run(
        self, state: Checkpoint, on_update: OnUpdate, on_round: OnRound
    ) -> tuple[Checkpoint, Floats | None]:
        """Take the run from ``state`` through its last round.

        Args:
            state: where the run stands.
            on_update: called with each round whose aggregate stands; returns what else is to be
                recorded of it.
            on_round: called with each round, its metrics and the global arrays after it; 0 is the
                evaluation before the first.

        Returns:
            The last state and the probabilities of the test images, N×T; None where parameters stay
            with the clients, so that there is no one model to test.

        Raises:
            FedmedError: if a client fails and ``faults`` do not allow for it, or the disk is full;
                what the last checkpoint holds is safe.
        """
        clients, config = self.participants, self.participants.config
        self.protocol.check(config, clients.strategy)
        clients.check()
        clients.exchange.resume(state.bytes_down, state.bytes_up, state.clients)
        if state.round:
            self._remembered.load_state_dict(state.strategy)
            self.record.resume(state)
        else:
            state = replace(state, metrics=self._test(0, to_record(state.arrays))[0])
            self.record.begin(state)
            on_round(0, state.metrics, state.arrays)
        scores = None
        for round_ in range(state.round + 1, config.rounds + 1):
            if clients.budget.exhausted(round_):
                clients.say(f"no client can pay for round {round_}: the run ends here")
                break
            done = len(state.metrics)
            state, scores = self._round(round_, state, on_update)
            on_round(round_, state.metrics[done:], state.arrays)
        if scores is None:  # cut off between the last checkpoint and the end
            scores = self._scores(to_record(state.arrays))
        return state, scores

    def _round(
        self, round_: int, state: Checkpoint, on_update: OnUpdate
    ) -> tuple[Checkpoint, Floats | None]:
        started = time.perf_counter()
        before, clients, scores = state, self.participants, None
        config, exchange = clients.config, clients.exchange
        exchange.asked.clear()
        rows, arrays = self._train(round_, to_record(state.arrays))
        last = round_ == config.rounds or clients.budget.exhausted(round_ + 1)
        if round_ % config.evaluate_every == 0 or last:
            rows += validate(round_, arrays, clients)
            test_rows, scores = self._test(round_, arrays)
            rows += test_rows
        rows += on_update(round_)
        rows += self._moved(round_, state)
        state = Checkpoint(
            data=state.data,
            arrays=from_record(arrays),
            round=round_,
            strategy=self._remembered.state_dict(),
            clients=exchange.states.rounds(),
            metrics=state.metrics + rows,
            bytes_down=exchange.bytes_down,
            bytes_up=exchange.bytes_up,
            seconds=[*state.seconds, time.perf_counter() - started],
            surroundings=state.surroundings,
        )
        state = replace(state, head=self.record.append(before, state, exchange.asked))
        state.save(self.checkpoint)
        exchange.states.commit()
        return state, scores

    def _train(self, round_: int, arrays: ArrayRecord) -> tuple[list[MetricRow], ArrayRecord]:
        """Return the round's metrics, and the arrays that the protocol has made."""
        rows, made = self.protocol.train(round_, arrays, self.participants)
        if odd := unlike(made, arrays):
            raise FedmedError(
                f"round {round_}: the strategy has made {odd}; what the last checkpoint holds is "
                "safe; a lower strategy.server_lr or client.lr often helps"
            )
        return rows, made

    def _moved(self, round_: int, before: Checkpoint) -> list[MetricRow]:
        """Return the array bytes that the round has moved."""
        exchange = self.participants.exchange
        moved = {
            "bytes_up": exchange.bytes_up - before.bytes_up,
            "bytes_down": exchange.bytes_down - before.bytes_down,
        }
        return [MetricRow(round_, "cost", POOLED, name, float(n)) for name, n in moved.items()]

    def _scores(self, arrays: ArrayRecord) -> Floats | None:
        return None if self.participants.config.strategy.keeps_parameters else self.score(arrays)

    def _test(self, round_: int, arrays: ArrayRecord) -> tuple[list[MetricRow], Floats | None]:
        scores = self._scores(arrays)
        if scores is None:
            return [], None
        targets = tuple(self.participants.config.dataset.arguments["targets"])
        rows: list[MetricRow] = [
            MetricRow(round_, "test", POOLED, "loss", metrics.bce(scores, self.truth))
        ]
        for name, values in metrics.per_target(scores, self.truth, targets).items():
            rows.append(MetricRow(round_, "test", POOLED, f"macro_{name}", metrics.macro(values)))
            rows += [MetricRow(round_, "test", POOLED, f"{name}/{t}", v) for t, v in values.items()]
        return rows, scores
