"""The config of a Flower node: set by whoever starts it, and changed by no message."""

import sys

from flwr.app import Context, RecordDict

HOME = "home"  # the folder of a hospital's policy, data and keys
CLIENT = "partition-id"  # which client it is
DEVICE = "device"  # where it computes, if the hospital says so
RECORD_KEY = "record-key"  # the PEM file of the key that signs what came and what went
PLAYED = "num-partitions"  # set by Flower's own simulation, and by hand where examples are followed


class _Simulated(Context):
    """The context of a node that an engine here plays in its own processes."""


def simulated(node: int) -> Context:
    """Return the context in which an engine of a simulation calls the ClientApp as a node.

    Args:
        node: its number, which is its client's and one.
    """
    return _Simulated(1, node, {}, RecordDict(), {})


def is_simulated(context: Context) -> bool:
    """Return whether a node is simulated, and so goes by the paths that it is told.

    No config makes a node one: it is played by an engine here, or by Flower's own simulation, whose
    nodes are actors of Ray. A SuperNode's process is neither.
    """
    if isinstance(context, _Simulated):
        return True
    own = context.node_config
    return HOME not in own and PLAYED in own and _is_actor()


def _is_actor() -> bool:
    """Return whether this process is an actor of Ray, which has imported it then."""
    ray = sys.modules.get("ray")
    return bool(ray and ray.is_initialized() and ray.get_runtime_context().get_actor_id())
