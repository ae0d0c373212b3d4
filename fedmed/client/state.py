"""What a client keeps from round to round, at rest in files of its own, one a round.

A file only counts once the server names its round, so a round that is cut off leaves the states as
they were, whichever engine the client runs on. Only its round is told to the server.
"""

from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict

from fedmed.core.errors import FedmedError
from fedmed.federation.messages import STATE, TaskSpec
from fedmed.flower import serialization
from fedmed.flower.private import ClientAppCallable


def at_rest(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Lend the client its state for one message: a Flower mod."""
    task = TaskSpec.of(message, context)
    context.state = _load(_file(task, task.state)) if task.state >= 0 else RecordDict()
    reply = call_next(message, context)
    if context.state:
        new = _file(task, task.round)
        new.parent.mkdir(parents=True, exist_ok=True)
        serialization.save(context.state, new)
        reply.content[STATE] = ConfigRecord({"round": task.round})
    context.state = RecordDict()  # not for Flower to carry
    _prune(task)
    return reply


def _load(file: Path) -> RecordDict:
    if not file.exists():
        raise FedmedError(f"{file}: this client's state is gone; without it the run cannot go on")
    state = serialization.load(file)
    assert isinstance(state, RecordDict)
    return state


def _prune(task: TaskSpec) -> None:
    """Delete what no round that may still be run again can ask for."""
    current = {_file(task, round_) for round_ in (task.state, task.kept, task.round)}
    for file in Path(task.run.states).glob(f"client-{task.client:05d}-round-*.safetensors"):
        if file not in current:
            file.unlink()


def _file(task: TaskSpec, round_: int) -> Path:
    return Path(task.run.states) / f"client-{task.client:05d}-round-{round_:05d}.safetensors"
