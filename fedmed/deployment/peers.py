"""The others in a sum that hides updates: their keys, in a hospital's own policy.

Keys come from a folder as the server has one (``runner.keys``): ``hospital-0.pub``, and so on. Who
sent it could have put keys of his own there; people compare them by a way that is not his.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from fedmed.core.errors import FedmedError
from fedmed.core.files import write_atomically
from fedmed.deployment.home import Home
from fedmed.deployment.policy import Policy
from fedmed.record.signatures import read_public

_FILE = re.compile(r"hospital-(0|[1-9]\d*)\.pub")
#: The key in a policy, with what is indented under it and the comments there.
_BLOCK = re.compile(r"^peers:[^\n#]*(?P<comment>#[^\n]*)?\n?(?:[ \t]+[^\n]*(?:\n|\Z))*", re.M)
_GROUP = 8  # digits of a key that are read aloud together


def read(folder: Path) -> dict[int, str]:
    """Return client → public key, of the files ``hospital-0.pub`` and so on in a folder.

    Raises:
        FedmedError: if there are none, or one cannot be read.
    """
    try:
        found = {
            match[1]: path for path in folder.iterdir() if (match := _FILE.fullmatch(path.name))
        }
    except OSError as error:
        raise FedmedError(f"{folder}: cannot be read: {error.strerror}") from None
    if not found:
        raise FedmedError(f"{folder}: holds no hospital-0.pub, hospital-1.pub, …")
    return {int(client): read_public(found[client]) for client in sorted(found, key=int)}


def enter(home: Home, keys: Mapping[int, str]) -> None:
    """Write keys into a home's policy in the place of those there; all else stays as it is.

    Args:
        home: whose own number and key are among them, or are added.
        keys: client → public key, 64 hexadecimal digits.

    Raises:
        FedmedError: if another key is there for this hospital, or two have one, or the policy is
            written so that it cannot be changed safely.
    """
    policy, file, own = Policy.read(home.policy_file), home.policy_file, home.signer.public
    if keys.get(policy.client, own) != own:
        raise FedmedError(
            f"hospital-{policy.client}.pub is not this hospital's key, {home.record_key}.pub: "
            "the numbers are another federation's, or somebody has changed the keys"
        )
    peers = dict(sorted({**keys, policy.client: own}.items()))
    block = "".join(f"  {client}: {key}\n" for client, key in peers.items())
    text = file.read_text(encoding="utf-8")
    new = _BLOCK.sub(lambda old: f"peers: {old['comment'] or ''}".rstrip() + f"\n{block}", text)
    if Policy.parse(new, file) != policy.model_copy(update={"peers": peers}):
        raise FedmedError(f"{file}: peers is not written as expected; enter by hand:\n{block}")
    write_atomically(file, lambda to: _write(to, new))


def spoken(key: str) -> str:
    """Return a key in groups, as it is read over the telephone."""
    return " ".join(key[at : at + _GROUP] for at in range(0, len(key), _GROUP))


def _write(to: Path, text: str) -> None:
    """Write a file that only its owner reads."""
    to.touch(mode=0o600)
    to.write_text(text, encoding="utf-8")
