"""A SuperNode that runs the ClientApp of its own house, whatever app the server hands out.

Flower's own installs the app that comes with a run (a FAB) and runs its code; whoever starts a run
at the SuperLink so has code run at every hospital. Its check of signatures (``--trusted-entities``)
takes a licence that a free SuperLink has not. Here a run is given the description of this house's
own app before anything is installed, and what the server sent is never unpacked.
"""

import hashlib
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from flwr.cli.build import build_fab_from_files
from flwr.cli.config_utils import get_fab_metadata
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.run import Run
from flwr.supernode import start_client_internal
from flwr.supernode.cli.flower_supernode import flower_supernode

from fedmed.core.errors import FedmedError

TRIED = "1.41."  # the version whose insides are as below


def run(files: dict[str, bytes]) -> None:
    """Run a SuperNode until it ends, by this process's arguments, which are Flower's.

    Args:
        files: of the app, by path: its description, whose code is installed here.

    Raises:
        FedmedError: if Flower is of a version whose insides may be others.
    """
    if not version("flwr").startswith(TRIED):
        raise FedmedError(
            f"flwr {version('flwr')}: a hospital's node was tried with {TRIED}x, and another "
            "version may run the server's code in spite of it; install that one"
        )
    content, _ = build_fab_from_files(dict(files))
    start_client_internal._pull_and_store_message = _housed(
        start_client_internal._pull_and_store_message, content
    )
    flower_supernode()


def _housed(pull: Callable[..., Any], content: bytes) -> Callable[..., Any]:
    """Return how messages are pulled, with a run's app replaced by the house's own."""
    digest = hashlib.sha256(content).hexdigest()
    name, release = get_fab_metadata(content)

    def pulled(*, get_run: Callable[[int], Run], get_fab: object, **more: Any) -> Any:
        def run_of(run_id: int) -> Run:
            told = get_run(run_id)
            told.fab_id, told.fab_version, told.fab_hash = name, release, digest
            told.primary_task_type = TaskType.SERVER_APP  # and no agent's
            return told

        return pull(get_run=run_of, get_fab=lambda *_: Fab(digest, content, {}), **more)

    return pulled
