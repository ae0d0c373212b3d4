"""A hospital's home: one folder with its policy, its keys, its data and what it has spent.

Nothing in it leaves the house. It is made by ``fedmed hospital init`` and filled by ``fedmed
hospital prepare``; a node is told where it is by ``home`` in its config.
"""

import hashlib
import hmac
import logging
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from fedmed.core.errors import FedmedError
from fedmed.deployment.certificates import make_node_key
from fedmed.deployment.lifetime import Lifetime
from fedmed.deployment.policy import Policy, Refused
from fedmed.record.signatures import Signer, make_key

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Home:
    """A hospital's home.

    Attributes:
        path: the folder.
    """

    path: Path

    @classmethod
    def opened(cls, path: Path) -> "Home":
        """Return a home with a policy.

        Raises:
            FedmedError: if there is none: without one a hospital answers nothing.
        """
        home = cls(path)
        if not home.policy_file.is_file():
            raise FedmedError(f"{home.policy_file}: is not there; fedmed hospital init writes it")
        return home

    @property
    def policy_file(self) -> Path:
        """The policy, for people to read and to change."""
        return self.path / "policy.yaml"

    @property
    def authority(self) -> Path:
        """The certificate of the authority that the server is known by."""
        return self.path / "ca.crt"

    @property
    def data(self) -> Path:
        """The folder of patients that clients train on."""
        return self.path / "data"

    @property
    def states(self) -> Path:
        """The folder of what strategies let a client keep."""
        return self.path / "states"

    @property
    def node_key(self) -> Path:
        """The key by which the server's SuperLink knows the node; ``.pub`` is for the server."""
        return self.path / "node.key"

    @property
    def record_key(self) -> Path:
        """The key that signs what came and what went; ``.pub`` is for the server."""
        return self.path / "record.key"

    @cached_property
    def signer(self) -> Signer:
        """What signs in this hospital's name. Raises ConfigError if its key cannot be read."""
        return Signer(self.record_key)

    @cached_property
    def policy(self) -> Policy:
        """The policy. Raises FedmedError if it is none."""
        return Policy.read(self.policy_file)

    @cached_property
    def lifetime(self) -> Lifetime:
        """What has been spent. Raises FedmedError if what tells of it is damaged."""
        return Lifetime(self.path / "lifetime.jsonl", self._secret)

    def keyed(self, digest: str) -> str:
        """Return a hash in place of another, which only who has this home's secret can check.

        A hash of data confirms to anybody who guesses them that they are here. This one does not,
        and is still the same for the same data.
        """
        return hmac.new(self._secret, digest.encode(), hashlib.sha256).hexdigest()

    def make(self) -> None:
        """Make the folder and its keys, readable to nobody else.

        Raises:
            FedmedError: if there is a home already: its keys and its ledger are not made anew.
        """
        if self.policy_file.exists() or self._secret_file.exists():
            raise FedmedError(f"{self.path}: is a hospital's home already")
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.chmod(0o700)
        self._secret_file.touch(mode=0o600)
        self._secret_file.write_bytes(os.urandom(32))
        make_node_key(self.node_key)
        make_key(self.record_key)
        self.lifetime.begin()

    def note(self, refused: Refused) -> None:
        """Write down what was refused and why, in a line of ``refused.log``."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        line = f"{now} {refused.kind}: {FedmedError(refused.why)}"
        log.warning(line)
        with (self.path / "refused.log").open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    @property
    def _secret_file(self) -> Path:
        return self.path / "secret.key"

    @cached_property
    def _secret(self) -> bytes:
        try:
            secret = self._secret_file.read_bytes()
        except OSError as error:
            raise FedmedError(
                f"{self._secret_file}: {error.strerror}: patients cannot be told apart without "
                "it; put back a copy of it"
            ) from None
        if len(secret) != 32:
            raise FedmedError(f"{self._secret_file}: is damaged; put back a copy of it")
        return secret
