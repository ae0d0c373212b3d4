"""A run's exchanges with its clients: who is asked what, what comes back, and what it weighs.

The engine carries messages. Rounds, client states and bytes are counted here, whatever carries.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from flwr.app import ConfigRecord, Message, RecordDict

from fedmed.aggregation.base import Fields, Take
from fedmed.config import Faults
from fedmed.core.errors import FedmedError
from fedmed.core.records import WEIGHT, MetricRow
from fedmed.core.texts import printable
from fedmed.federation.asked import Asked
from fedmed.federation.client_states import ClientStates
from fedmed.federation.engine import Engine
from fedmed.federation.messages import (
    AGGREGATE,
    AGGREGATION,
    STATE,
    STEP,
    RunContext,
    TaskSpec,
    packed,
    unpacked,
)
from fedmed.federation.replies import Terms
from fedmed.federation.reply_filter import Answered, ReplyError, ReplyFilter
from fedmed.federation.update_steps import UpdateStep, decode
from fedmed.flower.arrays import size_of


class Exchange:
    """What goes to the clients of a run and comes from them.

    Args:
        engine: carries the messages.
        run: what each client is told about the run.
        faults: the policy for replies that are not usable, and the deadline.
        on_client: called with a client whose reply is accepted.
        say: called with a line that a person should see.

    Attributes:
        states: which round's state each client has.
        bytes_down, bytes_up: bytes of arrays, and of what an aggregation sends beside them, to and
            from clients so far.
        asked: what was asked since the round began, and what came back.
    """

    def __init__(
        self,
        engine: Engine,
        run: RunContext,
        faults: Faults,
        on_client: Callable[[int], None],
        say: Callable[[str], None],
    ) -> None:
        self.engine = engine
        self.states = ClientStates()
        self.bytes_down = self.bytes_up = 0
        self.asked: list[Asked] = []
        self._run = run
        self._faults = faults
        self._on_client = on_client
        self._say = say

    @property
    def task(self) -> str:
        """The hash of the run's task."""
        return self._run.config_sha256

    def resume(self, bytes_down: int, bytes_up: int, states: Mapping[int, int]) -> None:
        """Begin with what a checkpoint has counted, and the clients' states that it names."""
        self.bytes_down, self.bytes_up = bytes_down, bytes_up
        self.states.resume(states)

    def ask(
        self,
        round_: int,
        scope: str,
        messages: Iterable[Message],
        terms: Terms,
        steps: Sequence[UpdateStep] = (),
        in_turn: bool = False,
        sums: Mapping[int, ConfigRecord] | None = None,
    ) -> "Replies":
        """Return the replies to messages; they are sent as the replies are taken.

        Args:
            round_: the round that they belong to.
            scope: of their metrics: ``train`` or ``val``.
            messages: at most one to a client.
            terms: what is known of sound replies beforehand.
            steps: what a client does to a reply of this scope, and is undone here.
            in_turn: take each message and send it only when the reply to the one before it has
                been taken, so that it may depend on that reply; else all are sent together.
            sums: client → what it is told of the sum that its update is part of.
        """
        filter_ = self._filter(round_, terms, self._on_client, self.states.undo)
        asked = self._asked(round_, scope, filter_)
        orders = ([message] for message in messages) if in_turn else [list(messages)]
        answered = (
            pair for some in orders for pair in self._exchange(round_, some, asked, sums or {})
        )
        return Replies(scope, filter_, filter_.accept(answered), steps)

    def query(
        self, round_: int, step: str, told: Mapping[int, Fields], take: Take
    ) -> Mapping[int, ReplyError]:
        """Have clients answer a step of an aggregation, beside training.

        Args:
            round_: the round.
            step: its name.
            told: client → what it is told.
            take: is given each answer, in the clients' order.

        Returns:
            What is wrong with the answers that were not taken, or did not come, by client.

        Raises:
            FedmedError: if ``faults`` do not allow for them.
        """
        nodes = {self.engine.client_of(node): node for node in self.engine.get_node_ids()}
        messages = [
            Message(packed({**told[client], STEP: step}), nodes[client], AGGREGATE)
            for client in sorted(told)
        ]
        filter_ = self._filter(round_, Terms(), _nothing, _nothing)
        asked = self._asked(round_, step, filter_)
        for message, reply in filter_.accept(self._exchange(round_, messages, asked, {})):
            client = self.engine.client_of(message.metadata.dst_node_id)
            try:
                take(client, unpacked(reply.content))
            except FedmedError as bad:
                filter_.reject(client, not_taken(bad))
        return filter_.excluded

    def _filter(
        self,
        round_: int,
        terms: Terms,
        on_client: Callable[[int], None],
        on_refused: Callable[[int], None],
    ) -> ReplyFilter:
        return ReplyFilter(
            self._faults,
            round_,
            self.engine.client_of,
            on_client,
            on_refused,
            self._say,
            terms,
        )

    def _asked(self, round_: int, scope: str, filter_: ReplyFilter) -> Asked:
        asked = Asked(scope, self._run.config_sha256, round_, filter_.excluded)
        self.asked.append(asked)
        return asked

    def _exchange(
        self,
        round_: int,
        messages: Sequence[Message],
        asked: Asked,
        sums: Mapping[int, ConfigRecord],
    ) -> Iterator[Answered]:
        """Yield messages with their replies, in the clients' order; those without one last."""
        asked.sent({self.engine.client_of(m.metadata.dst_node_id): m for m in messages})
        tasks, waiting = {}, {}
        for message in messages:
            node = message.metadata.dst_node_id
            client = self.engine.client_of(node)
            sum_ = sums.get(client)
            tasks[node] = TaskSpec(client, round_, *self.states.of(client), self._run, sum_)
            waiting[node] = message
            self.bytes_down += _bytes(message.content) + _size(sum_)
        for reply in self.engine.exchange(messages, tasks, self._faults.deadline):
            if not reply.has_error():
                self._received(round_, reply, asked)
            yield waiting.pop(reply.metadata.src_node_id), reply
        for message in waiting.values():  # an engine may leave out who is late
            yield message, None

    def _received(self, round_: int, reply: Message, asked: Asked) -> None:
        """Count a reply's bytes, note what it is, and take the state that its client has left."""
        client = self.engine.client_of(reply.metadata.src_node_id)
        if reply.content.pop(STATE, None):
            self.states.adopt(client, round_)
        asked.came(client, reply, self._say)
        self.bytes_up += _bytes(reply.content)


def _nothing(client: int) -> None:
    """Do nothing about a client whose answer left no state."""


def not_taken(error: FedmedError) -> ReplyError:
    """Return the fault of a client whose part in a sum is not what it had to be."""
    return ReplyError("malformed", f"sent what its sum cannot take: {printable(str(error))}")


class Replies:
    """The usable replies of one exchange, one by one in the order of the clients.

    Args:
        scope: of their metrics.
        filter_: which of them are usable.
        accepted: those, each behind its message.
        steps: what is undone in each.
    """

    def __init__(
        self,
        scope: str,
        filter_: ReplyFilter,
        accepted: Iterator[tuple[Message, Message]],
        steps: Sequence[UpdateStep],
    ) -> None:
        self.filter = filter_
        self.metrics: list[MetricRow] = []
        self._scope = scope
        self._accepted = accepted
        self._steps = steps

    def __iter__(self) -> Iterator[Message]:
        """Yield each reply once, with all steps undone, and note its metrics."""
        for message, reply in self._accepted:
            client = self.filter.client_of(reply.metadata.src_node_id)
            told = [
                MetricRow(self.filter.round, self._scope, client, name, float(value))
                for record in reply.content.metric_records.values()
                for name, value in record.items()
                if name != WEIGHT and not isinstance(value, list)
            ]
            decode(self._steps, message.content, reply.content)
            yield reply
            if client not in self.filter.excluded:  # whoever took it may not have liked it
                self.metrics += told


def _bytes(content: RecordDict) -> int:
    """Return the bytes of arrays, and those that an aggregation has beside them."""
    arrays = sum(size_of(record) for record in content.array_records.values())
    return arrays + _size(content.config_records.get(AGGREGATION))


def _size(fields: ConfigRecord | None) -> int:
    """Return the bytes of the keys, shares and ciphers in a record; numbers count nothing."""
    found = 0
    for value in (fields or {}).values():
        many = value if isinstance(value, list) else [value]
        found += sum(len(one) for one in many if isinstance(one, bytes))
    return found
