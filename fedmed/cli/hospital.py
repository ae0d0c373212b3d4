"""Make a hospital's own folder, which its Flower SuperNode trains on: see docs/deployment.md.

fedmed hospital FOLDER --client 2 dataset=folder dataset.root=DIR …
fedmed hospital FOLDER --server dataset=…    # the server's: the test patients

The overrides are those of fedmed run, as the federation has agreed on them, with the
dataset that is here. All its patients are the client's, but those of a test split; the partition
only says who of them is for validation.
"""

import os
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedmed.cli.arguments import OVERRIDES, new_parser

if TYPE_CHECKING:
    from fedmed.config import Config


def parser() -> ArgumentParser:
    """Return what reads the arguments."""
    parser = new_parser("hospital", __doc__)
    parser.add_argument("folder", type=Path, help="made anew")
    whose = parser.add_mutually_exclusive_group(required=True)
    whose.add_argument("--client", type=int, help="this hospital's number, from 0")
    whose.add_argument("--server", action="store_true", help="the test patients")
    parser.add_argument("overrides", nargs="*", help=OVERRIDES)
    return parser


def main(argv: Sequence[str]) -> None:
    """Make the folder."""
    arguments = parser().parse_intermixed_args(argv)
    os.environ.setdefault("TQDM_DISABLE", "1")  # flwr-datasets' bars
    from fedmed.config import compose

    prepare(compose(arguments.overrides), arguments.folder, arguments.client)


def prepare(config: "Config", folder: Path, client: int | None) -> None:
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
