"""Run an experiment over a real federation on this machine: a SuperLink and a SuperNode a hospital.

python scripts/deploy_local.py +experiment=quickstart
python scripts/deploy_local.py +experiment=quickstart --folder DIR     # where all of it is kept

Each SuperNode has a folder with its own patients and no other; all talk over TLS on loopback with
keys that are registered. The weights are those of runner=local to the bit. Ctrl-C ends all of it;
given again, the command goes on after the last round.
"""

import sys

sys.path.pop(0)  # this folder: for other packages, datasets is Hugging Face's

import argparse
import os
import shutil
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fedmed.core.terminal import tolerate

if TYPE_CHECKING:
    from fedmed.config import Config

ROOT = Path(__file__).parent.parent
LOOK = 5.0  # seconds between two questions of how the run stands
OVER = ("finished",)


def main() -> None:
    """Run it; bad input ends in one line and exit status 2."""
    tolerate()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, help="hospitals, where the partition takes a number")
    parser.add_argument("--folder", type=Path, help="deployments/RUN_ID when left out")
    parser.add_argument("overrides", nargs="*", help="those of python -m fedmed.run")
    arguments = parser.parse_intermixed_args()
    os.environ.setdefault("TQDM_DISABLE", "1")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    from fedmed.core.errors import FedmedError

    overrides = arguments.overrides
    if arguments.nodes:
        overrides = [*overrides, f"partition.clients={arguments.nodes}"]
    try:
        deploy(overrides, arguments.folder)
    except FedmedError as error:
        print(f"fedmed: {error}", file=sys.stderr)
        sys.exit(2)


def deploy(overrides: list[str], folder: Path | None) -> None:
    """Prepare the folders, start the federation, run the experiment, and end all of it.

    Raises:
        FedmedError: if the run fails.
    """
    from fedmed.config import compose, settings
    from fedmed.core.errors import FedmedError
    from fedmed.deployment.local_federation import Loopback

    config = compose(overrides)
    folder = (folder or Path("deployments") / config.sha256[:16]).absolute()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    clients = divide(config, folder)
    with Loopback(folder, app_of(folder)) as federation:
        for client in range(clients):
            federation.register(client)
            federation.start_node(client, folder / f"client-{client}")
        data = folder / "server"
        own = ["runner=deployment", f"runner.data={data}", f"runner.clients={clients}"]
        here = Path(settings(overrides).run.dir).absolute()
        run_id = federation.run([*overrides, *own, f"hydra.run.dir={here}"])
        federation.log(run_id)
        while not (status := federation.status(run_id)).startswith(OVER):
            time.sleep(LOOK)
    if status != "finished:completed":
        raise FedmedError(f"the run ended as {status}; see {here}/run.log and {folder}/*.log")
    print(f"run directory: {here}")


def divide(config: "Config", folder: Path) -> int:
    """Write each client's folder and the server's, and return how many clients there are."""
    from fedmed.core.errors import FedmedError
    from fedmed.data import store
    from fedmed.data.table import Dataset, validate
    from fedmed.deployment import node_data
    from fedmed.engines.local import workers
    from fedmed.partition.record import HELD_OUT

    dataset: Dataset = config.dataset.build()
    table = validate(dataset.table(), dataset)
    assigned = config.partition.build().assign(table, dataset.targets)
    prepared = store.prepare(
        dataset, table, config.store, workers(config.runner), lambda done, total: None
    )
    for client, whose in assigned[~assigned["role"].isin(HELD_OUT)].groupby("client"):
        own = folder / ("server" if client == -1 else f"client-{client}")
        if not own.exists():
            node_data.export(prepared, whose, own)
        elif not node_data.holds(own, prepared, whose):
            raise FedmedError(f"{own}: the images have changed since it was made; delete {folder}")
    return int(assigned["client"].max()) + 1


def app_of(folder: Path) -> Path:
    """Write the Flower app, which is its description: each machine has fedmed installed."""
    app = folder / "app"
    app.mkdir(exist_ok=True)
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, app)
    return app


if __name__ == "__main__":
    main()
