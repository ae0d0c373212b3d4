"""What a worker process does: be a client for one message."""

import os
import traceback
from dataclasses import dataclass
from pathlib import Path

import torch
from flwr.app import Message, RecordDict

from fedmed.client.app import app
from fedmed.engines.contents import content_of
from fedmed.federation.messages import TaskSpec
from fedmed.flower import process, serialization
from fedmed.flower.node_config import simulated


@dataclass(frozen=True)
class Request:
    """A message to a client, its content left in a file that all its receivers share.

    Attributes:
        content: the file.
        reply: the file where the reply's content goes.
        message_type: Flower's ``train``, ``evaluate`` or ``query``, with an optional action.
        node: the receiving node.
        task: what its client is told beside.
    """

    content: Path
    reply: Path
    message_type: str
    node: int
    task: TaskSpec


def start(deterministic: bool, index: int) -> None:
    """Prepare a worker process: one thread, one GPU if there are any.

    One thread, so that sums do not depend on the number of cores.
    """
    process.host()
    torch.set_num_threads(1)
    if torch.cuda.is_available():
        torch.cuda.set_device(index % torch.cuda.device_count())
        if deterministic:
            os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
            torch.use_deterministic_algorithms(True)


def execute(request: Request) -> str | None:
    """Let the ClientApp answer one message; leave the reply's content, or return the traceback."""
    content = RecordDict({**content_of(request.content), **request.task.records()})
    context = simulated(request.node)
    try:
        reply = app(Message(content, request.node, request.message_type), context)
        serialization.save(reply.content, request.reply, durable=False)
    except Exception:
        return traceback.format_exc()
    return None
