"""Files that are whole or not there at all."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from fedmed.core.errors import FedmedError


def write_atomically(path: Path, write: Callable[[Path], object], durable: bool = True) -> None:
    """Let ``write`` fill a new file, put it safely on the disk, then in the place of ``path``.

    Raises:
        FedmedError: if the disk is full or the folder cannot be written; ``path`` is as it was.
    """
    new = path.with_name(path.name + ".new")
    try:
        write(new)
        if durable:
            with new.open("rb+") as file:
                os.fsync(file.fileno())
        new.replace(path)
    except (OSError, SafetensorError) as error:
        new.unlink(missing_ok=True)
        raise FedmedError(
            f"cannot write {path}: {error}; what was written before is safe: make room and run "
            "the same command again"
        ) from None


def sha256_of(path: Path) -> str:
    """Return the hash of a file's bytes, 64 hexadecimal digits. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damaged(path: Path, why: str) -> FedmedError:
    """Return the error of a file of a run that is not as it was written."""
    return FedmedError(
        f"{path}: is damaged: {why}; put back a copy of it, or run again with force=true"
    )
