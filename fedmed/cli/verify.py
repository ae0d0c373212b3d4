"""Hold a run against its record: config, data, metrics, releases, ε, weights, signatures, anchors.

fedmed verify RUN_DIR
fedmed verify RUN_DIR --server-key server.pub --hospital-keys DIR --head 37:9f2c…
fedmed verify RUN_DIR anchor=file anchor.path=FILE

All is derived anew from the files. The first that does not fit is named, with its round and field,
and the exit status is 1; else one line tells what is proven by this and what is not.
"""

import sys
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedmed.cli.arguments import new_parser
from fedmed.core.errors import FedmedError


def parser() -> ArgumentParser:
    """Return what reads the arguments."""
    parser = new_parser("verify", __doc__)
    parser.add_argument("run", type=Path, metavar="RUN_DIR")
    parser.add_argument("--server-key", type=Path, metavar="PEM", help="the server's public key")
    parser.add_argument(
        "--hospital-keys", type=Path, metavar="DIR", help="of hospital-0.pub, hospital-1.pub, …"
    )
    parser.add_argument(
        "--head", nargs="+", default=[], metavar="SIZE:ROOT", help="that was kept elsewhere"
    )
    parser.add_argument("overrides", nargs="*", help="anchor=…: where heads were sent to")
    return parser


def main(argv: Sequence[str]) -> int:
    """Verify a run; return 1 if something does not fit, else 0."""
    arguments = parser().parse_intermixed_args(argv)
    if not arguments.run.is_dir():
        raise FedmedError(f"{arguments.run}: there is no such folder")
    from fedmed.config import compose
    from fedmed.record.merkle import Head
    from fedmed.record.signatures import read_public
    from fedmed.runs.verify import Known, verify

    asked = arguments.overrides
    keys = arguments.hospital_keys
    known = Known(
        server=read_public(arguments.server_key) if arguments.server_key else None,
        hospitals=hospital_keys(keys) if keys else None,
        heads=[Head.parse(text) for text in arguments.head],
        anchor=compose(asked).anchor.build() if asked else None,
    )
    try:
        print(verify(arguments.run, known))
    except FedmedError as error:
        print(f"does not fit: {error}", file=sys.stderr)
        return 1
    return 0


def hospital_keys(folder: Path) -> Mapping[int, str]:
    """Return client → its public key, of a folder of ``hospital-0.pub`` and so on.

    Raises:
        FedmedError: if there is none, or a file is none.
    """
    from fedmed.record.signatures import read_public

    found = {path: path.stem.removeprefix("hospital-") for path in folder.glob("hospital-*.pub")}
    if not found:
        raise FedmedError(f"--hospital-keys: there is no hospital-0.pub in {folder}")
    if odd := [path for path, client in found.items() if not client.isdigit()]:
        raise FedmedError(f"--hospital-keys: {odd[0]} is of no client's number")
    return {int(client): read_public(path) for path, client in found.items()}
