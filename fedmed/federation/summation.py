"""A round's training whose updates the server has the sum of, and where it can, nothing else."""

import math
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, cast

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp.strategy import Strategy

from fedmed.aggregation.base import (
    FEWEST,
    Aggregation,
    Fields,
    IntegerSum,
    Payload,
    Session,
    Take,
    TooFew,
)
from fedmed.config import Config
from fedmed.core.errors import ConfigError, FedmedError
from fedmed.core.records import POOLED, MetricRow
from fedmed.federation.exchange import Exchange, Replies, not_taken
from fedmed.federation.messages import ARRAYS, PAYLOAD
from fedmed.federation.replies import Terms
from fedmed.federation.reply_filter import ReplyError
from fedmed.federation.summands import plan_of
from fedmed.federation.update_steps import UpdateStep
from fedmed.flower.arrays import decoded
from fedmed.flower.strategies import aggregation_of

# In the record that a client is told of its sum, beside what the aggregation itself tells it
ATTEMPT, MEMBERS, TOGETHER = "attempt", "cohort", "examples"
ATTEMPT_BYTES = 16


def check(config: Config, strategy: Strategy, steps: Sequence[UpdateStep]) -> None:
    """Refuse what an aggregation cannot do, or a strategy cannot do without.

    Args:
        config: of the run.
        strategy: of the run, as it was built.
        steps: on each update.

    Raises:
        ConfigError: naming the key, and what to take.
    """
    aggregation = config.aggregation.build()
    if not isinstance(aggregation, Aggregation):
        raise ConfigError(f"aggregation: {config.aggregation.target} is no Aggregation")
    summed = config.strategy.server.has("summand")
    name, own = type(strategy).__name__, type(aggregation).__name__
    if not isinstance(aggregation, IntegerSum):
        if summed and strategy.sums:  # type: ignore[attr-defined]
            raise ConfigError(
                f"aggregation: {name} relies on a server that has the sum of the updates alone; "
                "take aggregation=secagg, or fixed to simulate it"
            )
        return
    aggregation.check(FEWEST, aggregation.bits + FEWEST.bit_length())  # its own keys, beforehand
    if summed and not strategy.sums:  # type: ignore[attr-defined]
        raise ConfigError(
            f"strategy.noise: takes distributed where the server has sums alone (aggregation is "
            f"{own}), got {strategy.mechanism.noise}"  # type: ignore[attr-defined]
        )
    if not summed and aggregation_of(strategy) != "mean":
        raise ConfigError(
            f"aggregation: {own} gives the server a sum, and {name} needs each update; take "
            "strategy=fedavg with faults.max_norm, or aggregation=float"
        )
    for step in steps:
        if type(step).decode is not UpdateStep.decode or step.records or step.metrics:
            raise ConfigError(
                f"strategy.local: {type(step).__name__} is undone, or tells, update by update, "
                f"which aggregation ({own}) does not let the server see"
            )


def summed(
    round_: int, messages: Sequence[Message], config: Config, exchange: Exchange, terms: Terms
) -> tuple[Replies, list[Message]]:
    """Return a cohort's replies, and one reply with their sum in the place of all.

    Args:
        round_: the round.
        messages: to its cohort.
        config: of the run, whose aggregation is an :class:`IntegerSum`.
        exchange: with its clients.
        terms: what is known of replies to training.

    Raises:
        ConfigError: if there are too many members for the integers' bits, or they are not all sent
            the same.
        FedmedError: if clients fail and ``faults`` do not allow for it, or too few are left for a
            sum that hides each of them.
    """
    aggregation: IntegerSum = config.aggregation.build()
    client_of = exchange.engine.client_of
    to = {client_of(message.metadata.dst_node_id): message for message in messages}
    members = tuple(sorted(to))
    if aggregation.hides and len(members) < FEWEST:
        raise TooFew(
            f"round {round_}: aggregation: a sum hides each update among {FEWEST} or more, and "
            f"the cohort has {len(members)}; take more clients, or a larger strategy.fraction"
        )
    if not members:
        return exchange.ask(round_, "train", (), terms.of_sum), []
    sent = messages[0].content
    if any(message.content[ARRAYS] is not sent[ARRAYS] for message in messages):
        raise ConfigError(
            f"strategy.server: {config.strategy.server.target} sends clients arrays of their own, "
            "of which changes have no sum; take aggregation=float"
        )
    plan = plan_of(config, aggregation, sent, len(members))
    # where nothing is hidden nothing is drawn, and the record is the same again
    attempt = secrets.token_bytes(ATTEMPT_BYTES) if aggregation.hides else bytes(ATTEMPT_BYTES)
    sizes = _sizes(members, terms)
    session = Session(exchange.task, round_, attempt, members, sum(sizes.values()))
    collector = aggregation.collector(session, plan.codec.size, plan.width)
    heading = heading_of(session)
    faults: dict[int, ReplyError] = {}

    def ask(step: str, told: Mapping[int, Fields], take: Take) -> None:
        headed = {client: {**heading, **fields} for client, fields in told.items()}
        faults.update(exchange.query(round_, step, headed, take))

    sums = {
        client: ConfigRecord({**heading, **told}) for client, told in collector.prepare(ask).items()
    }
    asked = [to[client] for client in sorted(sums)]
    replies = exchange.ask(round_, "train", asked, terms.of_sum, sums=sums)
    survivors: dict[int, Message] = {}
    for reply in replies:
        client = client_of(reply.metadata.src_node_id)
        try:
            collector.add(client, _payload(reply))
        except FedmedError as bad:
            replies.filter.reject(client, not_taken(bad))
        else:
            reply.content = RecordDict()
            survivors[client] = reply
    least = aggregation.survivors(len(members))
    if len(survivors) < least:
        raise TooFew(
            f"round {round_}: aggregation: {len(survivors)} of {len(members)} clients are left, "
            f"and aggregation.threshold takes {least}; what the last checkpoint holds is safe"
        )
    total = collector.open(ask)
    for client, error in faults.items():
        replies.filter.excluded.setdefault(client, error)
    weight = sum(session.weight(sizes[client]) for client in survivors)
    content, loss = plan.decode(total, sent, weight)
    if not math.isnan(loss):
        replies.metrics.append(MetricRow(round_, "train", POOLED, "loss", loss))
    one = next(iter(survivors.values()))
    one.content = content
    return replies, [one]


def heading_of(session: Session) -> dict[str, Any]:
    """Return what stands in each message of a session."""
    members = list(session.members)
    return {ATTEMPT: session.attempt, MEMBERS: members, TOGETHER: session.examples}


def _sizes(members: Sequence[int], terms: Terms) -> dict[int, int]:
    """Return each member's examples, by which it weighs; 0 where all weigh the same."""
    if terms.weighting == "uniform":
        return dict.fromkeys(members, 0)
    assert terms.examples is not None
    return {client: terms.examples[client] for client in members}


def _payload(reply: Message) -> Payload:
    return cast(Payload, decoded(reply.content.array_records[ARRAYS][PAYLOAD]))
