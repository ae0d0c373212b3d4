"""What Flower expects of the process it runs in; its own engines see to it themselves."""

import logging

import flwr.serverapp
from flwr.supercore.task_identity import TaskIdentity


def host() -> None:
    """Make this process one that can create messages, and send Flower's log the way of ours."""
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    logger = logging.getLogger(flwr.__name__)
    logger.handlers.clear()  # it writes to the terminal, across the progress bars
    logger.propagate = True
