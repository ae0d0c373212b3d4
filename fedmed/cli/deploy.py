"""Run an experiment over a real federation on this machine: a SuperLink and a SuperNode a hospital.

fedmed deploy +experiment=quickstart
fedmed deploy +experiment=quickstart --folder DIR     # where all of it is kept

Each SuperNode has a home with its own patients and no other, and answers by a policy that allows
this experiment alone (fedmed hospital). All talk over TLS on loopback with keys that are
registered, through nginx, which lets them reach what they need of the SuperLink and no more. Where
a client adds noise it must be secret: give privacy.secure_noise=true, or --seeded-noise for a
trial, whose weights, as those of a run without privacy, are those of runner=local to the bit.
Ctrl-C ends all of it; given again, the command goes on after the last round.
"""

import math
import os
import signal
import sys
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedmed.cli.arguments import OVERRIDES, new_parser
from fedmed.core.errors import FedmedError

if TYPE_CHECKING:
    from fedmed.config import Config
    from fedmed.deployment.local_federation import Loopback

LOOK = 5.0  # seconds between two questions of how the run stands


def parser() -> ArgumentParser:
    """Return what reads the arguments."""
    parser = new_parser("deploy", __doc__)
    parser.add_argument("--nodes", type=int, help="hospitals, where the partition takes a number")
    parser.add_argument("--folder", type=Path, help="deployments/RUN_ID when left out")
    parser.add_argument(
        "--open", action="store_true", help="without nginx: a trial that keeps nobody out"
    )
    parser.add_argument(
        "--seeded-noise",
        action="store_true",
        help="noise from the seed, which the server knows: for a trial",
    )
    parser.add_argument("overrides", nargs="*", help=OVERRIDES)
    return parser


def main(argv: Sequence[str]) -> None:
    """Run the experiment."""
    arguments = parser().parse_intermixed_args(argv)
    os.environ.setdefault("TQDM_DISABLE", "1")  # flwr-datasets' bars
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    overrides = arguments.overrides
    if arguments.nodes:
        overrides = [*overrides, f"partition.clients={arguments.nodes}"]
    if arguments.open:
        print("--open: no proxy; who reaches the hospitals' port can start runs at all of them")
    else:
        _check_nginx()
    deploy(overrides, arguments.folder, not arguments.open, arguments.seeded_noise)


def _check_nginx() -> None:
    """See to it before the images are read."""
    from fedmed.deployment.proxy import nginx

    try:
        nginx()
    except FedmedError as error:
        raise FedmedError(f"{error}; --open does without, and keeps nobody out") from None


def deploy(
    overrides: list[str], folder: Path | None, proxied: bool, seeded_noise: bool = False
) -> None:
    """Prepare the folders, start the federation, run the experiment, and end all of it.

    Args:
        overrides: of the experiment.
        folder: of all that is made; None for ``deployments/RUN_ID``.
        proxied: whether hospitals reach the SuperLink through nginx.
        seeded_noise: whether noise may come from the run's seed, which the server knows.

    Raises:
        FedmedError: if the run fails.
    """
    from fedmed.config import compose, settings
    from fedmed.deployment import peers
    from fedmed.deployment.flower_app import write_app
    from fedmed.deployment.local_federation import OVER, Loopback

    config = compose(overrides)
    folder = (folder or Path("deployments") / config.sha256[:16]).absolute()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    own = ["runner=deployment", f"runner.data={folder / 'server'}"]
    own += ["runner.seeded_noise=true"] if seeded_noise else []
    compose([*overrides, *own, "runner.clients=1"], build=False)  # what cannot run is told at once
    clients = divide(config, folder)
    own += [f"runner.clients={clients}"]
    with Loopback(folder, write_app(folder / "app"), proxied) as federation:
        for client in range(clients):
            agree(federation, client, config, overrides)
            federation.register(client)
        for client in range(clients):
            peers.enter(federation.home(client), peers.read(federation.keys))
            federation.start_node(client)
        here = Path(settings(overrides).run.dir).absolute()
        keys = [f"record.key={federation.record_key}", f"runner.keys={federation.keys}"]
        run_id = federation.run([*overrides, *own, *keys, f"hydra.run.dir={here}"])
        federation.log(run_id)
        while not (status := federation.status(run_id)).startswith(OVER):
            time.sleep(LOOK)
    if status != "finished:completed":
        raise FedmedError(f"the run ended as {status}; see {here}/run.log and {folder}/*.log")
    print(f"run directory: {here}")


def agree(federation: "Loopback", client: int, config: "Config", overrides: Sequence[str]) -> None:
    """Write a hospital's policy for this experiment, unless it has one.

    It leaves as much again as the experiment is planned to spend: a round that is done again after
    an interruption is another release.
    """
    from fedmed.deployment.agreement import found

    home = federation.home(client)
    if not home.policy_file.exists():
        planned = getattr(config.privacy, "epsilon", None) or math.inf
        found(
            home,
            config,
            overrides,
            client,
            federation.address,
            federation.authority,
            epsilon=2 * planned,
        )


def divide(config: "Config", folder: Path) -> int:
    """Write each client's folder and the server's, and return how many clients there are."""
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
        own = folder / "server" if client == -1 else folder / f"client-{client}" / "data"
        if not own.exists():
            node_data.export(prepared, whose, own)
        elif not node_data.holds(own, prepared, whose):
            raise FedmedError(f"{own}: the images have changed since it was made; delete {folder}")
    return int(assigned["client"].max()) + 1
