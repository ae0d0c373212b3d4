"""Who would have what: a partition, shown without training and without an image.

fedmed partition dataset=nih dataset.root=DIR partition=dirichlet partition.clients=20
fedmed partition --out DIR …    # where partition.csv, clients.csv and the picture go

The overrides are those of fedmed run. Its partition.csv is used again by
partition=saved partition.file=FILE.
"""

import os
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedmed.cli.arguments import OVERRIDES, new_parser

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from fedmed.config import Config

TOP = 2  # findings shown of each client
SHOWN = 30  # clients printed


def parser() -> ArgumentParser:
    """Return what reads the arguments."""
    parser = new_parser("partition", __doc__)
    parser.add_argument("--out", type=Path, help="folder; partitions/HASH when left out")
    parser.add_argument("overrides", nargs="*", help=OVERRIDES)
    return parser


def main(argv: Sequence[str]) -> None:
    """Show a partition and keep it."""
    arguments = parser().parse_intermixed_args(argv)
    os.environ.setdefault("TQDM_DISABLE", "1")  # flwr-datasets' bars
    from fedmed.config import compose

    show(compose(arguments.overrides), arguments.out)


def show(config: "Config", out: Path | None) -> None:
    """Print the partition that a configuration asks for, and write it into a folder.

    Raises:
        FedmedError: as a run would.
    """
    from rich.console import Console

    from fedmed import partition
    from fedmed.data.table import Dataset, validate
    from fedmed.partition.figures import draw_partition
    from fedmed.runs.directory import safe

    console = Console(highlight=False)
    dataset: Dataset = config.dataset.build()
    for caveat in dataset.caveats():
        console.print(caveat, style="yellow", markup=False)
    rule: partition.Partition = config.partition.build()
    table = validate(dataset.table(), dataset)
    assigned = rule.assign(table, dataset.targets)
    clients = partition.describe(table, assigned, dataset.targets)
    sha256 = partition.sha256(assigned)
    folder = out or Path("partitions") / sha256[:16]
    folder.mkdir(parents=True, exist_ok=True)
    partition.save(assigned, folder / "partition.csv")
    safe(clients).to_csv(folder / "clients.csv", index=False)
    draw_partition(clients, dataset.targets, folder / "partition.png")
    console.print(_table(clients, dataset.targets))
    measured = partition.measure(clients)
    js, patients = measured["js_divergence"], measured["patients"]
    test = int((assigned["role"] == "test").sum())
    console.print(
        f"JS divergence to the pool: {js['mean']:.4f} bits on average, {js['max']:.4f} at most\n"
        f"patients: {patients['min']:,} to {patients['max']:,} a client, "
        f"Gini {measured['size_gini']:.3f}; {test:,} to test, in no client",
        soft_wrap=True,
    )
    console.print(f"in {folder}; to use it again:", soft_wrap=True)
    again = f"partition=saved partition.file={folder / 'partition.csv'} partition.sha256={sha256}"
    console.print(again, style="cyan", soft_wrap=True, markup=False)


def _table(clients: "pd.DataFrame", targets: tuple[str, ...]) -> "Table":
    from rich.markup import escape
    from rich.table import Table

    from fedmed.core.texts import printable

    table = Table(box=None, pad_edge=False)
    for column in ("client", "patients", "images", "validation", "JS"):
        table.add_column(column, justify="right")
    table.add_column("most frequent, % of images")
    for row in clients.head(SHOWN).to_dict("records"):
        often = sorted(targets, key=lambda target: -row[target])[:TOP]
        shares = (f"{target} {100 * row[target] / max(row['images'], 1):.0f}" for target in often)
        counts = [f"{row[c]:,}" for c in ("client", "patients", "images", "val_images")]
        table.add_row(*counts, f"{row['js_divergence']:.3f}", escape(printable(", ".join(shares))))
    if len(clients) > SHOWN:
        table.add_row("…", "", "", "", "", f"and {len(clients) - SHOWN} more, in clients.csv")
    return table
