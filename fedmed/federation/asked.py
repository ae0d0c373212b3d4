"""What clients were asked in a round and what came back, as hashes, for the run's record."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flwr.app import ConfigRecord, Message

from fedmed.federation.messages import AGGREGATION, SIGNATURE
from fedmed.federation.reply_filter import ReplyError
from fedmed.record import hashes, signatures


@dataclass
class Asked:
    """One exchange of a round.

    Attributes:
        scope: ``train``, ``val``, or the step of an aggregation.
        task: the hash of the run's task, as clients are told it.
        round: the round.
        excluded: client → what is wrong with its reply, or with none coming; filled as they come.
        given: client → the hashes of the array records that it was sent, and of what it was told of
            a sum, in order.
        returned: client → the hash of its reply as it came.
        signatures: what hospitals signed of it.
    """

    scope: str
    task: str
    round: int
    excluded: Mapping[int, ReplyError]
    given: dict[int, list[str]] = field(default_factory=dict)
    returned: dict[int, str] = field(default_factory=dict)
    signatures: list[dict[str, Any]] = field(default_factory=list)

    def sent(self, messages: Mapping[int, Message], sums: Mapping[int, ConfigRecord]) -> None:
        """Note what each client is sent.

        Args:
            messages: to each; they may share arrays.
            sums: client → what it is told, beside its message, of the sum that it is part of.
        """
        digests: dict[int, str] = {}
        for client, message in messages.items():
            records = list(message.content.array_records.values())
            for record in records:
                if id(record) not in digests:
                    digests[id(record)] = hashes.of_record(record)
            told = sums.get(client, message.content.config_records.get(AGGREGATION))
            of_sum = [] if told is None else [hashes.of_told(told)]
            self.given[client] = sorted([*(digests[id(record)] for record in records), *of_sum])

    def came(self, client: int, reply: Message, say: Callable[[str], None]) -> None:
        """Note a reply as it came, and keep its hospital's signature if it holds.

        Args:
            client: whose it is.
            reply: with nothing in it but what the client returns, and its signature.
            say: told of a signature that does not hold.
        """
        signed = reply.content.pop(SIGNATURE, None)
        self.returned[client] = returned = hashes.of_content(reply.content)
        if not isinstance(signed, ConfigRecord):
            return
        key, signature = (str(signed.get(name)) for name in ("key", "signature"))
        statement = signatures.of_exchange(
            self.task, client, self.round, self.scope, self.given[client], returned
        )
        if signatures.holds(key, signature, statement):
            self.signatures.append(signatures.signed(statement, key, signature))
        else:
            say(f"round {self.round}: the signature of client {client} does not hold")

    def record(self) -> dict[str, Any]:
        """Return what the run's record binds."""
        return {
            "scope": self.scope,
            "asked": sorted(self.given),
            "given": sorted({digest for given in self.given.values() for digest in given}),
            "returned": {str(client): digest for client, digest in self.returned.items()},
            "faults": {str(client): error.kind for client, error in self.excluded.items()},
        }
