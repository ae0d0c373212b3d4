"""A hospital's part in a federation: its policy, its data, its node, its budget.

fedmed hospital init HOME --client 2 --superlink HOST:443 --authority ca.crt OVERRIDES …
fedmed hospital prepare HOME OVERRIDES …     # its patients, from the dataset that is here
fedmed hospital peers HOME KEYS              # whom it hides its updates among: hospital-0.pub, …
fedmed hospital start HOME                   # its node, which answers by its policy alone
fedmed hospital budget HOME                  # what was spent of its patients, and what is left
fedmed hospital server FOLDER OVERRIDES …    # for whoever runs the server: the test patients

The overrides are those of fedmed run: at init, what the federation has agreed on; at prepare and
server, with the dataset that is here. All its patients are the client's, but those of a test split;
the partition only says who of them is for validation.
"""

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedmed.cli.arguments import OVERRIDES, new_parser
from fedmed.core.errors import ConfigError

if TYPE_CHECKING:
    from fedmed.config import Config
    from fedmed.deployment.home import Home

REFUSALS = 5  # told by budget


def parser() -> ArgumentParser:
    """Return what reads the arguments."""
    parser = new_parser("hospital", __doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    init = commands.add_parser("init", help="make a home: policy and keys")
    init.add_argument("home", type=Path, help="made anew")
    init.add_argument("--client", type=int, required=True, help="this hospital's number, from 0")
    init.add_argument("--superlink", required=True, metavar="HOST:PORT", help="of the server")
    init.add_argument(
        "--authority", type=Path, required=True, metavar="CRT", help="whose certificate it has"
    )
    init.add_argument("--epsilon", type=float, help="the most of a run; the experiment's own")
    init.add_argument("--lifetime", type=float, help="the most of all runs; that of one")
    init.add_argument(
        "--promise-nothing", action="store_true", help="take part without privacy for patients"
    )
    prepare = commands.add_parser("prepare", help="decode its images into HOME/data")
    prepare.add_argument("home", type=Path)
    peers = commands.add_parser("peers", help="enter the other hospitals' keys, or show them")
    peers.add_argument("home", type=Path)
    peers.add_argument(
        "keys", type=Path, nargs="?", help="folder of hospital-0.pub, …; shows those there without"
    )
    start = commands.add_parser("start", help="start its node")
    start.add_argument("home", type=Path)
    start.add_argument("--device", choices=("auto", "cpu", "cuda"), help="where it computes")
    start.add_argument(
        "--port", type=int, help="of 127.0.0.1, for its own processes; 9094, and one node a port"
    )
    budget = commands.add_parser("budget", help="what was spent, and what is left")
    budget.add_argument("home", type=Path)
    server = commands.add_parser("server", help="make the server's folder: the test patients")
    server.add_argument("folder", type=Path, help="made anew")
    for command in (init, prepare, server):
        command.add_argument("overrides", nargs="*", help=OVERRIDES)
    return parser


def main(argv: Sequence[str]) -> None:
    """Do what the command line asks for."""
    own = parser()
    arguments, rest = own.parse_known_args(argv)
    if rest:  # overrides behind options
        if any(word.startswith("-") for word in rest) or "overrides" not in arguments:
            own.error(f"unrecognized arguments: {' '.join(rest)}")
        arguments.overrides += rest
    os.environ.setdefault("TQDM_DISABLE", "1")  # flwr-datasets' bars
    commands = {"init": _init, "prepare": _prepare, "peers": _peers, "start": _start}
    commands |= {"budget": _budget, "server": _server}
    commands[arguments.command](arguments)


def _init(arguments: Namespace) -> None:
    from fedmed.config import compose
    from fedmed.deployment.agreement import found
    from fedmed.deployment.home import Home

    config = compose(arguments.overrides, build=False)
    if config.privacy.mechanism == "none" and not arguments.promise_nothing:
        raise ConfigError(
            "privacy=none: patients would be promised nothing; take privacy=dpsgd with "
            "privacy.unit=patient and privacy.secure_noise=true, or say --promise-nothing"
        )
    home = Home(arguments.home)
    found(
        home,
        config,
        arguments.overrides,
        arguments.client,
        arguments.superlink,
        arguments.authority,
        epsilon=arguments.epsilon,
        lifetime=arguments.lifetime,
    )
    print(f"{home.policy_file}: read it, change it: it is what this hospital goes by")
    print(f"for the server: {home.node_key}.pub and {home.record_key}.pub")
    if home.policy.hidden_updates:
        print("before it starts: fedmed hospital peers enters the other hospitals' record keys")


def _prepare(arguments: Namespace) -> None:
    from fedmed.config import compose
    from fedmed.deployment.home import Home

    home = Home.opened(arguments.home)
    overrides = arguments.overrides or _agreed(home)
    fill(compose(overrides), home.data, home.policy.client)


def _agreed(home: "Home") -> Sequence[str]:
    """Return the overrides of a home's only experiment."""
    if len(home.policy.experiments) != 1:
        raise ConfigError(f"{home.policy_file}: has several experiments; give the overrides")
    (experiment,) = home.policy.experiments.values()
    return experiment.overrides


def _peers(arguments: Namespace) -> None:
    from fedmed.deployment import peers
    from fedmed.deployment.home import Home

    home = Home.opened(arguments.home)
    if arguments.keys is not None:
        peers.enter(home, peers.read(arguments.keys))
        home = Home.opened(arguments.home)
    own = home.policy.client
    known = {own: home.signer.public, **home.policy.peers}
    for client, key in sorted(known.items()):
        print(f"hospital {client}: {peers.spoken(key)}{' (this one)' if client == own else ''}")
    print("compare each with its hospital, by a way that is not the server's: the telephone")


def _server(arguments: Namespace) -> None:
    from fedmed.config import compose

    fill(compose(arguments.overrides), arguments.folder, None)


def _start(arguments: Namespace) -> None:
    from fedmed.deployment.home import Home
    from fedmed.deployment.node import command, environment

    home = Home.opened(arguments.home)
    words = command(home, arguments.device, arguments.port)
    sys.stdout.flush()
    os.execve(words[0], words, environment(home))


def _budget(arguments: Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    from fedmed.deployment.home import Home
    from fedmed.deployment.policy import Promise

    home, console = Home.opened(arguments.home), Console(highlight=False)
    promise = home.policy.privacy
    delta = promise.delta if isinstance(promise, Promise) else 1e-5
    table = Table("run", "first", "last", "trainings", "ε", title=f"of a patient, at δ = {delta:g}")
    for run, one in home.lifetime.runs(delta).items():
        table.add_row(run[:16], one.first, one.last, str(one.trainings), f"{one.epsilon:.3g}")
    console.print(table)
    spent = home.lifetime.epsilon(delta)
    if isinstance(promise, Promise):
        left = "nothing is left" if spent >= promise.lifetime else f"of {promise.lifetime:g}"
        console.print(f"all runs together: ε = {spent:.3g} {left}")
    else:
        console.print("nothing is promised to patients, and nothing refused for what was spent")
    refused = home.path / "refused.log"
    if refused.exists():
        console.print("refused last:")
        for line in refused.read_text(encoding="utf-8").splitlines()[-REFUSALS:]:
            console.print(f"  {line}", markup=False, soft_wrap=True)


def fill(config: "Config", folder: Path, client: int | None) -> None:
    """Decode the images and write the folder.

    Args:
        config: with the dataset that is here.
        folder: made anew.
        client: the hospital's number; None for the server.

    Raises:
        FedmedError: as a run would.
    """
    from fedmed.data import store
    from fedmed.data.table import Dataset, validate
    from fedmed.deployment import node_data
    from fedmed.engines.local import workers

    dataset: Dataset = config.dataset.build()
    for caveat in dataset.caveats():
        print(caveat)
    table = validate(dataset.table(), dataset)
    whose = node_data.whose(table, config.partition.build(), client)
    mine = table[table["patient"].isin(whose["patient"])].reset_index(drop=True)
    prepared = store.prepare(
        dataset, mine, config.store, workers(config.runner), lambda done, total: None
    )
    for row in prepared.unreadable.itertuples():
        print(f"left out: {row.image}: {row.reason}")
    if len(repeated := prepared.repeated()):
        print(store.caveat(repeated))
    made = node_data.export(prepared, whose, folder)
    roles = ", ".join(f"{n} {role}" for role, n in whose["role"].value_counts().items())
    print(f"{folder}: {len(made.table)} images of {len(whose)} patients ({roles})")
