"""Heads in a contract on an Ethereum chain (``heads.vy``): 32 bytes of a run's name, 32 of a root.

Nothing of a patient, a hospital or a configuration is on the chain: hashes of hashes, and sizes.
The contract keeps heads by sender, so that nobody can take a run's place; its events are the
history. ``pip install 'fedmed[ethereum]'``.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmed.core.errors import ConfigError, FedmedError
from fedmed.record.anchors import Anchor, AnchorError, Every
from fedmed.record.merkle import Head

if TYPE_CHECKING:
    from eth_account.signers.local import LocalAccount
    from web3 import Web3
    from web3.contract import Contract

COMPILED = Path(__file__).with_name("heads.json")
SECONDS = 60.0  # until a transaction is in a block
REQUEST = 10.0  # seconds of one question to the node


class EthereumAnchor(Anchor):
    """A contract's list of heads.

    Args:
        url: of a node's JSON-RPC.
        contract: the address of the contract; see :func:`deploy`.
        account: who owns the run's heads: the file of the account's private key, hexadecimal, which
            pays for them; or its address, which is enough to look at them.
        every: rounds from head to head.
    """

    def __init__(self, url: str, contract: str, account: str, every: Every = 10) -> None:
        self.every = every
        self.place = f"contract {contract} at {url}"
        self._url, self._contract, self._account = url, contract, account

    def publish(self, run: str, head: Head) -> None:  # noqa: D102
        name = bytes.fromhex(run)
        with _told(self.place):
            if self._last(name).size == 0:
                send(self.web3, self.signer, self.contract.functions.register(name))
            if self._last(name) != head:
                root = bytes.fromhex(head.root)
                called = self.contract.functions.anchor(name, head.size, root)
                send(self.web3, self.signer, called)

    def heads(self, run: str) -> Sequence[Head]:  # noqa: D102
        with _told(self.place):
            found = self.contract.events.Anchored().get_logs(
                from_block=0,
                argument_filters={"owner": self.owner, "run": bytes.fromhex(run)},
            )
            return [Head(one["args"]["size"], one["args"]["root"].hex()) for one in found]

    @cached_property
    def web3(self) -> "Web3":
        """The connection to the node."""
        try:
            from web3 import HTTPProvider, Web3
        except ModuleNotFoundError:
            raise ConfigError("anchor=ethereum: pip install 'fedmed[ethereum]'") from None
        return Web3(HTTPProvider(self._url, request_kwargs={"timeout": REQUEST}))

    @cached_property
    def signer(self) -> "LocalAccount":
        """The account that pays, with its key."""
        return read_account(Path(self._account).expanduser())

    @cached_property
    def owner(self) -> str:
        """The address of the account."""
        if re.fullmatch("0x[0-9a-fA-F]{40}", self._account):
            return str(self.web3.to_checksum_address(self._account))
        return str(self.signer.address)

    @cached_property
    def contract(self) -> "Contract":
        """The contract, to be asked and called."""
        abi = json.loads(COMPILED.read_text())["abi"]
        address = self.web3.to_checksum_address(self._contract)
        return self.web3.eth.contract(address=address, abi=abi)

    def _last(self, run: bytes) -> Head:
        size, root = self.contract.functions.heads(self.owner, run).call()
        return Head(size, root.hex())


def read_account(path: Path) -> "LocalAccount":
    """Return the account of a private key.

    Args:
        path: of a file with 64 hexadecimal digits.

    Raises:
        ConfigError: if it cannot be read, or holds no key.
    """
    from eth_account import Account

    try:
        found: LocalAccount = Account.from_key(path.read_text().strip())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except Exception:  # whose text may hold the key
        raise ConfigError(f"{path}: holds no private key of 64 hexadecimal digits") from None
    return found


def deploy(web3: "Web3", account: "LocalAccount") -> str:
    """Put the contract on a chain, once for any number of runs and owners; return its address."""
    compiled = json.loads(COMPILED.read_text())
    contract = web3.eth.contract(abi=compiled["abi"], bytecode=compiled["bytecode"])
    return str(send(web3, account, contract.constructor())["contractAddress"])


def send(web3: "Web3", account: "LocalAccount", called: Any) -> Any:
    """Sign a call here, send it, and return its receipt once it is in a block.

    Raises:
        AnchorError: if the contract refuses it.
        web3.exceptions.Web3Exception: if the node cannot be asked, or takes too long.
    """
    nonce = web3.eth.get_transaction_count(account.address)
    unsigned = called.build_transaction({"from": account.address, "nonce": nonce})
    sent = web3.eth.send_raw_transaction(account.sign_transaction(unsigned).raw_transaction)
    receipt = web3.eth.wait_for_transaction_receipt(sent, timeout=SECONDS)
    if receipt["status"] != 1:
        raise AnchorError("the contract refused the head")
    return receipt


@contextmanager
def _told(place: str) -> Iterator[None]:
    """Tell of whatever befalls a node or its chain as of an anchor."""
    try:
        yield
    except FedmedError:
        raise
    except Exception as error:  # of web3, of the node, of the network: dozens of types
        words = str(error).splitlines() or [""]
        raise AnchorError(f"{place}: {type(error).__name__}: {words[0]}") from None
