"""The server between hospitals: a SuperLink on the loopback address, and nginx in front of it.

Whoever can reach the SuperLink itself can start runs, whose code it hands to every hospital: it has
no open-source way to ask who calls. So it listens for this machine alone, and hospitals reach the
proxy, which lets through what their SuperNodes need; see :mod:`fedmed.deployment.proxy`.
"""

import json
import re
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from fedmed.core.errors import FedmedError
from fedmed.deployment import proxy
from fedmed.deployment.certificates import make_certificates
from fedmed.deployment.processes import Processes, tool

NAME = "hospitals"  # of the SuperLink in Flower's configuration
ADMIN = "admin"  # in whose environment Flower's command line finds the SuperLink
VALID = timedelta(days=3650)  # of the SuperLink's own certificate, made anew at each start
STARTS = 120.0  # seconds that a process may take until it listens
_ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:]+\]|[\w.-]+):(?P<port>\d{1,5})")
_PLAIN = re.compile(r"[^\"\\$\s][^\"\\$\n]*")  # what needs no escape in nginx's configuration


@dataclass(frozen=True)
class Entrance:
    """Where hospitals reach a server.

    Args:
        listen: the address and port, such as ``0.0.0.0:443``.
        certificate: for the server's name, from an authority that hospitals trust; PEM, with what
            leads up to the authority.
        key: the certificate's.

    Raises:
        FedmedError: if there is no such file, or it cannot be written to nginx's configuration.
    """

    listen: str
    certificate: Path
    key: Path

    def __post_init__(self) -> None:
        if not _ADDRESS.fullmatch(self.listen):
            raise FedmedError(f"{self.listen}: is no ADDRESS:PORT to listen at")
        for path in (self.certificate, self.key):
            if not path.is_file():
                raise FedmedError(f"{path}: there is no such file")

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to connect to from this machine."""
        match = _ADDRESS.fullmatch(self.listen)
        assert match is not None
        host = match["host"].strip("[]")
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), int(match["port"])


class Server:
    """A SuperLink and its proxy, once they are started.

    Args:
        folder: of the SuperLink's database, logs and Flower's files; made for its owner alone, and
            used again if it is there, so that nodes stay registered.
        port: of the SuperLink on the loopback address.
        entrance: for hospitals; None for none, which leaves the SuperLink to this machine.
        processes: they are started among, and ended with.

    Attributes:
        folder: likewise, absolute.
        port: likewise.
        entrance: likewise.

    Raises:
        FedmedError: if nginx is not installed, or others may look into the folder.
    """

    def __init__(
        self, folder: Path, port: int, entrance: Entrance | None, processes: Processes
    ) -> None:
        self.folder = folder.absolute()
        self.port = port
        self.entrance = entrance
        self._processes = processes
        self._nginx = proxy.nginx() if entrance else None
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.folder.stat().st_mode & 0o077:
            raise FedmedError(f"{self.folder}: others may look into it; chmod 700 {self.folder}")

    @property
    def authority(self) -> Path:
        """What the SuperLink's own certificate is signed by: for processes of this machine."""
        return self.folder / "loopback" / "ca.crt"

    @property
    def environment(self) -> dict[str, str]:
        """In which Flower's command line finds the SuperLink, and tells nobody else."""
        return self._processes.environment(ADMIN)

    def start(self) -> None:
        """Start the SuperLink and then the proxy, and return once both listen.

        Raises:
            FedmedError: naming its log, if one does not.
        """
        own = self.authority.parent
        own.mkdir(mode=0o700, exist_ok=True)
        make_certificates(own, VALID)
        self._configure()
        tls = {"certfile": "server.crt", "keyfile": "server.key", "ca-certfile": "ca.crt"}
        superlink = self._processes.start(
            "superlink",
            tool("flower-superlink"),
            *[x for name, file in tls.items() for x in (f"--ssl-{name}", own / file)],
            "--enable-supernode-auth",
            "--disable-runtime-dependency-installation",
            *("--database", self.folder / "superlink.db"),
            *("--host", "127.0.0.1", "--port", self.port),
        )
        trusted = ssl.create_default_context(cafile=self.authority)
        self._await("superlink", superlink, lambda: _healthy(self.port, trusted))
        if self.entrance and self._nginx:
            self._write_proxy(self.entrance)
            command = (self._nginx, "-p", self.folder, "-c", "nginx.conf", "-e", "nginx.log")
            started = self._processes.start("nginx", *command)
            address = self.entrance.address
            self._await("nginx", started, lambda: _listens(address))

    def flwr(self, *arguments: object) -> dict[str, Any]:
        """Call Flower's command line and return what it answers.

        Raises:
            FedmedError: with its words, if it fails.
        """
        command = [tool("flwr"), *map(str, arguments), "--format", "json"]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        start = done.stdout.find("{")
        answer: dict[str, Any] = json.loads(done.stdout[start:]) if start >= 0 else {}
        if done.returncode or not answer.get("success", True):
            words = answer.get("error-message") or done.stderr or done.stdout
            raise FedmedError(f"flwr {arguments[0]}: {str(words).strip()}")
        return answer

    def _configure(self) -> None:
        """Tell Flower's command line where the SuperLink is."""
        home = self._processes.home(ADMIN)
        home.mkdir(mode=0o700, exist_ok=True)
        connection = {
            "address": f"127.0.0.1:{self.port}",
            "root-certificates": str(self.authority),
        }
        lines = [f"{key} = {json.dumps(value)}" for key, value in connection.items()]
        (home / "config.toml").write_text("\n".join([f"[superlink.{NAME}]", *lines, ""]))

    def _write_proxy(self, entrance: Entrance) -> None:
        paths = [self.folder, entrance.certificate.absolute(), entrance.key.absolute()]
        for path in paths:
            if not _PLAIN.fullmatch(str(path)):
                raise FedmedError(f'{path}: nginx takes no path with ", \\ or $ in it')
        (self.folder / "nginx").mkdir(mode=0o700, exist_ok=True)
        text = proxy.configuration(
            self.folder,
            entrance.listen,
            entrance.certificate.absolute(),
            entrance.key.absolute(),
            f"127.0.0.1:{self.port}",
            self.authority,
        )
        (self.folder / "nginx.conf").write_text(text, encoding="utf-8")

    def _await(
        self, name: str, process: subprocess.Popen[bytes], ready: Callable[[], bool]
    ) -> None:
        until = time.monotonic() + STARTS
        while not ready():
            if process.poll() is not None or time.monotonic() > until:
                raise FedmedError(f"{name} does not start; see {self.folder}/{name}.log")
            time.sleep(0.2)


def _healthy(port: int, trusted: ssl.SSLContext) -> bool:
    try:
        url = f"https://127.0.0.1:{port}/health"
        with urllib.request.urlopen(url, timeout=2, context=trusted) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _listens(address: tuple[str, int]) -> bool:
    try:
        with socket.create_connection(address, timeout=2):
            return True
    except OSError:
        return False
