"""The rounds: configure, train, aggregate, evaluate, checkpoint; any strategy, any engine.

Flower's own loop (``Strategy.start``) always begins at round 1. This one drives the same public
methods, so that a run goes on from its checkpoint as if it had never been cut off.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp.strategy import Strategy

from fedmed.config import Config
from fedmed.core.errors import ConfigError, FedmedError
from fedmed.core.records import MetricRow
from fedmed.core.seeding import seeded_globals
from fedmed.evaluation import metrics
from fedmed.evaluation.metrics import Floats
from fedmed.federation import robust
from fedmed.federation.aggregation import aggregate
from fedmed.federation.asked import Asked
from fedmed.federation.checkpoint import (
    Checkpoint,
    load_strategy_state,
    strategy_state_dict,
)
from fedmed.federation.engine import Engine
from fedmed.federation.exchange import Exchange
from fedmed.federation.messages import METRICS, NOISE, RELEASE
from fedmed.federation.replies import Terms
from fedmed.federation.reply_filter import unlike
from fedmed.federation.update_steps import UpdateStep, decode
from fedmed.models import from_record, to_record
from fedmed.privacy import Ledger
from fedmed.privacy.budget import PrivacyBudget
from fedmed.privacy.plan import PrivacyPlan

log = logging.getLogger(__name__)

POOLED = -1  # the client of a metric that is of no one client
OnUpdate = Callable[[int], Sequence[MetricRow]]
OnRound = Callable[[int, Sequence[MetricRow]], None]


class Record(Protocol):
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
    """Who takes part in the rounds.

    Attributes:
        config: the run's configuration.
        strategy: any Flower strategy.
        exchange: what goes to the clients and comes from them.
        steps: what clients do to their updates, and the server undoes.
        score: returns the probabilities of the test images, N×T, under given arrays.
        terms: what is known of the clients' replies beforehand, to ``train`` and to ``val``.
        truth: labels of the test images, N×T.
        validating: the clients that have patients for validation.
        plan: the run's privacy.
        ledger: of private releases.
        budget: pays for the clients' private training.
        release: what a private strategy's draws are keyed by: a hash of the configuration and of
            the clients' sizes, which a server knows whichever engine they run on.
        record: keeps what was done, before it counts.
        checkpoint: the file.
        say: called with a line that a person should see.
    """

    config: Config
    strategy: Strategy
    exchange: Exchange
    steps: Sequence[UpdateStep]
    score: Callable[[ArrayRecord], Floats]
    terms: Mapping[str, Terms]
    truth: Floats
    validating: frozenset[int]
    plan: PrivacyPlan
    ledger: Ledger
    budget: PrivacyBudget
    release: str
    record: Record
    checkpoint: Path
    say: Callable[[str], None]

    def run(
        self, state: Checkpoint, on_update: OnUpdate, on_round: OnRound
    ) -> tuple[Checkpoint, Floats | None]:
        """Take the run from ``state`` through its last round.

        Args:
            state: where the run stands.
            on_update: called with each round whose aggregate stands; returns what else is to be
                recorded of it.
            on_round: called with each round and its metrics; 0 is the evaluation before the first.

        Returns:
            The last state and the probabilities of the test images, N×T; None where parameters stay
            with the clients, so that there is no one model to test.

        Raises:
            FedmedError: if a client fails and ``faults`` do not allow for it, or the disk is full;
                what the last checkpoint holds is safe.
        """
        exchange = self.exchange
        self._check_clients(len(self._grid.get_node_ids()))
        exchange.bytes_down, exchange.bytes_up = state.bytes_down, state.bytes_up
        exchange.states.resume(state.clients)
        if state.round:
            load_strategy_state(self.strategy, state.strategy)
            self.record.resume(state)
        else:
            state = replace(state, metrics=self._test(0, to_record(state.arrays))[0])
            self.record.begin(state)
            on_round(0, state.metrics)
        scores = None
        for round_ in range(state.round + 1, self.config.rounds + 1):
            if self._spent_out(round_):
                self.say(f"no client can pay for round {round_}: the run ends here")
                break
            done = len(state.metrics)
            state, scores = self._round(round_, state, on_update)
            on_round(round_, state.metrics[done:])
        if scores is None:  # cut off between the last checkpoint and the end
            scores = self._scores(to_record(state.arrays))
        return state, scores

    def _check_clients(self, clients: int) -> None:
        """Refuse what names clients that are not there, or would wait for them for ever."""
        for fault in self.config.faults.inject:
            if odd := [k for k in fault.clients or () if not 0 <= k < clients]:
                raise ConfigError(f"faults.inject: client {odd[0]}, of 0 to {clients - 1}")
        for key in ("min_train_nodes", "min_evaluate_nodes", "min_available_nodes"):
            if getattr(self.strategy, key, 0) > clients:
                raise ConfigError(
                    f"strategy.server.{key}: {getattr(self.strategy, key)}, of {clients} clients: "
                    "the run would wait for ever"
                )

    def _round(
        self, round_: int, state: Checkpoint, on_update: OnUpdate
    ) -> tuple[Checkpoint, Floats | None]:
        started = time.perf_counter()
        before, scores = state, None
        self.exchange.asked.clear()
        rows, arrays = self._train(round_, to_record(state.arrays))
        last = round_ == self.config.rounds or self._spent_out(round_ + 1)
        if round_ % self.config.evaluate_every == 0 or last:
            rows += self._validate(round_, arrays)
            test_rows, scores = self._test(round_, arrays)
            rows += test_rows
        rows += on_update(round_)
        rows += self._moved(round_, state)
        state = Checkpoint(
            data=state.data,
            arrays=from_record(arrays),
            round=round_,
            strategy=strategy_state_dict(self.strategy),
            clients=self.exchange.states.rounds(),
            metrics=state.metrics + rows,
            bytes_down=self.exchange.bytes_down,
            bytes_up=self.exchange.bytes_up,
            seconds=[*state.seconds, time.perf_counter() - started],
            surroundings=state.surroundings,
        )
        state = replace(state, head=self.record.append(before, state, self.exchange.asked))
        state.save(self.checkpoint)
        self.exchange.states.commit()
        return state, scores

    def _train(self, round_: int, arrays: ArrayRecord) -> tuple[list[MetricRow], ArrayRecord]:
        """Return the round's metrics and its aggregate."""
        config = ConfigRecord()
        if self.plan.aggregate:
            config[RELEASE] = self.release
        if self.plan.training:
            config[NOISE] = self.budget.noise_multipliers()
        with seeded_globals(self.config.seed, "configure", round_):
            messages = list(self.strategy.configure_train(round_, arrays, config, self._grid))
        robust.check(self.strategy, len(messages), round_)
        messages = self._paid(round_, messages)
        log.info("round %d begins with %d clients", round_, len(messages))
        replies = self.exchange.ask(round_, "train", messages, self.terms["train"])
        undone = decode(self.steps, messages, replies)
        aggregated = aggregate(self.strategy, self.config.seed, round_, undone)
        answered = replies.filter.answered
        cohort = MetricRow(round_, "train", POOLED, "cohort", float(answered))
        if aggregated is None:
            if answered:
                raise FedmedError(f"round {round_}: the strategy has made nothing of its replies")
            aggregated = arrays
        if odd := unlike(aggregated, arrays):
            raise FedmedError(
                f"round {round_}: the strategy has made {odd}; what the last checkpoint holds is "
                "safe; a lower strategy.server_lr or client.lr often helps"
            )
        return [*replies.metrics, cohort, *replies.filter.rows()], aggregated

    def _paid(self, round_: int, messages: list[Message]) -> list[Message]:
        """Return the messages to those who can pay; what they release is in the ledger by then."""
        self.ledger.record(*self.plan.aggregated(round_))
        if not self.plan.training:
            return messages
        to = {self._client(m.metadata.dst_node_id): m for m in messages}
        before = set(self.ledger.stopped)
        able = self.budget.authorise(round_, to)
        for client in sorted(set(self.ledger.stopped) - before):
            self.say(f"client {client} stops before round {round_}: its budget is spent")
        return [to[client] for client in able]

    def _spent_out(self, round_: int) -> bool:
        return self.budget.exhausted(round_)

    def _moved(self, round_: int, before: Checkpoint) -> list[MetricRow]:
        """Return the array bytes that the round has moved."""
        moved = {
            "bytes_up": self.exchange.bytes_up - before.bytes_up,
            "bytes_down": self.exchange.bytes_down - before.bytes_down,
        }
        return [MetricRow(round_, "cost", POOLED, name, float(n)) for name, n in moved.items()]

    def _validate(self, round_: int, arrays: ArrayRecord) -> list[MetricRow]:
        if not self.validating:
            return []
        with seeded_globals(self.config.seed, "configure validation", round_):
            asked = self.strategy.configure_evaluate(round_, arrays, ConfigRecord(), self._grid)
        able = [m for m in asked if self._client(m.metadata.dst_node_id) in self.validating]
        replies = self.exchange.ask(round_, "val", able, self.terms["val"])
        answers = list(replies)
        if answers:
            with seeded_globals(self.config.seed, "aggregate validation", round_):
                self.strategy.aggregate_evaluate(round_, answers)
        return [*replies.metrics, *self._compared(round_, answers), *replies.filter.rows()]

    def _compared(self, round_: int, replies: Sequence[Message]) -> list[MetricRow]:
        """Return each client's AUROC by finding, and its macro over those that all who count share.

        ``findings`` is how many those are, ``positives`` a client's patients with the rarest.
        """
        targets = tuple(self.config.dataset.arguments["targets"])
        auroc: dict[str, dict[str, float]] = {}
        positives: dict[str, dict[str, int]] = {}
        for reply in replies:
            client = str(self._client(reply.metadata.src_node_id))
            record = reply.content.metric_records[METRICS]
            scores, counts = (_list(record, name) for name in (metrics.AUROC, metrics.POSITIVES))
            auroc[client] = {t: v for t, v in zip(targets, scores, strict=True) if 0 <= v <= 1}
            positives[client] = {t: int(n) for t, n in zip(targets, counts, strict=True) if n >= 0}
        found = metrics.compared(auroc, positives)
        rows: list[MetricRow] = [
            MetricRow(round_, "val", int(client), f"auroc/{target}", value)
            for client, values in auroc.items()
            for target, value in values.items()
        ]
        for client, count in found.positives.items():
            rows.append(MetricRow(round_, "val", int(client), "macro_auroc", found.macro[client]))
            rows.append(MetricRow(round_, "val", int(client), "positives", float(count)))
        return [*rows, MetricRow(round_, "val", POOLED, "findings", float(len(found.findings)))]

    def _scores(self, arrays: ArrayRecord) -> Floats | None:
        return None if self.config.strategy.keeps_parameters else self.score(arrays)

    def _test(self, round_: int, arrays: ArrayRecord) -> tuple[list[MetricRow], Floats | None]:
        scores = self._scores(arrays)
        if scores is None:
            return [], None
        targets = tuple(self.config.dataset.arguments["targets"])
        rows: list[MetricRow] = [
            MetricRow(round_, "test", POOLED, "loss", metrics.bce(scores, self.truth))
        ]
        for name, values in metrics.per_target(scores, self.truth, targets).items():
            rows.append(MetricRow(round_, "test", POOLED, f"macro_{name}", metrics.macro(values)))
            rows += [MetricRow(round_, "test", POOLED, f"{name}/{t}", v) for t, v in values.items()]
        return rows, scores

    @property
    def _grid(self) -> Engine:
        return self.exchange.engine

    def _client(self, node: int) -> int:
        return self._grid.client_of(node)


def _list(record: MetricRecord, name: str) -> list[float]:
    """Return a list of a reply that is known to have it; what is not finite in it as NaN."""
    values = record[name]
    assert isinstance(values, list)
    return [float(value) if math.isfinite(value) else float("nan") for value in values]
