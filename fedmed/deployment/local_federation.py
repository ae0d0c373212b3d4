"""A whole federation on one machine, over loopback: a server, and a SuperNode a hospital.

The proxy, TLS, node authentication and folders are as between real hospitals; only the distance is
missing.
"""

import json
import shutil
import subprocess
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from shlex import join

from fedmed.core.errors import FedmedError
from fedmed.deployment.certificates import make_certificates
from fedmed.deployment.home import Home
from fedmed.deployment.node import command
from fedmed.deployment.processes import Processes, free_port, tool
from fedmed.deployment.server import ADMIN, NAME, Entrance, Server
from fedmed.record.signatures import make_key

OVER = "finished"  # how the status of a run that has ended begins
VALID = timedelta(days=30)  # of the certificate that hospitals are shown


class Loopback:
    """A server and its SuperNodes, ended with the ``with`` block.

    Args:
        folder: of certificates, keys, logs and Flower's files; used again if it is there.
        app: the folder of the Flower app.
        proxied: whether nginx stands between the hospitals and the SuperLink; else all that
            processes of this machine send reaches the SuperLink.

    Attributes:
        folder: likewise, absolute.
        server: with its SuperLink.
        address: where hospitals reach it.
        authority: which the certificate that they are shown is signed by.

    Raises:
        FedmedError: if nginx is to be there and is not installed.
    """

    def __init__(self, folder: Path, app: Path, proxied: bool = True) -> None:
        self.folder = folder.absolute()
        self._app = app
        self._processes = Processes(self.folder)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (self.folder / "server.key").exists():
            make_certificates(self.folder, VALID)
        entrance, port = None, free_port()
        if proxied:
            address = f"127.0.0.1:{free_port()}"
            entrance = Entrance(address, self.folder / "server.crt", self.folder / "server.key")
        self.server = Server(self.folder, port, entrance, self._processes)
        self.address = entrance.listen if entrance else f"127.0.0.1:{port}"
        self.authority = self.folder / "ca.crt" if entrance else self.server.authority

    def __enter__(self) -> "Loopback":
        try:
            self.server.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def keys(self) -> Path:
        """The folder of the public keys that sign the record: the server's, and hospitals'."""
        folder = self.folder / "records"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    @property
    def record_key(self) -> Path:
        """The key by which the server signs the record, made if it is not there."""
        path = self.keys / "server"
        if not path.exists():
            make_key(path)
        return path

    def home(self, client: int) -> Home:
        """Return a hospital's home, made or not."""
        return Home(self.folder / f"client-{client}")

    def register(self, client: int) -> None:
        """Register a hospital's public keys with the server: its node's, and its record's."""
        home = self.home(client)
        shutil.copyfile(f"{home.record_key}.pub", self.keys / f"hospital-{client}.pub")
        try:
            self.server.flwr("supernode", "register", f"{home.node_key}.pub", NAME)
        except FedmedError as error:
            if "already in use" not in str(error):
                raise

    def start_node(self, client: int) -> subprocess.Popen[bytes]:
        """Start a hospital's SuperNode, which sees its home and no other."""
        words = command(self.home(client), port=free_port(), superlink=self.address)
        return self._processes.start(f"hospital-{client}", *words)

    def run(self, overrides: Sequence[str]) -> str:
        """Start a run and return its id; one of before, which was cut off, is over."""
        for run in self.server.flwr("list", NAME)["runs"]:
            if not str(run["status"]).startswith(OVER):
                self.server.flwr("stop", run["run-id"], NAME)
        quoted = json.dumps(join(overrides))  # a TOML string
        told = self.server.flwr("run", self._app, NAME, "--run-config", f"overrides={quoted}")
        return str(told["run-id"])

    def status(self, run_id: str) -> str:
        """Return where a run stands, as Flower says it."""
        (run,) = self.server.flwr("list", NAME, "--run-id", run_id)["runs"]
        return str(run["status"])

    def log(self, run_id: str) -> None:
        """Show a run's log on the terminal, as it comes."""
        self._processes.show(ADMIN, tool("flwr"), "log", run_id, NAME, "--stream")

    def stop(self) -> None:
        """End all processes and what they have started: at first politely."""
        self._processes.stop()
