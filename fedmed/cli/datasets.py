"""What datasets there are, and whether a download is whole.

fedmed datasets                      # all of them
fedmed datasets show NAME            # one: findings, terms, how to get it
fedmed datasets check NAME ROOT      # is the download below ROOT whole?
"""

import hashlib
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedmed.cli.arguments import new_parser
from fedmed.core.errors import DataError, FedmedError, UnreadableImage
from fedmed.core.texts import printable
from fedmed.data.card import Card, cards

if TYPE_CHECKING:
    from fedmed.data.table import Dataset

SAMPLE = 20  # images decoded by a check
SUMS = "SHA256SUMS.txt"  # PhysioNet's, beside the files

console = Console(highlight=False)


def parser() -> ArgumentParser:
    """Return what reads the arguments."""
    parser = new_parser("datasets", __doc__)
    commands = parser.add_subparsers(dest="command")
    show = commands.add_parser("show", help="one dataset's card")
    show.add_argument("name")
    check = commands.add_parser("check", help="verify a download")
    check.add_argument("name")
    check.add_argument("root", type=Path)
    check.add_argument("overrides", nargs="*", help="more keys, as in dataset.split=chexnet")
    return parser


def main(argv: Sequence[str]) -> int:
    """List, show or check; return 1 if a download is not whole, else 0."""
    arguments = parser().parse_args(argv)
    if arguments.command == "check":
        problems = list(_check(arguments.name, arguments.root, arguments.overrides))
        for problem in problems:
            console.print(f"[red]✗[/red] {escape(printable(problem))}", soft_wrap=True)
        return 1 if problems else 0
    if arguments.command == "show":
        _show(arguments.name)
    else:
        _list()
    return 0


def _list() -> None:
    table = Table(box=None, pad_edge=False)
    for column, justify in {"name": "left", "title": "left", "images": "right"}.items():
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    table.add_column("patients", justify="right")
    table.add_column("findings", justify="right")
    table.add_column("licence")
    for name, card in cards().items():
        counts = [f"{n:,}" if n else "–" for n in (card.images, card.patients)]
        table.add_row(f"[cyan]{name}", card.title, *counts, str(len(card.findings)), card.licence)
    console.print(table)
    console.print(
        "\nand [cyan]folder[/cyan], your own images; [cyan]federation[/cyan], several sets"
    )


def _show(name: str) -> None:
    known = cards()
    if name not in known:
        raise FedmedError(f"there is no dataset {name}; there are {', '.join(known)}")
    card = known[name]
    table = Table.grid(padding=(0, 2))
    rows = {
        "findings": ", ".join(card.findings),
        "images": f"{card.images:,}" if card.images else "not published",
        "patients": f"{card.patients:,}" if card.patients else "not published",
        "licence": card.licence,
        "citation": card.citation,
        "home page": card.homepage,
        "how to get it": card.how_to_get,
        "beware": card.caveat,
        "shares patients with": ", ".join(card.overlaps),
    }
    for key, value in rows.items():
        if value:
            table.add_row(f"[cyan]{key}", value)
    console.print(f"[bold]{card.title}\n", table)


def _check(name: str, root: Path, overrides: list[str]) -> Iterator[str]:
    """Say what there is, and yield what is wrong."""
    from fedmed.config import compose
    from fedmed.data.store import origins_of
    from fedmed.data.table import validate

    targets = [f"dataset={name}", f"dataset.root={root}", *overrides]
    dataset: Dataset = compose(targets).dataset.build()
    card = dataset.card
    table = validate(dataset.table(), dataset)
    console.print(f"[bold]{card.title}")
    for what, found, published in (
        ("images", len(table), card.images),
        ("patients", table["patient"].nunique(), card.patients),
    ):
        beside = f"; {published:,} are published" if published and published != found else ""
        console.print(f"  {found:,} {what} in the label files{beside}")
    splits = table["split"].value_counts()
    console.print("  " + ", ".join(f"{count:,} to {split}" for split, count in splits.items()))
    for caveat in dataset.caveats():
        console.print(f"  [yellow]{caveat}")
    yield from _sums(card, root)
    try:
        origins_of(dataset, table["image"].tolist())
        yield from _images(dataset, table["image"].tolist())
    except DataError as error:  # a name that several files have, or a file that two rows are
        yield str(error)


def _images(dataset: "Dataset", images: Sequence[str]) -> Iterator[str]:
    from rich.progress import track

    absent = [image for image in images if not dataset.has(image)]
    console.print(f"  {len(images) - len(absent):,} image files are there")
    if absent:
        yield f"{len(absent):,} images are missing, such as {', '.join(absent[:3])}"
    gone = set(absent)
    there = [image for image in images if image not in gone]
    sample = there[:: max(1, len(there) // SAMPLE)][:SAMPLE]
    for image in track(sample, f"  decoding {len(sample)} of them", console=console):
        try:
            dataset.read(image)
        except UnreadableImage as error:
            yield f"{image}: {error}"


def _sums(card: Card, root: Path) -> Iterator[str]:
    """Compare the files whose checksums are published, but for the images."""
    for name, published in card.md5.items():
        if (root / name).is_file():
            yield from _compare(root / name, "md5", published)
    if (root / SUMS).is_file():
        for line in (root / SUMS).read_text().splitlines():
            published, _, name = line.partition(" ")
            path = root / name.strip()
            if path.suffix in {".csv", ".gz", ".txt"} and path.is_file():
                yield from _compare(path, "sha256", published)


def _compare(path: Path, kind: str, published: str) -> Iterator[str]:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, kind).hexdigest()
    if found == published:
        console.print(f"  {path.name} has its published {kind}")
    else:
        yield f"{path.name}: its {kind} is {found}, published is {published}"
