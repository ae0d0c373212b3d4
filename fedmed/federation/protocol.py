"""How server and clients learn together: what is a round, who meets whom in it, and in which order.

A run's loop (:mod:`fedmed.federation.rounds`) counts the rounds, tests, and keeps the checkpoint. A
protocol says what happens inside of one, with the clients as :class:`Participants`; whatever it
does, they are paid for before they are asked, their replies are held against what is due, and their
update steps are undone.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp.strategy import Strategy
from hydra.utils import get_object

from fedmed.aggregation.base import IntegerSum
from fedmed.config import Config
from fedmed.core.errors import ConfigError, FedmedError
from fedmed.core.records import POOLED, MetricRow
from fedmed.core.seeding import seeded_globals
from fedmed.federation import robust
from fedmed.federation.exchange import Exchange, Replies
from fedmed.federation.messages import NOISE, RELEASE
from fedmed.federation.replies import Terms
from fedmed.federation.summation import summed
from fedmed.federation.update_steps import UpdateStep
from fedmed.privacy import Ledger
from fedmed.privacy.budget import PrivacyBudget
from fedmed.privacy.plan import PrivacyPlan


@dataclass
class Participants:
    """The clients of a run, as a protocol meets them.

    Attributes:
        config: of the run.
        strategy: any Flower strategy: it chooses the cohorts.
        exchange: what goes to the clients and comes from them.
        steps: what clients do to their updates, and the server undoes.
        terms: what is known of the clients' replies beforehand, to ``train`` and to ``val``.
        validating: the clients that have patients for validation.
        plan: the run's privacy.
        ledger: of private releases.
        budget: pays for the clients' private training.
        release: what a private strategy's draws are keyed by: a hash of the configuration and of
            the clients' sizes, which a server knows whichever engine they run on.
        say: called with a line that a person should see.
    """

    config: Config
    strategy: Strategy
    exchange: Exchange
    steps: Sequence[UpdateStep]
    terms: Mapping[str, Terms]
    validating: frozenset[int]
    plan: PrivacyPlan
    ledger: Ledger
    budget: PrivacyBudget
    release: str
    say: Callable[[str], None]
    _drawn: int = 0  # the last round whose cohort was drawn
    _paid_for: set[tuple[int, int]] = field(default_factory=set)  # round and client, to be asked

    def check(self) -> None:
        """Refuse what names clients that are not there, or would wait for them for ever.

        Raises:
            ConfigError: naming the key.
        """
        clients = len(self.exchange.engine.get_node_ids())
        for fault in self.config.faults.inject:
            if odd := [k for k in fault.clients or () if not 0 <= k < clients]:
                raise ConfigError(f"faults.inject: client {odd[0]}, of 0 to {clients - 1}")
        holder = self.config.aggregation.arguments.get("holder", 0)
        if holder >= clients:
            raise ConfigError(f"aggregation.holder: client {holder}, of 0 to {clients - 1}")
        for key in ("min_train_nodes", "min_evaluate_nodes", "min_available_nodes"):
            if getattr(self.strategy, key, 0) > clients:
                raise ConfigError(
                    f"strategy.server.{key}: {getattr(self.strategy, key)}, of {clients} clients: "
                    "the run would wait for ever"
                )

    def cohort(self, round_: int, arrays: ArrayRecord) -> list[Message]:
        """Return a round's messages to those whom the strategy draws and who can pay for it.

        What the round releases is in the ledger by then.

        Args:
            round_: the round.
            arrays: what is sent, unless the protocol puts others in their place.
        """
        config = ConfigRecord()
        if self.plan.aggregate:
            config[RELEASE] = self.release
        if self.plan.training:
            config[NOISE] = self.budget.noise_multipliers()
        engine = self.exchange.engine
        with seeded_globals(self.config.seed, "configure", round_):
            messages = list(self.strategy.configure_train(round_, arrays, config, engine))
        robust.check(self.strategy, len(messages), round_)
        return self._paid(round_, messages)

    def train(self, round_: int, messages: Iterable[Message], *, in_turn: bool = False) -> Replies:
        """Return the replies of a cohort, their update steps undone; see :meth:`Exchange.ask`.

        Raises:
            ConfigError: if ``aggregation`` shows the server sums alone.
            FedmedError: of a private run, if the protocol asks whom :meth:`cohort` has not returned
                for this round, or anyone twice: nobody has paid for what they would release.
        """
        if self.sums:
            raise ConfigError(
                "aggregation: gives the server a sum of updates, and this protocol asks for each; "
                "take aggregation=float, or protocol=averaging"
            )
        due = map(partial(self._due, round_), messages)
        return self.exchange.ask(round_, "train", due, self.terms["train"], self.steps, in_turn)

    def collect(
        self, round_: int, messages: Sequence[Message]
    ) -> tuple[Replies, Iterable[Message]]:
        """Return a cohort's replies to training, and what the strategy is given in their place.

        These are the replies themselves, or where ``aggregation`` shows no more, one with their
        sum. The cohort is :meth:`cohort`'s.

        Raises:
            FedmedError: as :meth:`train` does, or if too few are left for a sum.
        """
        if not self.sums:
            replies = self.train(round_, messages)
            return replies, replies
        due = [self._due(round_, message) for message in messages]
        return summed(round_, due, self.config, self.exchange, self.terms["train"])

    def client_of(self, message: Message) -> int:
        """Return the client that a message goes to."""
        return self.exchange.engine.client_of(message.metadata.dst_node_id)

    def _due(self, round_: int, message: Message) -> Message:
        """Return a message whose reply is paid for, once."""
        due = (round_, self.client_of(message))
        if self._private and due not in self._paid_for:
            raise FedmedError(
                f"round {round_}: protocol: client {due[1]} is asked to train without having paid "
                "for it; a private round draws one cohort, and asks each client of it once"
            )
        self._paid_for.discard(due)
        return message

    def _paid(self, round_: int, messages: list[Message]) -> list[Message]:
        """Return the messages to those who can pay; what they release is in the ledger by then."""
        self.ledger.record(*self.plan.aggregated(round_))
        able = [self.client_of(message) for message in messages]
        if self.plan.training:
            before = set(self.ledger.stopped)
            able = self.budget.authorise(round_, able)
            for client in sorted(set(self.ledger.stopped) - before):
                self.say(f"client {client} stops before round {round_}: its budget is spent")
        if self._drawn != round_:  # a second cohort's releases would be those of the first
            self._drawn, self._paid_for = round_, {(round_, client) for client in able}
        to = {self.client_of(message): message for message in messages}
        return [to[client] for client in able]

    @property
    def sums(self) -> bool:
        """Whether the server is given sums of updates, and not each of them."""
        return issubclass(get_object(self.config.aggregation.target), IntegerSum)

    @property
    def _private(self) -> bool:
        return bool(self.plan.training or self.plan.aggregate)


class Protocol(ABC):
    """One way in which clients and server learn together.

    It keeps nothing from round to round: all that a round needs of those before it is in the
    arrays, in the strategy and in the clients' own states, which are checkpointed.
    """

    def check(self, config: Config, strategy: Strategy) -> None:  # noqa: B027 (most refuse nothing)
        """Refuse a strategy, or a value of its keys, that would mean nothing under this protocol.

        Raises:
            ConfigError: naming the key.
        """

    @abstractmethod
    def train(
        self, round_: int, arrays: ArrayRecord, participants: Participants
    ) -> tuple[list[MetricRow], ArrayRecord]:
        """Have the clients train for a round.

        Args:
            round_: the round.
            arrays: the global arrays before it.
            participants: the clients.

        Returns:
            The round's metrics, and the global arrays after it, of the same names and shapes.

        Raises:
            FedmedError: if a client fails and ``faults`` do not allow for it.
        """


def training_rows(round_: int, replies: Replies) -> list[MetricRow]:
    """Return what is recorded of a round's training: its clients' metrics, cohort and faults."""
    cohort = MetricRow(round_, "train", POOLED, "cohort", float(replies.filter.answered))
    return [*replies.metrics, cohort, *replies.filter.rows()]
