"""Start the server of a federation of real hospitals, and keep it until it is told to end.

fedmed server FOLDER --certificate server.crt --key server.key
fedmed server FOLDER … --listen 0.0.0.0:8443 --port 8001

Hospitals reach --listen, where nginx lets through what their SuperNodes need and refuses all else.
Runs are started and nodes registered on this machine alone, at the SuperLink's own --port of the
loopback address, with Flower's command line (export FLWR_HOME=FOLDER/admin.flwr). FOLDER keeps the
SuperLink's database, so that a server that is started again knows its hospitals. See
docs/deployment.md.
"""

import signal
import sys
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from fedmed.cli.arguments import new_parser
from fedmed.core.errors import FedmedError

LOOK = 1.0  # seconds between two looks at the processes


def parser() -> ArgumentParser:
    """Return what reads the arguments."""
    parser = new_parser("server", __doc__)
    parser.add_argument("folder", type=Path, help="made if absent, for its owner alone")
    parser.add_argument(
        "--certificate", type=Path, required=True, help="for the server's name, with its chain; PEM"
    )
    parser.add_argument("--key", type=Path, required=True, help="the certificate's; PEM")
    parser.add_argument("--listen", default="0.0.0.0:443", help="for hospitals: %(default)s")
    parser.add_argument(
        "--port", type=int, default=8000, help="of the loopback address, for runs: %(default)s"
    )
    return parser


def main(argv: Sequence[str]) -> None:
    """Start the server, and wait."""
    arguments = parser().parse_args(argv)
    from fedmed.deployment.processes import Processes
    from fedmed.deployment.server import Entrance, Server

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    entrance = Entrance(arguments.listen, arguments.certificate, arguments.key)
    processes = Processes(arguments.folder.absolute())
    server = Server(arguments.folder, arguments.port, entrance, processes)
    try:
        server.start()
        print(f"hospitals: {entrance.listen}; runs: 127.0.0.1:{server.port}, from this machine")
        print(f"for Flower's command line: export FLWR_HOME={processes.home('admin')}", flush=True)
        while not (ended := processes.ended()):
            time.sleep(LOOK)
        assert isinstance(ended.args, list)
        name = Path(str(ended.args[0])).name
        raise FedmedError(f"{name} has ended with status {ended.returncode}; see {server.folder}")
    finally:
        processes.stop()
