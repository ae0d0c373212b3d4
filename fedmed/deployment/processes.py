"""Processes that a federation on this machine is made of: Flower's tools, and nginx."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from fedmed.core.errors import FedmedError

POLITE = 5.0  # seconds that a process has to end by itself
#: Flower reports its use to its makers, and asks them for newer versions, unless it is told not to.
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}


class Processes:
    """Processes that are ended together, with all that they have started.

    Args:
        folder: of their logs, and of Flower's files for each; only its owner sees what is written.

    Attributes:
        folder: likewise.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, *command: object) -> subprocess.Popen[bytes]:
        """Start a process whose output goes to ``NAME.log`` in the folder.

        Args:
            name: of the log, and of the folder of Flower's files, ``NAME.flwr``.
            command: what is started, with its arguments.
        """
        with os.fdopen(os.open(self.folder / f"{name}.log", _APPEND, 0o600), "ab") as log:
            process = subprocess.Popen(
                [*map(str, command)],
                env=self.environment(name),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us, who then end it
                umask=0o077,
            )
        self._started.append(process)
        return process

    def environment(self, name: str) -> dict[str, str]:
        """Return an environment in which Flower keeps to its own folder and tells nobody."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return os.environ | QUIET | {"PATH": path, "FLWR_HOME": str(self.home(name))}

    def home(self, name: str) -> Path:
        """Return the folder in which Flower keeps what a process has configured."""
        return self.folder / f"{name}.flwr"

    def show(self, name: str, *command: object) -> subprocess.Popen[bytes]:
        """Start a process whose output goes to the terminal; else as :meth:`start`."""
        shown = subprocess.Popen(
            [*map(str, command)], env=self.environment(name), start_new_session=True
        )
        self._started.append(shown)
        return shown

    def ended(self) -> subprocess.Popen[bytes] | None:
        """Return a process that has ended by itself, if there is one."""
        return next((p for p in self._started if p.poll() is not None), None)

    def stop(self) -> None:
        """End all processes and what they have started: at first politely."""
        left = _family({process.pid for process in self._started})
        for how in (signal.SIGTERM, signal.SIGKILL):
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, how)
            until = time.monotonic() + POLITE
            while (left := left & _family(left)) and time.monotonic() < until:
                for process in self._started:
                    process.poll()
                time.sleep(0.1)


_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def tool(name: str) -> str:
    """Return the path of one of Flower's tools.

    Raises:
        FedmedError: if it is not installed.
    """
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        raise FedmedError(f"{name} is not installed beside {sys.executable}")
    return found


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
