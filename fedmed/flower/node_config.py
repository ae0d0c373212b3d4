"""The config of a Flower node: set by whoever starts it, and changed by no message."""

from flwr.app import Context, RecordDict

HOME = "home"  # the folder of a hospital's policy, data and keys
CLIENT = "partition-id"  # which client it is
DEVICE = "device"  # where it computes, if the hospital says so
RECORD_KEY = "record-key"  # the PEM file of the key that signs what came and what went
#: By one of these a node is known as simulated, and then goes by the paths that it is told: the
#: first is set by the engines here, the second by Flower's own simulation.
SIMULATED = ("simulated", "num-partitions")


def simulated(node: int) -> Context:
    """Return the context in which an engine of a simulation calls the ClientApp as a node.

    Args:
        node: its number, which is its client's and one.
    """
    return Context(1, node, {SIMULATED[0]: True}, RecordDict(), {})


def is_simulated(context: Context) -> bool:
    """Return whether a node is simulated."""
    own = context.node_config
    return HOME not in own and any(name in own for name in SIMULATED)
