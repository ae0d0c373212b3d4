"""Signatures beside a record: the server's on its heads, each hospital's on what it was asked.

Ed25519 (RFC 8032). Keys are PEM files that lie outside of the run directory, as ``openssl genpkey
-algorithm ed25519`` makes them. Signatures are no part of what is hashed: a run has the same head
whoever signs it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from fedmed.core.errors import ConfigError, FedmedError
from fedmed.core.files import damaged
from fedmed.core.jsontext import canonical
from fedmed.record import lines
from fedmed.record.merkle import Head

SERVER, HOSPITAL = "server", "hospital"  # who signs
_SIGNED = {"by", "key", "signature"}
_FIELDS = {
    SERVER: _SIGNED | {"run", "size", "root"},
    HOSPITAL: _SIGNED | {"task", "client", "round", "scope", "given", "returned"},
}


class Signer:
    """A private key that signs.

    Args:
        path: of its PEM file.

    Raises:
        ConfigError: if it cannot be read, or is no Ed25519 key, or has a password.
    """

    def __init__(self, path: Path) -> None:
        try:
            key = load_pem_private_key(path.expanduser().read_bytes(), None)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise ConfigError(f"{path}: holds no private key without a password") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError(f"{path}: is no Ed25519 key (openssl genpkey -algorithm ed25519)")
        self._key = key

    @property
    def public(self) -> str:
        """The public key, 64 hexadecimal digits."""
        return self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()

    def sign(self, statement: Mapping[str, Any]) -> str:
        """Return the signature of a statement's canonical JSON, 128 hexadecimal digits."""
        return self._key.sign(canonical(statement)).hex()


def make_key(path: Path) -> None:
    """Write a new private key, which only its owner can read, and beside it ``.pub``."""
    key = Ed25519PrivateKey.generate()
    path.touch(mode=0o600, exist_ok=False)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    path.with_name(path.name + ".pub").write_bytes(public)


def read_public(path: Path) -> str:
    """Return the public key of a PEM file, 64 hexadecimal digits.

    Raises:
        FedmedError: if it cannot be read, or holds none of Ed25519.
    """
    try:
        key = load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise FedmedError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise FedmedError(f"{path}: holds no public key") from None
    if not isinstance(key, Ed25519PublicKey):
        raise FedmedError(f"{path}: is no Ed25519 key")
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw).hex()


def holds(public: str, signature: str, statement: Mapping[str, Any]) -> bool:
    """Say whether a signature of a statement is by the owner of a public key.

    Args:
        public: 64 hexadecimal digits.
        signature: 128 of them.
        statement: what is said to have been signed.
    """
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
        key.verify(bytes.fromhex(signature), canonical(statement))
    except (InvalidSignature, ValueError):
        return False
    return True


def of_head(run: str, head: Head) -> dict[str, Any]:
    """Return what the server states of a head.

    Args:
        run: the hash of the record's first entry.
        head: of its first ``size`` entries.
    """
    return {"by": SERVER, "run": run, "size": head.size, "root": head.root}


def of_exchange(
    task: str, client: int, round_: int, scope: str, given: Sequence[str], returned: str
) -> dict[str, Any]:
    """Return what a hospital states of a message and its reply.

    Args:
        task: the hash of the run's task, as it came.
        client: the hospital's number.
        round_: of the message.
        scope: ``train``, ``val``, or the step of an aggregation.
        given: the hashes of the array records that came, see ``hashes.of_record``, and of what was
            told of a sum, see ``hashes.of_told``.
        returned: the hash of the reply, see ``hashes.of_content``.
    """
    return {
        "by": HOSPITAL,
        "task": task,
        "client": client,
        "round": round_,
        "scope": scope,
        "given": sorted(given),
        "returned": returned,
    }


def of_report(task: str, challenge: str, report: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a hospital states of itself before the first round.

    Args:
        task: the hash of the run's task, as it came.
        challenge: what the server has drawn for this question alone.
        report: the hospital's number, and what it tells of its data.
    """
    return {"by": HOSPITAL, "task": task, "challenge": challenge, "report": dict(report)}


def signed(statement: Mapping[str, Any], key: str, signature: str) -> dict[str, Any]:
    """Return a statement with its signature, as the file of signatures has it."""
    return {**statement, "key": key, "signature": signature}


def is_signed(entry: Mapping[str, Any], statement: Mapping[str, Any]) -> bool:
    """Say whether an entry of the file states just this, and its signature holds."""
    key, signature = entry["key"], entry["signature"]
    return entry == signed(statement, key, signature) and holds(key, signature, statement)


class Signatures:
    """The file of signatures of a run, which only grows.

    Args:
        path: of the file; there may be none.

    Raises:
        FedmedError: naming the line that is not as it was written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[dict[str, Any]] = list(_read(path))

    def add(self, entry: Mapping[str, Any]) -> None:
        """Put a signed statement on the disk; one that is there already changes nothing."""
        if entry not in self.entries:
            lines.append(self.path, canonical(entry))
            self.entries.append(dict(entry))

    def by(self, who: str) -> list[dict[str, Any]]:
        """Return the entries by the server, or by hospitals."""
        return [entry for entry in self.entries if entry["by"] == who]


def _read(path: Path) -> Iterator[dict[str, Any]]:
    for place, line in enumerate(lines.read(path), 1):
        try:
            entry = json.loads(line)
            if canonical(entry) != line or entry.keys() != _FIELDS[entry["by"]]:
                raise ValueError
        except (ValueError, LookupError, TypeError, RecursionError):
            raise damaged(path, f"line {place} is no signature as it was written") from None
        yield entry
