"""Heads kept elsewhere: what was kept cannot be taken back, in a file or on a chain."""

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from fedmed.core.errors import ConfigError, FedmedError
from fedmed.record import ethereum
from fedmed.record.anchors import Anchor, AnchorError, FileAnchor
from fedmed.record.ethereum import EthereumAnchor, send
from fedmed.record.merkle import Head


@pytest.fixture(scope="module", autouse=True)
def _recursion() -> Iterator[None]:
    """The chain's libraries allow 100,000 calls within calls, and Python's JSON reader then crashes
    on texts that other tests have refused.
    """
    limit = sys.getrecursionlimit()
    yield
    sys.setrecursionlimit(limit)


RUN, OTHER = "ab" * 32, "cd" * 32
GAS = 40_000


def head(size: int, digit: str = "1") -> Head:
    return Head(size, digit * 64)


def refuses_what_takes_back(anchor: Anchor) -> None:
    """Put an anchor through what every one has to hold."""
    first = Head(1, RUN)
    assert anchor.heads(RUN) == []
    for one in (first, first, head(3), head(3), head(7)):
        anchor.publish(RUN, one)
    assert anchor.heads(RUN) == [first, head(3), head(7)]
    for fork in (head(7, "2"), head(3), head(6), first):
        with pytest.raises(AnchorError):
            anchor.publish(RUN, fork)
    assert anchor.heads(RUN) == [first, head(3), head(7)]
    assert anchor.heads(OTHER) == []
    anchor.publish(OTHER, Head(1, OTHER))
    assert anchor.heads(OTHER) == [Head(1, OTHER)]


def test_a_file(tmp_path: Path) -> None:
    refuses_what_takes_back(FileAnchor(str(tmp_path / "elsewhere" / "heads.jsonl")))


def test_a_file_that_cannot_be_written_or_is_none(tmp_path: Path) -> None:
    with pytest.raises(AnchorError, match="Is a directory"):
        FileAnchor(str(tmp_path)).publish(RUN, head(1))
    (tmp_path / "heads").write_text("[]\n")
    with pytest.raises(FedmedError, match="no file of heads"):
        FileAnchor(str(tmp_path / "heads")).heads(RUN)


class Node:
    """An embedded chain behind JSON-RPC, as a node's."""

    def __init__(self) -> None:
        from eth_tester.exceptions import TransactionFailed
        from web3 import EthereumTesterProvider, Web3
        from web3.datastructures import NamedElementOnion

        provider = EthereumTesterProvider()
        self.web3 = Web3(provider)
        answer = provider.request_func(self.web3, NamedElementOnion([]))  # as a node would

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                try:
                    answered = answer(asked["method"], asked["params"])
                except TransactionFailed as error:
                    answered = {"jsonrpc": "2.0", "error": {"code": 3, "message": str(error)}}
                text = Web3.to_json({**answered, "id": asked["id"]}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    pytest.importorskip("web3")
    pytest.importorskip("eth_tester")
    node = Node()
    yield node
    node.server.shutdown()
    node.server.server_close()


@pytest.fixture
def account(node: Node, tmp_path: Path) -> Path:
    """The key of an account that has some ether."""
    from eth_account import Account

    made = Account.create()
    ether = {"from": node.web3.eth.accounts[0], "to": made.address, "value": 10**18}
    node.web3.eth.wait_for_transaction_receipt(node.web3.eth.send_transaction(ether))
    (tmp_path / "account").write_text(made.key.hex())
    return tmp_path / "account"


@pytest.fixture
def anchor(node: Node, account: Path) -> EthereumAnchor:
    contract = ethereum.deploy(node.web3, ethereum.read_account(account))
    return EthereumAnchor(node.url, contract, str(account))


def test_a_contract(anchor: EthereumAnchor) -> None:
    refuses_what_takes_back(anchor)


def test_the_contract_itself_refuses_a_fork(anchor: EthereumAnchor, node: Node) -> None:
    """Whoever calls it past our own code gets as far; the address alone is enough to look."""
    anchor.publish(RUN, head(5))
    for size, root in ((5, "2"), (4, "1"), (1, "3")):
        call = anchor.contract.functions.anchor(bytes.fromhex(RUN), size, bytes.fromhex(root * 64))
        with pytest.raises(Exception, match=r"goes back|another root"):
            send(anchor.web3, anchor.signer, call)
    looking = EthereumAnchor(node.url, anchor.contract.address, anchor.owner)
    assert looking.heads(RUN) == [Head(1, RUN), head(5)]
    stranger = EthereumAnchor(node.url, anchor.contract.address, "0x" + "1" * 40)
    assert stranger.heads(RUN) == []
    with pytest.raises(FedmedError, match="cannot be read"):
        looking.publish(RUN, head(6))


def test_gas(anchor: EthereumAnchor) -> None:
    functions, run = anchor.contract.functions, bytes.fromhex(RUN)
    registered = send(anchor.web3, anchor.signer, functions.register(run))["gasUsed"]
    used = [
        send(anchor.web3, anchor.signer, functions.anchor(run, size, bytes([size % 251 + 1] * 32)))
        for size in (2, 250, 70_000)
    ]
    assert max(one["gasUsed"] for one in used) <= GAS
    assert registered <= 2 * GAS


def test_a_node_that_is_not_there_is_told_in_a_line(anchor: EthereumAnchor, account: Path) -> None:
    gone = EthereumAnchor("http://127.0.0.1:9", anchor.contract.address, str(account))
    with pytest.raises(AnchorError, match=r"127\.0\.0\.1:9") as error:
        gone.publish(RUN, head(1))
    assert "\n" not in str(error.value)
    account.write_text("no key")
    with pytest.raises(ConfigError, match="holds no private key") as refused:
        EthereumAnchor(anchor.place, anchor.contract.address, str(account)).publish(RUN, head(1))
    assert "no key" not in str(refused.value)


def test_the_contract_is_the_source_compiled() -> None:
    vyper = pytest.importorskip("vyper")
    kept = json.loads(ethereum.COMPILED.read_text())
    assert kept["compiler"] == f"vyper {vyper.__version__}"
    source = ethereum.COMPILED.with_suffix(".vy").read_text()
    made = vyper.compile_code(source, output_formats=["abi", "bytecode"])
    assert made == {"abi": kept["abi"], "bytecode": kept["bytecode"]}
