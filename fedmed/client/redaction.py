"""What a hospital tells of its own errors: their kind. Their text may name patients and files."""

from flwr.app import Context, Message

from fedmed.federation.faults import DroppedOut
from fedmed.flower.private import ClientAppCallable


class Withheld(Exception):
    """An error at a hospital, without its text."""


def discreet(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Keep an error's text in the hospital's own log, where there is a hospital: a Flower mod."""
    if "data" not in context.node_config:
        return call_next(message, context)
    try:
        return call_next(message, context)
    except DroppedOut:
        raise
    except Exception as error:
        raise Withheld(f"{type(error).__name__}; the log of its SuperNode says more") from error
