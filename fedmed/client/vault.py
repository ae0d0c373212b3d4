"""Where a client keeps the secrets of a sum between two messages: a file of its own."""

import os
from pathlib import Path

from fedmed.core.errors import FedmedError
from fedmed.core.files import write_atomically


class Vault:
    """One secret at a time, which its owner alone can read.

    It is no part of the client's state: no round names it, no checkpoint holds it, and no message
    can have an older one come back.

    Args:
        file: where it is.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def store(self, secret: bytes) -> None:
        """Keep bytes in place of what was kept, safe before this returns.

        Raises:
            FedmedError: if the disk does not take them.
        """
        self._file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._file, lambda new: _fill(new, secret))

    def load(self) -> bytes:
        """Return what is kept. Raises FedmedError if nothing is."""
        try:
            return self._file.read_bytes()
        except OSError:
            raise FedmedError(
                "aggregation: this client has no secrets of such a sum: it was told of none, or "
                "has done its part"
            ) from None

    def clear(self) -> None:
        """Forget what is kept."""
        self._file.unlink(missing_ok=True)


def _fill(new: Path, secret: bytes) -> None:
    new.unlink(missing_ok=True)
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(secret)
