"""What a client may do wrong, and what the server does about it; the same on every engine.

Each reply is looked at before it can enter an average. By ``faults.on_failure`` a fault stops the
run (``stop``), or the round goes on without that client and says so (``exclude``). Faults that are
injected on purpose are :mod:`fedmed.client.fault_injection`'s.
"""

import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Message, RecordDict

from fedmed.config import Faults
from fedmed.core.errors import FedmedError
from fedmed.core.records import POOLED, MetricRow
from fedmed.core.texts import block, cause, printable
from fedmed.federation.messages import AGGREGATE, KINDS, UNFIT, DroppedOut, Unfit
from fedmed.federation.replies import Malformed, Terms, read, read_fields
from fedmed.flower.arrays import decoded

log = logging.getLogger(__name__)

SCOPE = "faults"  # of their rows in metrics.csv
NAMED = 5  # clients named in a line of the console

_UNFIT = re.compile(rf"{Unfit.WORDS} \((?P<kind>{'|'.join(UNFIT)})\): (?P<what>.+)")
#: A message to a client and its reply, which may be none.
Answered = tuple[Message, Message | None]


@dataclass(frozen=True)
class ReplyError:
    """What is wrong with a reply.

    Attributes:
        kind: ``raised``, ``dropped_out``, ``died``, ``late``, ``malformed``, ``wrong_shape``,
            ``not_finite``, ``too_far``, ``saturated`` or ``model``, for one that it refuses to
            train; the metric's name in ``metrics.csv``.
        what: it in words, after the client's name.
        details: a traceback, if there is one.
    """

    kind: str
    what: str
    details: str = ""


class ClientFailure(FedmedError):
    """A fault that ends the run; ``details`` is the client's traceback, if it raised."""

    def __init__(self, round_: int, client: int, error: ReplyError) -> None:
        super().__init__(
            f"round {round_}: client {client} {error.what}; nothing was averaged and what the last "
            "checkpoint holds is safe; faults.on_failure=exclude goes on without such a client"
        )
        self.details = error.details


def error_of(
    reply: Message,
    sent: RecordDict,
    max_norm: float | None,
    client: int = 0,
    terms: Terms | None = None,
) -> ReplyError | None:
    """Return what is wrong with a reply, if anything is; a sound one's arrays are then decoded.

    Args:
        reply: from a client.
        sent: what it was sent; a reply to training has arrays of the same names and shapes.
        max_norm: the largest L2 norm of an update, over all arrays together.
        client: whose it is.
        terms: what else a sound reply holds.
    """
    if reply.has_error():
        return _of_error(reply.error.code, reply.error.reason or "")
    kind = reply.metadata.message_type
    start = sent if kind.startswith("train") else RecordDict()
    try:
        if kind == AGGREGATE:
            content = read_fields(reply.content)
        else:
            content = read(reply.content, start, client, terms or Terms())
    except Malformed as error:
        return ReplyError(error.kind, str(error))
    except Exception as error:  # of a reply made to break its reader, anything may come
        return ReplyError("malformed", f"returned what cannot be read ({type(error).__name__})")
    if kind != AGGREGATE and not (terms and terms.summed):  # else its client has looked itself
        for key, record in content.array_records.items():
            if found := unfit(record, start.array_records[key], max_norm):
                return found
    reply.content = content
    return None


def unfit(record: ArrayRecord, start: ArrayRecord, max_norm: float | None) -> ReplyError | None:
    """Return what is wrong with the values of an update, if anything is.

    Args:
        record: the arrays after training.
        start: before it.
        max_norm: the largest L2 norm of the update, over all arrays together.
    """
    if _shapes(record) != _shapes(start):
        return ReplyError(
            "wrong_shape", "returned arrays of other names or shapes than it was sent"
        )
    norm = _norm(record, start)
    if not math.isfinite(norm) and (name := _not_finite(record)):
        return ReplyError(
            "not_finite", f"returned NaN or infinity in {name} (a lower client.lr often helps)"
        )
    if max_norm is not None and not norm <= max_norm:
        return ReplyError(
            "too_far", f"returned an update of norm {norm:.3g}, over faults.max_norm={max_norm:g}"
        )
    return None


def _of_error(code: int, reason: str) -> ReplyError:
    if code in KINDS:
        return ReplyError(KINDS[code], f"did not answer: {cause(reason)}")
    if DroppedOut.WORDS in reason:
        return ReplyError("dropped_out", "dropped out")
    if unfit := _UNFIT.search(reason):
        return ReplyError(unfit["kind"], printable(unfit["what"]))
    return ReplyError(
        "raised",
        f"failed: {cause(reason)} (traceback in run.log)",
        block(reason) if reason.strip() else "",
    )


def _norm(record: ArrayRecord, start: ArrayRecord) -> float:
    """Return the L2 norm of an update; not finite if it holds anything that is not."""
    squares = 0.0
    for name, array in record.items():
        step = decoded(array).astype(np.float64)
        step -= decoded(start[name])
        squares += float(np.square(step, out=step).sum())  # a dot product would take every core
    return math.sqrt(squares)


def unlike(record: ArrayRecord, start: ArrayRecord) -> str | None:
    """Return in words what an aggregate has that is not in the place of the arrays before it."""
    if _shapes(record) != _shapes(start):
        return "arrays of other names or shapes"
    name = _not_finite(record)
    return f"NaN or infinity in {name}" if name else None


def _shapes(record: ArrayRecord) -> dict[str, tuple[int, ...]]:
    return {name: decoded(array).shape for name, array in record.items()}


def _not_finite(record: ArrayRecord) -> str | None:
    return next((n for n, array in record.items() if not np.isfinite(decoded(array)).all()), None)


@dataclass
class ReplyFilter:
    """Lets through the usable replies of one exchange.

    Attributes:
        policy: what to do with the others.
        round: of the exchange.
        client_of: the client behind a node.
        on_client: called with a client whose reply is let through.
        say: called with a line that a person should see.
        on_refused: called with a client whose reply came and is not.
        terms: what is known of sound replies beforehand.
        answered: replies let through so far.
        excluded: what was wrong with the others, by client.
    """

    policy: Faults
    round: int
    client_of: Callable[[int], int]
    on_client: Callable[[int], None]
    on_refused: Callable[[int], None]
    say: Callable[[str], None]
    terms: Terms = field(default_factory=Terms)
    answered: int = 0
    excluded: dict[int, ReplyError] = field(default_factory=dict)

    def accept(self, answered: Iterable[Answered]) -> Iterator[tuple[Message, Message]]:
        """Yield the messages whose replies are sound, with those, in their order.

        Raises:
            ClientFailure: at the first that is not, if the policy is to stop.
            FedmedError: in the end, if too few are.
        """
        asked = 0
        for message, reply in answered:
            asked += 1
            client = self.client_of(message.metadata.dst_node_id)
            if reply is None:
                self._exclude(client, ReplyError("late", "did not answer: no answer in time"))
                continue
            error = error_of(reply, message.content, self.policy.max_norm, client, self.terms)
            if error:
                self._exclude(client, error)
                if not reply.has_error():
                    self.on_refused(client)
                continue
            self.answered += 1
            self.on_client(client)
            yield message, reply
        self._conclude(asked)

    def reject(self, client: int, error: ReplyError) -> None:
        """Take back a reply that was let through, while the exchange goes on."""
        self.answered -= 1
        self._exclude(client, error)
        self.on_refused(client)

    def rows(self) -> list[MetricRow]:
        """Return a row for each client that was excluded, and one for how many of each kind."""
        kinds = Counter(error.kind for error in self.excluded.values())
        return [
            *(
                MetricRow(self.round, SCOPE, k, error.kind, 1.0)
                for k, error in self.excluded.items()
            ),
            *(
                MetricRow(self.round, SCOPE, POOLED, kind, float(n))
                for kind, n in sorted(kinds.items())
            ),
        ]

    def _exclude(self, client: int, error: ReplyError) -> None:
        if self.policy.on_failure == "stop":
            raise ClientFailure(self.round, client, error)
        details = f"\n{error.details}" if error.details else ""
        log.warning("round %d: client %d %s%s", self.round, client, error.what, details)
        self.excluded[client] = error

    def _conclude(self, asked: int) -> None:
        if not self.excluded:
            return
        told = [f"client {client} {error.what}" for client, error in self.excluded.items()]
        more = f"; and {len(told) - NAMED} more" if len(told) > NAMED else ""
        if self.answered < min(self.policy.min_clients, asked):
            raise FedmedError(
                f"round {self.round}: {self.answered} of {asked} clients gave a usable answer, "
                f"faults.min_clients is {self.policy.min_clients}; {told[0]}; what the last "
                "checkpoint holds is safe"
            )
        without = f"{len(told)} of {asked} clients"
        self.say(f"round {self.round} without {without}: {'; '.join(told[:NAMED])}{more}")


def summary_of(rows: Iterable[MetricRow]) -> dict[str, Any]:
    """Return what ``summary.json`` says: exclusions in all, by kind and by client."""
    faults = [(row.client, row.metric) for row in rows if row.scope == SCOPE and row.client >= 0]
    return {
        "excluded": len(faults),
        "by_kind": dict(sorted(Counter(kind for _, kind in faults).items())),
        "by_client": dict(sorted(Counter(str(client) for client, _ in faults).items())),
    }
