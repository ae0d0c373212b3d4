"""The errors that end in one clear line instead of a traceback."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedmed.core.texts import MOST, printable


class FedmedError(Exception):
    """Something that the user can mend: the message says what, where and how.

    It may name files and quote what others sent, so that no character of it is a command to the
    terminal on which it is shown.
    """

    def __str__(self) -> str:
        """Return the message, on one line."""
        return printable(super().__str__(), MOST)


class ConfigError(FedmedError):
    """A configuration that cannot be run."""


class DataError(FedmedError):
    """Files of a dataset that are not as its publisher describes them."""


class UnreadableImage(FedmedError):
    """One image that cannot be decoded: it is listed with this reason and left out."""


#: Errors of the disk and of who may use it, by their number.
_DISK = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
    errno.ESTALE,
}
#: What libraries say, in errors of any type, when the system gives them no memory.
_STARVED = ("allocate memory", "failed to map segment", "out of memory")


class OutOfMemory(FedmedError):
    """The system, or a limit that was set, gives no more memory."""

    def __init__(self) -> None:
        super().__init__(
            "not enough memory: free some, raise the limit (ulimit -v, a job's mem_gb), or take "
            "fewer runner.workers or a smaller client.batch_size"
        )


def starved(error: BaseException) -> bool:
    """Say whether an error, or what it comes from, is that there was no memory."""
    at: BaseException | None = error
    while at is not None:
        if isinstance(at, MemoryError) or getattr(at, "errno", None) == errno.ENOMEM:
            return True
        if any(words in str(at).lower() for words in _STARVED):
            return True
        at = at.__cause__ or at.__context__
    return False


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Tell in one line of a disk that does not take what is written, or gives nothing.

    Args:
        path: what is written, where the system does not say.

    Raises:
        FedmedError: in place of the system's error; others, such as a closed pipe's, go on.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK:
            raise
        raise FedmedError(
            f"{error.filename or path}: {error.strerror or error}; what was written before is "
            "safe: make room, or name a hydra.run.dir that can be written, and run the same "
            "command again"
        ) from None
