"""A round's validation: each client scores the global arrays on its own patients."""

import math
from collections.abc import Sequence

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord

from fedmed.core.records import POOLED, MetricRow
from fedmed.core.seeding import seeded_globals
from fedmed.evaluation import metrics
from fedmed.federation.messages import METRICS
from fedmed.federation.protocol import Participants


def validate(round_: int, arrays: ArrayRecord, participants: Participants) -> list[MetricRow]:
    """Return what those clients say of the arrays that the strategy asks and that can tell.

    Args:
        round_: the round.
        arrays: the global arrays after it.
        participants: the clients.

    Raises:
        FedmedError: if a client fails and ``faults`` do not allow for it.
    """
    if not participants.validating:
        return []
    config, strategy = participants.config, participants.strategy
    engine, client_of = participants.exchange.engine, participants.client_of
    with seeded_globals(config.seed, "configure validation", round_):
        asked = strategy.configure_evaluate(round_, arrays, ConfigRecord(), engine)
    able = [message for message in asked if client_of(message) in participants.validating]
    replies = participants.exchange.ask(round_, "val", able, participants.terms["val"])
    answers = list(replies)
    if answers:
        with seeded_globals(config.seed, "aggregate validation", round_):
            strategy.aggregate_evaluate(round_, answers)
    targets = tuple(config.dataset.arguments["targets"])
    by_client = {engine.client_of(answer.metadata.src_node_id): answer for answer in answers}
    return [*replies.metrics, *_compared(round_, targets, by_client), *replies.filter.rows()]


def _compared(round_: int, targets: Sequence[str], answers: dict[int, Message]) -> list[MetricRow]:
    """Return each client's AUROC by finding, and its macro over those that all who count share.

    ``findings`` is how many those are, ``positives`` a client's patients with the rarest.
    """
    auroc: dict[str, dict[str, float]] = {}
    positives: dict[str, dict[str, int]] = {}
    for client, answer in answers.items():
        record = answer.content.metric_records[METRICS]
        scores, counts = (_list(record, name) for name in (metrics.AUROC, metrics.POSITIVES))
        auroc[str(client)] = {t: v for t, v in zip(targets, scores, strict=True) if 0 <= v <= 1}
        told = {t: int(n) for t, n in zip(targets, counts, strict=True) if n >= 0}
        positives[str(client)] = told
    found = metrics.compared(auroc, positives)
    rows = [
        MetricRow(round_, "val", int(name), f"auroc/{target}", value)
        for name, values in auroc.items()
        for target, value in values.items()
    ]
    for name, count in found.positives.items():
        rows.append(MetricRow(round_, "val", int(name), "macro_auroc", found.macro[name]))
        rows.append(MetricRow(round_, "val", int(name), "positives", float(count)))
    return [*rows, MetricRow(round_, "val", POOLED, "findings", float(len(found.findings)))]


def _list(record: MetricRecord, name: str) -> list[float]:
    """Return a list of a reply that is known to have it; what is not finite in it as NaN."""
    values = record[name]
    assert isinstance(values, list)
    return [float(value) if math.isfinite(value) else float("nan") for value in values]
