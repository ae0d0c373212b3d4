"""The config of a Flower node: set by whoever starts it, and changed by no message."""

from flwr.app import Context

HOME = "home"  # the folder of a hospital's policy, data and keys
CLIENT = "partition-id"  # which client it is
DEVICE = "device"  # where it computes, if the hospital says so
RECORD_KEY = "record-key"  # the PEM file of the key that signs what came and what went
#: By one of these a node is known as simulated, and then goes by the paths that it is told: the
#: first is set by the engines here, the second by Flower's own simulation.
SIMULATED = ("simulated", "num-partitions")


def is_simulated(context: Context) -> bool:
    """Return whether a node is simulated."""
    own = context.node_config
    return HOME not in own and any(name in own for name in SIMULATED)
