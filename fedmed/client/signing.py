"""A hospital's signature on what came and what it returns, by a key that stays in its house."""

from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict

from fedmed.federation.messages import AGGREGATE, AGGREGATION, SIGNATURE, STATE, STEP, TaskSpec
from fedmed.flower.node_config import RECORD_KEY
from fedmed.flower.private import ClientAppCallable
from fedmed.record import hashes, signatures
from fedmed.record.signatures import Signer


def sign(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Sign an exchange where the node has a key: a Flower mod, around all that change the reply."""
    if RECORD_KEY not in context.node_config:
        return call_next(message, context)
    signer = Signer(Path(str(context.node_config[RECORD_KEY])))
    task = TaskSpec.of(message, context)
    given = [hashes.of_record(record) for record in message.content.array_records.values()]
    if (told := message.content.config_records.get(AGGREGATION)) is not None:
        given.append(hashes.of_told(told))
    reply = call_next(message, context)
    returned = RecordDict({name: one for name, one in reply.content.items() if name != STATE})
    statement = signatures.of_exchange(
        task.run.config_sha256,
        task.client,
        task.round,
        _scope(message),
        given,
        hashes.of_content(returned),
    )
    signature = signer.sign(statement)
    reply.content[SIGNATURE] = ConfigRecord({"key": signer.public, "signature": signature})
    return reply


def _scope(message: Message) -> str:
    """Return what an exchange is called in the record, as the server calls it."""
    kind = message.metadata.message_type
    if kind == AGGREGATE:
        return str(message.content.config_records[AGGREGATION][STEP])
    return "train" if kind.startswith("train") else "val"
