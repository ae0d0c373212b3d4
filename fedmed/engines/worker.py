"""What a worker process does: play a client for one message, or score a shard of the test split."""

import os
import signal
import traceback
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import cast

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from fedmed.client.app import app
from fedmed.client.context import at
from fedmed.core.processes import leave_with_parent
from fedmed.evaluation.metrics import Floats
from fedmed.federation.messages import BRIEF
from fedmed.flower import process, serialization

RunConfig = dict[str, str]


@dataclass(frozen=True)
class Order:
    """A message to a client, its content left in a file that all its receivers share.

    Attributes:
        content: the file.
        reply: the file where the reply's content goes.
        message_type: Flower's ``train``, ``evaluate`` or ``query``, with an optional action.
        node: the receiving node.
        brief: what its client is told beside.
    """

    content: Path
    reply: Path
    message_type: str
    node: int
    brief: ConfigRecord


def start(deterministic: bool, index: int) -> None:
    """Prepare a worker process: one thread, one GPU if there are any, gone with its parent.

    One thread, so that sums do not depend on the number of cores.
    """
    leave_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    process.host()
    torch.set_num_threads(1)
    if torch.cuda.is_available():
        torch.cuda.set_device(index % torch.cuda.device_count())
        if deterministic:
            os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
            torch.use_deterministic_algorithms(True)


def play(order: Order) -> str | None:
    """Let the ClientApp answer one message; leave the reply's content, or return the traceback."""
    content = RecordDict({**_content(order.content), BRIEF: order.brief})
    context = Context(1, order.node, {}, RecordDict(), {})
    try:
        reply = app(Message(content, order.node, order.message_type), context)
        serialization.save(reply.content, order.reply, durable=False)
    except Exception:
        return traceback.format_exc()
    return None


def score(content: Path, start: int, stop: int, run_config: RunConfig) -> Floats:
    """Return the probabilities of a shard of the test split under the weights in ``content``."""
    here = at(run_config)
    here.receive(cast(ArrayRecord, _content(content)["arrays"]))
    return here.score(start, stop)


@lru_cache(maxsize=2)
def _content(path: Path) -> RecordDict:
    return cast(RecordDict, serialization.load(path, durable=False))
