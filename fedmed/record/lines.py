"""Files that only grow, a line at a time, each on the disk before anything goes on from it."""

import os
from pathlib import Path

from fedmed.core.errors import FedmedError
from fedmed.core.files import damaged, write_atomically


def append(path: Path, line: bytes) -> None:
    """Add a line to a file, which is on the disk when this returns.

    Raises:
        FedmedError: if the disk does not take it.
    """
    try:
        new = not path.exists()
        with path.open("ab") as file:
            file.write(line + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if new:  # its name, too, is to outlive a power cut
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        raise FedmedError(
            f"cannot write {path}: {error.strerror}; what was written before is safe: make room "
            "and run the same command again"
        ) from None


def read(path: Path) -> list[bytes]:
    """Return the lines of a file, none where there is no file.

    Raises:
        FedmedError: if its last line has no end.
    """
    *lines, torn = _content(path).split(b"\n")
    if torn:
        raise damaged(path, f"line {len(lines) + 1} is cut off")
    return lines


def mend(path: Path) -> None:
    """Cut off a last line without its end: it was being written when a process died.

    Raises:
        FedmedError: if the disk does not take it.
    """
    whole, end, torn = _content(path).rpartition(b"\n")
    if torn:
        write_atomically(path, lambda new: new.write_bytes(whole + end))


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""
