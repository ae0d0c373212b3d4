"""The files that images are read from: what their bytes hash to, and when to hash them again.

An image is known by its content. To hash every file at each start would take as long as to read
it; so a file's hash is kept with how the file looked, and holds while it looks the same: its size,
the time of its last writing, the time of its last change of any kind, and its inode. The time of
change is the system's own and cannot be set: a file that is written anew in place and given back
its old time of writing looks changed. Where a file was changed so shortly before it was hashed that
the next change could fall into the same tick of the file system's clock, its look is not trusted
and it is hashed again at the next start (as git does). The device is left out: network mounts get
another number on each machine and at each boot.

What remains is a change in place of equal size on a file system that keeps no time of change (FAT,
some network mounts), under a clock that was set back, or beneath the file system.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from stat import S_ISREG
from typing import Any, NamedTuple

from fedmed.data.table import Origin

SETTLED = 2_000_000_000  # ns: a tick of the coarsest clock of a file system
Progress = Callable[[int, int], None]


class Look(NamedTuple):
    """How a file looks from outside.

    Attributes:
        size: in bytes.
        written, changed: the times of the last writing and of the last change of any kind, in ns.
        inode: its number.
    """

    size: int
    written: int
    changed: int
    inode: int

    def trusted(self) -> "Look":
        """Return the look if, from now on, no change can leave it as it is; else one of no file."""
        return self if time.time_ns() - self.changed > SETTLED else NO_LOOK


NO_LOOK = Look(-1, -1, -1, -1)


@dataclass(frozen=True)
class Tried:
    """What became of an image when it was read.

    Attributes:
        look: how its file looked; None where there is none.
        sha256: of the file's bytes; None where there are none, or they could not be had.
        failure: why it could not be decoded; None if it was.
        lasting: whether to try again would be in vain as long as the file's bytes are the same.
    """

    look: Look | None
    sha256: str | None
    failure: str | None
    lasting: bool = True

    @classmethod
    def of(cls, fields: Sequence[Any]) -> "Tried":
        """Return what JSON has made of :attr:`fields`."""
        look, *others = fields
        return cls(None if look is None else Look(*look), *others)

    @property
    def fields(self) -> tuple[Look | None, str | None, str | None, bool]:
        """All that is known, for JSON."""
        return self.look, self.sha256, self.failure, self.lasting

    @property
    def content(self) -> str | None:
        """What the image's pixels follow from, beside the dataset's recipe."""
        if self.failure is not None and (self.sha256 is None or not self.lasting):
            return f"not read: {self.failure}"
        return self.sha256


def look(path: Path) -> Look | None:
    """Return how a file looks; None if it is not there.

    Raises:
        OSError: if that cannot be told.
    """
    try:
        stat = path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return Look(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


def sha256(path: Path) -> str | None:
    """Return the hash of a file's bytes; None if it is a folder, a pipe or the like.

    Raises:
        OSError: if it cannot be read.
    """
    if not S_ISREG(path.stat().st_mode):
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def still_true(
    tried: Sequence[Tried | None],
    origins: Sequence[Origin | None],
    workers: int,
    progress: Progress,
) -> list[Tried | None]:
    """Return what is still true of images that were tried before; None for those to try again.

    Args:
        tried: what became of each image; None where it was not tried.
        origins: their files.
        workers: how many files are hashed at once, of those that look other than they did.
        progress: called with the files hashed and their number.
    """
    looks = [_look_again(origin) for origin in origins]
    kept = [
        was if was and was.lasting and was.look == now else None
        for was, now in zip(tried, looks, strict=True)
    ]
    doubted = [
        origin.path
        for was, is_, origin in zip(tried, kept, origins, strict=True)
        if was and was.lasting and was.sha256 and not is_ and origin
    ]
    files = list(dict.fromkeys(doubted))
    hashed: dict[Path, tuple[Look, str | None] | None] = {}
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        for file, found in zip(files, pool.map(_hash_again, files), strict=True):
            hashed[file] = found
            progress(len(hashed), len(files))
    for row, (was, origin) in enumerate(zip(tried, origins, strict=True)):
        now = hashed.get(origin.path) if origin else None
        if was and was.lasting and kept[row] is None and now and now[1] == was.sha256:
            kept[row] = replace(was, look=now[0])
    return kept


def _look_again(origin: Origin | None) -> Look | None:
    try:
        return look(origin.path) if origin else None
    except OSError:
        return NO_LOOK._replace(size=-2)


def _hash_again(path: Path) -> tuple[Look, str | None] | None:
    """Return a file's look and hash; None if they cannot be had."""
    try:
        before = look(path)
        trusted = before.trusted() if before else NO_LOOK
        digest = sha256(path)
        return (trusted, digest) if look(path) == before else None
    except OSError:
        return None
