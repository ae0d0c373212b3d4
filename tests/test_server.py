"""``fedmed server`` ends whole: when it is told to, and when a part of it has died."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from doors import FLEET, LIMIT, Door, descendants, wait_for

from fedmed.deployment.certificates import make_certificates
from fedmed.deployment.processes import free_port

needs_nginx = pytest.mark.skipif(
    not any(Path(folder, "nginx").exists() for folder in ("/usr/sbin", "/usr/local/sbin")),
    reason="no proxy: apt-get install nginx-light",
)
pytestmark = needs_nginx


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """``fedmed server`` as a service starts it, and its port for hospitals."""
    port = free_port()
    make_certificates(tmp_path, timedelta(days=1))
    pair = (
        "--certificate",
        tmp_path / "server.crt",
        "--key",
        tmp_path / "server.key",
    )
    where = ("--listen", f"127.0.0.1:{port}", "--port", free_port())
    command = [sys.executable, "-m", "fedmed.cli", "server", tmp_path / "server", *pair, *where]
    process = subprocess.Popen(
        [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    assert f"hospitals: 127.0.0.1:{port}" in process.stdout.readline()
    yield process, port
    process.terminate()
    process.wait(LIMIT)


def test_a_server_ends_whole_when_it_is_told_to(
    server: tuple[subprocess.Popen[str], int], tmp_path: Path
) -> None:
    process, port = server
    door = Door(port, tmp_path / "ca.crt")
    assert door.call(FLEET + "pull-messages") == 401
    assert door.call("/v1/control/list-runs") == 404
    family = descendants(process.pid)
    process.terminate()
    assert process.wait(LIMIT) == 128 + signal.SIGTERM
    assert family
    assert not family & descendants(1)


def test_a_server_ends_whole_and_says_so_when_a_part_of_it_has_died(
    server: tuple[subprocess.Popen[str], int], tmp_path: Path
) -> None:
    """Whoever has started it, such as systemd, is to start it again."""
    process, _ = server
    database = str(tmp_path / "server" / "superlink.db")
    table = subprocess.run(["ps", "-ewwo", "pid,args"], capture_output=True, text=True).stdout
    (superlink,) = [line for line in table.splitlines() if database in line]
    family = descendants(process.pid)
    os.kill(int(superlink.split()[0]), signal.SIGKILL)
    assert process.wait(LIMIT) == 2
    assert process.stdout is not None
    assert "fedmed: flower-superlink has ended with status -9" in process.stdout.read()
    wait_for(lambda: not family & descendants(1))  # Flower's own see that their parent is gone
