"""The number of a file's format, by which a reader refuses what is newer than it knows.

Each kind of file has its own, in the module that writes it. It is counted up when a reader of
before could misread the file. A task on its way to a client is another matter: both sides are to be
of one version (``config/wire.py``).
"""

from pathlib import Path

from fedmed.core.errors import FedmedError

KEY = "format"  # under which the number stands in a file


def check(path: Path, found: object, known: int) -> None:
    """Refuse a file whose format this version does not know.

    Args:
        path: of the file.
        found: what stands in it under :data:`KEY`, None if nothing does.
        known: the newest format that the reader knows; it knows all before it.

    Raises:
        FedmedError: if the format is newer, or is no number: naming the file, its format, what is
            known and what to do.
    """
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise FedmedError(
            f"{path}: is damaged or an earlier version's: its {KEY} is {found!r}, where a number "
            f"from 1 to {known} belongs; put back a copy of it, or use the fedmed that wrote it"
        )
    if found > known:
        raise FedmedError(
            f"{path}: is of format {found}, and this fedmed knows none above {known}: upgrade "
            "fedmed to the version that wrote it"
        )
