"""A server's ports, as one meets them who has nothing but an authority's certificate."""

import http.client
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from fedmed.deployment import proxy

FLEET = "/v1/fleet/"
PASS = {FLEET + name for name in proxy.FLEET}
PROTOBUF = {"content-type": "application/protobuf"}
LIMIT = 60  # seconds for what takes a moment


class Door(NamedTuple):
    """A port of a server, as one meets it who trusts an authority."""

    port: int
    authority: Path

    def call(
        self,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] = PROTOBUF,
        verb: str = "POST",
    ) -> int:
        """Send a request, its path as it is, and return the status of the answer."""
        trusted = ssl.create_default_context(cafile=self.authority)
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self.port, timeout=20, context=trusted
        )
        with closing(connection):
            connection.request(verb, path, body, dict(headers))
            return connection.getresponse().status

    def send(self, request: bytes) -> bytes:
        """Send bytes that need not be HTTP, and return the first of the answer."""
        trusted = ssl.create_default_context(cafile=self.authority)
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=20) as plain,
            trusted.wrap_socket(plain, server_hostname="127.0.0.1") as opened,
        ):
            opened.sendall(request)
            return opened.recv(4096)


def descendants(parent: int) -> set[int]:
    listed = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True).stdout
    of = {int(pid): int(ppid) for pid, ppid in map(str.split, listed.splitlines()[1:])}
    found: set[int] = set()
    while more := {pid for pid, ppid in of.items() if ppid in {parent, *found}} - found:
        found |= more
    return found


def wait_for(happens: Callable[[], bool], seconds: float = LIMIT) -> None:
    until = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < until, f"did not happen within {seconds:g} s"
        time.sleep(0.5)
