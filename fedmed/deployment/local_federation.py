"""A whole federation on one machine, over loopback: a SuperLink and a SuperNode a hospital.

TLS, node authentication and folders are as between real hospitals; only the distance is missing.
"""

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from shlex import join
from typing import Any

from fedmed.core.errors import FedmedError
from fedmed.deployment.certificates import make_certificates, make_node_key
from fedmed.record.signatures import make_key

NAME = "loopback"  # of the SuperLink in Flower's configuration
STARTS = 120.0  # seconds that a SuperLink may take to start
POLITE = 5.0  # seconds that a process has to end by itself


class Loopback:
    """A SuperLink and its SuperNodes, ended with the ``with`` block.

    Args:
        folder: of certificates, keys, logs and Flower's files; used again if it is there.
        app: the folder of the Flower app.
    """

    def __init__(self, folder: Path, app: Path) -> None:
        self.folder = folder.absolute()
        self.app = app
        self.port = free_port()
        self._processes: list[subprocess.Popen[bytes]] = []
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (self.folder / "server.key").exists():
            make_certificates(self.folder)
        self._configure()

    def __enter__(self) -> "Loopback":
        try:
            self._start_superlink()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def key(self, client: int) -> Path:
        """Return the file of a hospital's key, made if it is not there."""
        path = self.folder / f"hospital-{client}.key"
        if not path.exists():
            make_node_key(path)
        return path

    def record_key(self, who: str) -> Path:
        """Return the file of the key that someone signs the record with, made if it is not there.

        Args:
            who: ``server``, or ``hospital-0`` and so on; the public key is ``records/WHO.pub``.
        """
        path = self.folder / "records" / who
        if not path.exists():
            path.parent.mkdir(mode=0o700, exist_ok=True)
            make_key(path)
        return path

    def register(self, client: int) -> None:
        """Register a hospital's public key with the SuperLink."""
        self.flwr("supernode", "register", f"{self.key(client)}.pub", NAME)

    def start_node(self, client: int, data: Path) -> subprocess.Popen[bytes]:
        """Start a hospital's SuperNode, which sees the folder ``data`` and no other."""
        key = self.record_key(f"hospital-{client}")
        config = f'partition-id={client} data="{data.absolute()}" record-key="{key}"'
        return self._start(
            f"hospital-{client}",
            "flower-supernode",
            *("--superlink", f"127.0.0.1:{self.port}"),
            *("--root-certificates", self.folder / "ca.crt"),
            *("--auth-supernode-private-key", self.key(client)),
            *("--node-config", config),
            *("--port", free_port()),
        )

    def run(self, overrides: Sequence[str]) -> str:
        """Start a run and return its id."""
        quoted = json.dumps(join(overrides))  # a TOML string
        told = self.flwr("run", self.app, NAME, "--run-config", f"overrides={quoted}")
        return str(told["run-id"])

    def status(self, run_id: str) -> str:
        """Return where a run stands, as Flower says it."""
        (run,) = self.flwr("list", NAME, "--run-id", run_id)["runs"]
        return str(run["status"])

    def log(self, run_id: str) -> subprocess.Popen[bytes]:
        """Show a run's log on the terminal, as it comes."""
        command = [_tool("flwr"), "log", run_id, NAME, "--stream"]
        shown = subprocess.Popen(command, env=self._environment(), start_new_session=True)
        self._processes.append(shown)
        return shown

    def flwr(self, *arguments: object) -> dict[str, Any]:
        """Call Flower's command line and return what it answers.

        Raises:
            FedmedError: with its words, if it fails.
        """
        command = [_tool("flwr"), *map(str, arguments), "--format", "json"]
        done = subprocess.run(command, env=self._environment(), capture_output=True, text=True)
        start = done.stdout.find("{")
        answer: dict[str, Any] = json.loads(done.stdout[start:]) if start >= 0 else {}
        if done.returncode or not answer.get("success", True):
            words = answer.get("error-message") or done.stderr or done.stdout
            raise FedmedError(f"flwr {arguments[0]}: {str(words).strip()}")
        return answer

    def stop(self) -> None:
        """End all processes and what they have started: at first politely."""
        left = _family({process.pid for process in self._processes})
        for how in (signal.SIGTERM, signal.SIGKILL):
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, how)
            until = time.monotonic() + POLITE
            while (left := left & _family(left)) and time.monotonic() < until:
                for process in self._processes:
                    process.poll()
                time.sleep(0.1)

    def _start_superlink(self) -> None:
        files = {"certfile": "server.crt", "keyfile": "server.key", "ca-certfile": "ca.crt"}
        tls = [x for name, file in files.items() for x in (f"--ssl-{name}", self.folder / file)]
        process = self._start(
            "superlink",
            "flower-superlink",
            *tls,
            "--enable-supernode-auth",
            "--disable-runtime-dependency-installation",
            *("--host", "127.0.0.1", "--port", self.port),
        )
        trusted = ssl.create_default_context(cafile=self.folder / "ca.crt")
        until = time.monotonic() + STARTS
        while not _healthy(self.port, trusted):
            if process.poll() is not None or time.monotonic() > until:
                raise FedmedError(f"the SuperLink does not start; see {self.folder}/superlink.log")
            time.sleep(0.2)

    def _start(self, name: str, tool: str, *arguments: object) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [_tool(tool), *map(str, arguments)],
                env=self._environment(name),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us, who then end it
            )
        self._processes.append(process)
        return process

    def _environment(self, name: str = "flwr") -> dict[str, str]:
        """Return an environment in which Flower keeps to its own folder and tells nobody."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
        return os.environ | quiet | {"PATH": path, "FLWR_HOME": str(self.folder / f"{name}.flwr")}

    def _configure(self) -> None:
        """Tell Flower's command line where the SuperLink is."""
        home = self.folder / "flwr.flwr"
        home.mkdir(exist_ok=True)
        connection = {
            "address": f"127.0.0.1:{self.port}",
            "root-certificates": str(self.folder / "ca.crt"),
        }
        lines = [f"{key} = {json.dumps(value)}" for key, value in connection.items()]
        (home / "config.toml").write_text("\n".join([f"[superlink.{NAME}]", *lines, ""]))


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _tool(name: str) -> str:
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        raise FedmedError(f"{name} is not installed beside {sys.executable}")
    return found


def _healthy(port: int, trusted: ssl.SSLContext) -> bool:
    try:
        url = f"https://127.0.0.1:{port}/health"
        with urllib.request.urlopen(url, timeout=2, context=trusted) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _family(pids: set[int]) -> set[int]:
    """Return those of some processes that live, and all that they have started.

    Flower's tools put what they start into sessions of their own, where no signal to a group comes.
    """
    listed = subprocess.run(["ps", "-eo", "pid,ppid,stat"], capture_output=True, text=True).stdout
    rows = [line.split() for line in listed.splitlines()[1:]]
    parent = {int(pid): int(ppid) for pid, ppid, stat in rows if stat[0] != "Z"}
    family = pids & parent.keys()
    while more := {pid for pid, ppid in parent.items() if ppid in family} - family:
        family |= more
    return family
