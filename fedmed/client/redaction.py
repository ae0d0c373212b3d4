"""What a hospital tells of its own errors: their kind. Their text may name patients and files."""

from flwr.app import Context, Message

from fedmed.config.wire import WireError
from fedmed.deployment.policy import Refused
from fedmed.federation.messages import DroppedOut, Unfit
from fedmed.flower.node_config import is_simulated
from fedmed.flower.private import ClientAppCallable

#: Which say nothing but what the server knows, versions, which part of a policy refuses, and what
#: the server would have seen of an update itself, were it no part of a sum.
TOLD = (DroppedOut, Unfit, WireError, Refused)


class RedactedError(Exception):
    """An error at a hospital, without its text."""


def redact_errors(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Keep an error's text in the hospital's own log, where there is a hospital: a Flower mod."""
    if is_simulated(context):
        return call_next(message, context)
    try:
        return call_next(message, context)
    except TOLD:
        raise
    except Exception as error:
        raise RedactedError(
            f"{type(error).__name__}; the log of its SuperNode says more"
        ) from error
