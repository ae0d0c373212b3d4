"""A stranger who has the public certificate of the authority, at each port and path of a server.

The SuperLink, nginx and a SuperNode are real. What is called is taken from Flower's own application
and stubs, so that what a new version adds is tried too; and each call is made at the SuperLink
itself as well, where it does what it is feared for.
"""

import os
import re
import subprocess
from base64 import b64encode
from collections.abc import Callable, Iterator
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

import flwr.proto
import grpc
import pytest
from conftest import TINY
from cryptography.hazmat.primitives.asymmetric import ec
from doors import FLEET, PASS, PROTOBUF, Door, descendants, wait_for
from flwr.cli.build import build_fab_from_files
from flwr.proto.control_pb2 import RegisterNodeRequest, StartRunRequest
from flwr.proto.fab_pb2 import Fab
from flwr.proto.fleet_pb2 import ActivateNodeRequest, RegisterNodeFleetRequest
from flwr.supercore.date import now
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
from flwr.superlink.main import create_app
from hospitals import make_home

from fedmed.core.errors import FedmedError
from fedmed.deployment.local_federation import Loopback
from fedmed.deployment.server import NAME

needs_nginx = pytest.mark.skipif(
    not any(Path(folder, "nginx").exists() for folder in ("/usr/sbin", "/usr/local/sbin")),
    reason="no proxy: apt-get install nginx-light",
)
pytestmark = needs_nginx


class Key:
    """A key pair such as SuperNodes have."""

    def __init__(self) -> None:
        self._private = ec.generate_private_key(ec.SECP384R1())
        self.public = public_key_to_bytes(self._private.public_key())

    def headers(self) -> dict[str, str]:
        """Return a signed request's, as a SuperNode signs it."""
        time_ = now().isoformat()
        signature = sign_message(self._private, time_.encode())
        return {
            **PROTOBUF,
            "flwr-public-key": b64encode(self.public).decode(),
            "flwr-timestamp": time_,
            "flwr-signature": b64encode(signature).decode(),
        }


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    """A server with one hospital whose key is registered and whose node is connected."""
    folder = tmp_path_factory.mktemp("closed") / "deployment"
    with Loopback(folder, folder) as federation:
        make_home(federation.home(0).path, TINY, 0, federation.address, federation.authority)
        federation.register(0)
        federation.start_node(0)
        wait_for(lambda: _nodes(federation)[0]["status"] == "online")
        yield federation


@pytest.fixture(scope="module")
def street(federation: Loopback) -> Door:
    """Where hospitals come in, and strangers."""
    return Door(int(federation.address.rpartition(":")[2]), federation.authority)


@pytest.fixture(scope="module")
def inside(federation: Loopback) -> Door:
    """The SuperLink itself, as it was offered to hospitals before."""
    return Door(federation.server.port, federation.server.authority)


def _nodes(federation: Loopback) -> list[dict[str, Any]]:
    return list(federation.server.flwr("supernode", "list", NAME)["nodes"])


def _runs(federation: Loopback) -> list[dict[str, Any]]:
    return list(federation.server.flwr("list", NAME)["runs"])


def _seen(federation: Loopback) -> str:
    return (federation.folder / "superlink.log").read_text()


def _routes() -> list[tuple[str, str]]:
    """Return all that a SuperLink serves: method and path."""
    schema = create_app().openapi()["paths"]
    told = [(verb.upper(), path) for path, verbs in schema.items() for verb in verbs]
    return sorted({*told, *PROTOBUF_REQUEST_TYPES, ("GET", "/docs"), ("GET", "/openapi.json")})


def _request(verb: str, path: str, key: Key, node: int) -> bytes:
    """Return the body of a call, which names a node that there is and a key of one's own."""
    kind = PROTOBUF_REQUEST_TYPES.get((verb, path))
    message: Any = kind() if kind else None
    if message is None:
        return b""
    if isinstance(message, RegisterNodeRequest | RegisterNodeFleetRequest | ActivateNodeRequest):
        message.public_key = key.public
    names = {field.name for field in message.DESCRIPTOR.fields}
    if "heartbeat_interval" in names:
        message.heartbeat_interval = 30
    if "node" in names:
        message.node.node_id = node
    elif "node_id" in names:
        message.node_id = node
    return bytes(message.SerializeToString())


def _started(file: Path) -> bytes:
    """Return a request to start a run whose code leaves a file at the server."""
    folder = file.parent / "strange"
    folder.mkdir()
    (folder / "pyproject.toml").write_text(
        '[project]\nname = "strange"\nversion = "1.0.0"\n[tool.flwr.app]\npublisher = "stranger"\n'
        'fab-include = ["*.py"]\n[tool.flwr.app.components]\nserverapp = "strange:app"\n'
        'clientapp = "strange:app"\n'
    )
    (folder / "strange.py").write_text(
        f"from pathlib import Path\nPath({str(file)!r}).touch()\n"
        "from flwr.serverapp import ServerApp\napp = ServerApp()\n"
        "@app.main()\ndef main(grid, context): pass\n"
    )
    names = ["pyproject.toml", "strange.py"]
    content, _ = build_fab_from_files({name: folder / name for name in names})
    fab = Fab(hash_str=sha256(content).hexdigest(), content=content)
    return bytes(StartRunRequest(fab=fab).SerializeToString())


def test_what_passes_is_named_and_all_that_the_superlink_serves_is_known() -> None:
    """A new version of Flower that serves something else is looked at before it is let through."""
    routes = _routes()
    fleet = {path for _, path in routes if path.startswith(FLEET)}
    assert fleet == PASS | {FLEET + "register-node", FLEET + "unregister-node"}
    apis = {path.split("/")[2] for _, path in routes if path.startswith("/v1/")}
    assert apis >= {"fleet", "control", "runtime"}
    assert len(routes) > 70


def test_a_stranger_is_refused_at_each_path_and_what_is_refused_never_arrives(
    federation: Loopback, street: Door
) -> None:
    """The honest node's number is known to it; it signs with a key of its own, or not at all."""
    (honest,) = _nodes(federation)
    key, before = Key(), _seen(federation)
    answers = {
        (verb, path, signed): street.call(
            path,
            _request(verb, path, key, int(honest["node-id"])),
            key.headers() if signed else PROTOBUF,
            verb,
        )
        for verb, path in _routes()
        for signed in (True, False)
    }
    arrived = _seen(federation)[len(before) :]
    for (verb, path, signed), status in answers.items():
        if verb == "POST" and path in PASS:
            assert status == (412 if signed and path.endswith("/activate-node") else 401), path
        else:
            assert status == 404, path
            assert path not in arrived
    assert "/v1/control" not in arrived
    assert "/v1/runtime" not in arrived
    assert _runs(federation) == []
    assert [node["node-id"] for node in _nodes(federation)] == [honest["node-id"]]


def test_at_the_superlink_itself_each_of_these_calls_arrives(
    inside: Door, federation: Loopback
) -> None:
    """Else the test above would pass whatever the proxy let through."""
    before, routes = _seen(federation), _routes()
    status = {
        (verb, path): inside.call(path, _request(verb, path, Key(), 1), PROTOBUF, verb)
        for verb, path in routes
    }
    arrived = _seen(federation)[len(before) :]
    logged = {r for r in routes if f'"{r[0]} {r[1]} HTTP' in arrived}  # Flower leaves out three
    assert [route for route in routes if route not in logged and status[route] != 200] == []
    done = {path.rpartition("/")[2] for (_, path), told in status.items() if told == 200}
    assert done >= {"list-runs", "list-nodes", "list-federations", "acquire-task", "health"}


def test_nobody_starts_a_run_or_registers_a_key_from_the_street(
    federation: Loopback, street: Door, inside: Door, tmp_path: Path
) -> None:
    """From inside the very same requests do both: the stranger's code runs."""
    file, key = tmp_path / "was-here", Key()
    start, register = _started(file), RegisterNodeRequest(public_key=key.public).SerializeToString()
    activate = ActivateNodeRequest(public_key=key.public, heartbeat_interval=30).SerializeToString()
    for body, path in ((start, "start-run"), (register, "register-node")):
        assert street.call(f"/v1/control/{path}", body, key.headers()) == 404
    assert street.call(FLEET + "activate-node", activate, key.headers()) == 412
    assert len(_runs(federation)) == 0
    assert inside.call("/v1/control/start-run", start) == 200
    assert inside.call("/v1/control/register-node", register) == 200
    assert street.call(FLEET + "activate-node", activate, key.headers()) == 200
    wait_for(file.exists)
    assert len(_runs(federation)) == 1


@pytest.mark.parametrize(
    "path",
    [
        "/v1/fleet/../control/list-nodes",
        "/v1/fleet/get-run/../../control/list-nodes",
        "/v1/fleet/get-run/..%2f..%2fcontrol%2flist-nodes",
        "/v1/fleet/%2e%2e/control/list-nodes",
        "/v1/control/list-nodes/..%2f..%2ffleet%2fget-run",
        "/v1/control/list-nodes/../../fleet/get-run",
        "/v1/control%2flist-nodes",
        "//v1/control/list-nodes",
        "/v1//control/list-nodes",
        "/v1/control/list-nodes/",
        "/V1/Control/list-nodes",
        "/v1/fleet/get-run;/../../control/list-nodes",
        "/v1/fleet/get-run%00/v1/control/list-nodes",
        "/v1/fleet/get-run%20HTTP/1.1%0d%0aX:/v1/control/list-nodes",
        "/v1/fleet/get-run?/../../control/list-nodes",
        "/v1/fleet/get-run#/../../control/list-nodes",
        "https://127.0.0.1/v1/control/list-nodes",
        "*",
    ],
)
def test_no_spelling_of_a_path_goes_round_the_proxy(
    path: str, street: Door, federation: Loopback
) -> None:
    before = _seen(federation)
    status = street.call(path, headers=Key().headers())
    assert status >= 400
    arrived = _seen(federation)[len(before) :]
    assert "control" not in arrived
    assert not re.search(r"get-run\S* HTTP/\S+ 200", arrived)  # the nodes' heartbeats go on


@pytest.mark.parametrize(
    "head",
    [
        "GET /v1/control/list-nodes HTTP/1.0\r\n",
        "CONNECT 127.0.0.1:{inside} HTTP/1.1\r\nHost: x\r\n",
        "POST /v1/fleet/get-run HTTP/1.1\r\nHost: x\r\nX-HTTP-Method-Override: GET\r\n"
        "X-Original-URL: /v1/control/list-nodes\r\nX-Rewrite-URL: /v1/control/list-nodes\r\n",
        "POST /v1/fleet/get-run HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        "GET /v1/fleet/get-run HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
        "Upgrade: websocket\r\n",
        "POST /v1/fleet/get-run HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n"
        "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nPOST /v1/control/list-nodes HTTP/1.1\r\n"
        "Host: x\r\nContent-Type: application/protobuf\r\nContent-Length: 0\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n",
    ],
)
def test_no_trick_of_http_goes_round_the_proxy(
    head: str, street: Door, inside: Door, federation: Loopback
) -> None:
    before = _seen(federation)
    answer = street.send(head.format(inside=inside.port).encode() + b"\r\n")
    assert answer.split(b" ")[1][:1] == b"4"
    arrived = _seen(federation)[len(before) :]
    assert "control" not in arrived
    assert not re.search(r"get-run\S* HTTP/\S+ 200", arrived)  # the nodes' heartbeats go on


def _services() -> Iterator[tuple[str, bool]]:
    """Yield the gRPC path of each method in Flower's stubs, and whether it streams its answer."""
    for file in Path(next(iter(flwr.proto.__path__))).glob("*_pb2.py"):
        services = import_module(f"flwr.proto.{file.stem}").DESCRIPTOR.services_by_name
        for service in services.values():
            for method in service.methods:
                yield f"/{service.full_name}/{method.name}", method.server_streaming


def test_no_service_of_flowers_answers_by_grpc(street: Door, inside: Door) -> None:
    """Flower has left gRPC; what its stubs still name is served at no port, old or new."""
    services = list(_services())
    assert len(services) > 50
    assert any(streams for _, streams in services)
    for door in (street, inside):
        credentials = grpc.ssl_channel_credentials(door.authority.read_bytes())
        with grpc.secure_channel(f"localhost:{door.port}", credentials) as channel:
            for path, streams in services:
                with pytest.raises(grpc.RpcError):
                    _call(channel, path, streams)


def _call(channel: grpc.Channel, path: str, streams: bool) -> None:
    method: Callable[..., Any] = channel.unary_stream if streams else channel.unary_unary
    reply = method(path)(b"", timeout=5)
    if streams:
        next(reply)


def test_the_server_listens_at_two_ports_and_no_more(federation: Loopback, street: Door) -> None:
    """One for hospitals, and one of the loopback address; a hospital's own are of that too."""
    listed = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout
    ours = descendants(os.getpid())
    found = {
        line.split()[3]
        for line in listed.splitlines()
        if any(f"pid={pid}," in line for pid in ours)
    }
    assert {federation.address, f"127.0.0.1:{federation.server.port}"} <= found
    assert all(address.startswith("127.0.0.1:") for address in found)
    assert len(found) == 3  # the third is the SuperNode's


def test_what_is_kept_is_its_owners_alone(federation: Loopback) -> None:
    assert federation.folder.stat().st_mode & 0o777 == 0o700
    keys = [path for path in federation.folder.rglob("*") if path.suffix in (".key", ".db")]
    assert len(keys) >= 4
    assert {path.stat().st_mode & 0o777 for path in keys} == {0o600}
    federation.folder.chmod(0o755)
    try:
        with pytest.raises(FedmedError, match=r"others may look into it; chmod 700"):
            Loopback(federation.folder, federation.folder)
    finally:
        federation.folder.chmod(0o700)
