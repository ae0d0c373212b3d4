"""Make a hospital's own folder, which its Flower SuperNode trains on: see docs/deployment.md.

python scripts/node_data.py FOLDER --client 2 dataset=folder dataset.root=DIR …
python scripts/node_data.py FOLDER --server dataset=…    # the server's: the test patients

The overrides are those of python -m fedmed.run, as the federation has agreed on them, with the
dataset that is here. All its patients are the client's, but those of a test split; the partition
only says who of them is for validation.
"""

import sys

sys.path.pop(0)  # this folder: for other packages, datasets is Hugging Face's

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from fedmed.core.terminal import tolerate

if TYPE_CHECKING:
    from fedmed.config import Config


def main() -> None:
    """Make the folder; bad input ends in one line and exit status 2."""
    tolerate()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="made anew")
    whose = parser.add_mutually_exclusive_group(required=True)
    whose.add_argument("--client", type=int, help="this hospital's number, from 0")
    whose.add_argument("--server", action="store_true", help="the test patients")
    parser.add_argument("overrides", nargs="*", help="those of python -m fedmed.run")
    arguments = parser.parse_intermixed_args()
    os.environ.setdefault("TQDM_DISABLE", "1")
    from fedmed.config import compose
    from fedmed.core.errors import FedmedError

    try:
        prepare(compose(arguments.overrides), arguments.folder, arguments.client)
    except FedmedError as error:
        print(f"fedmed: {error}", file=sys.stderr)
        sys.exit(2)


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


if __name__ == "__main__":
    main()
