"""All that server and clients call by name: records, keys, codes of failures, and the task itself.

A message to a client holds what its strategy sends, and beside it the records :data:`RUN` and
:data:`TASK`. A reply holds arrays and metrics, and what a strategy's own rule adds.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from fedmed.core.errors import FedmedError
from fedmed.flower.arrays import decoded, record_of
from fedmed.flower.node_config import CLIENT, DEVICE, HOME, is_simulated
from fedmed.flower.private import ErrorCode

# Records of a message to a client
RUN = "run"  # what stays the same in a run
TASK = "task"  # who is meant, and when
ARRAYS = "arrays"  # the global arrays; the same in a reply: the client's
CONFIG = "config"  # what a strategy tells, and:
NOISE = "noise-multipliers"  # in it, of each client
RELEASE = "release"  # in it, the hash of a private run, for the strategy alone

# Records of a reply
METRICS = "metrics"
STATE = "state"  # tells that the client keeps a state of this round
SIGNATURE = "signature"  # of a hospital that has a key, on what came and what it returns
CHALLENGE = "challenge"  # in a message of DESCRIBE: what a hospital signs beside its report
AGGREGATION = "aggregation"  # to and from a client: its part in a sum that hides updates
NODE_REPORT = "node_report"  # what a hospital says of its data, to a message of DESCRIBE

# Record of a client's state
KEPT = "buffers"  # its own arrays, which never travel; as files have called them all along

DESCRIBE = "query.describe"  # the type of the message that asks for it
AGGREGATE = "query.aggregate"  # of those that ask for a step of an aggregation, beside training
STEP = "step"  # in its record: which step
PAYLOAD = "payload"  # the one array of a reply whose update travels as part of a sum

# Codes of a reply that is an error
RAISED: int = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
DIED: int = ErrorCode.CLIENT_APP_CRASHED
LATE: int = ErrorCode.REPLY_MESSAGE_UNAVAILABLE
#: What each is called in ``metrics.csv``; any other is ``raised``.
KINDS: Mapping[int, str] = {
    DIED: "died",
    ErrorCode.NODE_UNAVAILABLE: "died",
    LATE: "late",
    ErrorCode.MESSAGE_UNAVAILABLE: "late",
}


class Unfit(Exception):
    """What a client finds unfit for a sum: its update, or the model that it was sent.

    No server could look at an update there, and no client is hidden from a model made to open it.

    It is known by its words where only text travels.

    Args:
        kind: as in :data:`UNFIT`.
        what: it in words, after the client's name.
    """

    WORDS = "this update is unfit for a sum"

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(f"{self.WORDS} ({kind}): {what}")


#: What a client may say of an update of its own, as it is called in ``metrics.csv``.
UNFIT = ("wrong_shape", "not_finite", "too_far", "saturated", "model")


class DroppedOut(Exception):
    """A client that does not take part after all; known by its words where only text travels."""

    WORDS = "this client dropped out of the round"

    def __init__(self) -> None:
        super().__init__(self.WORDS)


def packed(fields: Mapping[str, Any]) -> RecordDict:
    """Return what one party tells another in a step of an aggregation, as it travels."""
    arrays = {key: value for key, value in fields.items() if isinstance(value, np.ndarray)}
    told = {key: value for key, value in fields.items() if key not in arrays}
    content = RecordDict({AGGREGATION: ConfigRecord(told)})
    if arrays:
        content[ARRAYS] = record_of(arrays)
    return content


def unpacked(content: RecordDict) -> dict[str, Any]:
    """Return what another party has told; see :func:`packed`.

    Raises:
        Undecodable: if an array is none.
        FedmedError: if there is anything else in it.
    """
    told = content.config_records.get(AGGREGATION)
    if told is None or content.keys() - {AGGREGATION, ARRAYS, RUN, TASK}:
        raise FedmedError("aggregation: what came is no part of a step")
    arrays = content.array_records.get(ARRAYS, ArrayRecord())
    return {**told, **{name: decoded(array) for name, array in arrays.items()}}


@dataclass(frozen=True)
class RunContext:
    """What every client is told about a run.

    Attributes:
        config: the run's task as text, see :mod:`fedmed.config.wire`.
        config_sha256: the text's hash.
        device: ``auto``, ``cpu`` or ``cuda``.
        store, table, partition: paths of the prepared pixels, their table, and who is whose;
            empty for those who know themselves where their files are.
        states: the folder of the clients' states, likewise.
    """

    config: str
    config_sha256: str
    device: str
    store: str = ""
    table: str = ""
    partition: str = ""
    states: str = ""

    def record(self) -> ConfigRecord:
        """Return the record that travels as :data:`RUN`."""
        return ConfigRecord(asdict(self))

    @classmethod
    def of(cls, message: Message, context: Context) -> Self:
        """Return what a message tells, with what is the node's own in its place.

        A hospital's node config says where its ``home`` is and, if it does, which ``device`` it
        computes on.

        Raises:
            FedmedError: if the message is another version's, or the node is no simulated one and
                has no home: it would go by paths of the server's choice.
        """
        run = cls(**_read(message, RUN, cls))
        own = context.node_config
        if is_simulated(context):
            return run
        if HOME not in own:
            raise FedmedError(
                f"this node has no {HOME} in its config, and so no policy: it answers nothing; "
                "fedmed hospital init makes one, fedmed hospital start a node with it"
            )
        home = Path(str(own[HOME]))
        return replace(
            run,
            device=str(own.get(DEVICE, run.device)),
            store=str(home / "data"),
            table=str(home / "data" / "table.parquet"),
            partition=str(home / "data" / "partition.csv"),
            states=str(home / "states"),
        )


@dataclass(frozen=True)
class _Turn:
    client: int
    round: int
    state: int
    kept: int


@dataclass(frozen=True)
class TaskSpec(_Turn):
    """Which client is meant, in which round of which run.

    Attributes:
        client: whose patients to train on or to validate with.
        round: the round that the message belongs to.
        state: the round whose file is the client's state, -1 if it has none yet.
        kept: the same as the server's last checkpoint has it.
        run: what every client is told.
        sum: what this one is told of the sum that its update is to be part of, if it is of any.
    """

    run: RunContext
    sum: ConfigRecord | None = None

    def records(self) -> dict[str, ConfigRecord]:
        """Return the records that travel, by name."""
        turn = {field.name: getattr(self, field.name) for field in fields(_Turn)}
        records = {RUN: self.run.record(), TASK: ConfigRecord(turn)}
        return records if self.sum is None else records | {AGGREGATION: self.sum}

    @classmethod
    def of(cls, message: Message, context: Context) -> "TaskSpec":
        """Return a message's task; see :meth:`RunContext.of`.

        Raises:
            FedmedError: if it is another version's, or meant for another hospital.
        """
        task = cls(**_read(message, TASK, _Turn), run=RunContext.of(message, context))
        own = context.node_config.get(CLIENT)
        if not is_simulated(context) and own != task.client:
            raise FedmedError(f"a message to client {task.client} came to client {own}")
        return task


def _read(message: Message, name: str, kind: type[Any]) -> dict[str, Any]:
    """Return the values of a record that has a dataclass's fields, of its types and no others."""
    record = dict(message.content.config_records.get(name, {}))
    if {key: type(value) for key, value in record.items()} != {
        f.name: f.type for f in fields(kind)
    }:
        raise FedmedError(f"a message whose record {name} is of another version of fedmed came")
    return record
