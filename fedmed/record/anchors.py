"""Where heads are kept outside of the run directory, so that whoever holds it cannot rewrite it.

An anchor knows runs by the hash of their first record, keeps the size and the root of each head
that it is given, and refuses one that takes back what it has: a smaller size, or another root.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from fedmed.core.errors import FedmedError
from fedmed.core.files import damaged
from fedmed.core.jsontext import canonical
from fedmed.record import lines
from fedmed.record.merkle import Head

Every = Annotated[int, Field(ge=1)]


#: The anchors that a record's reader may ask because its configuration names them: any other one is
#: code of whoever wrote that.
OWN = frozenset(
    {
        "fedmed.record.anchors.FileAnchor",
        "fedmed.record.anchors.NoAnchor",
        "fedmed.record.ethereum.EthereumAnchor",
    }
)


class AnchorError(FedmedError):
    """An anchor that cannot be reached now, or that refuses a head."""


class Anchor(ABC):
    """A place for heads.

    Attributes:
        every: the head goes there after each round that is a multiple, and after the last.
        place: what it is called to a person; empty where heads are kept nowhere.
    """

    every: int
    place: str

    @abstractmethod
    def publish(self, run: str, head: Head) -> None:
        """Keep a head; the last one again changes nothing.

        Args:
            run: the hash of the record's first entry, 64 hexadecimal digits.
            head: of the record.

        Raises:
            AnchorError: if it cannot be kept, or takes back what is kept there.
        """

    @abstractmethod
    def heads(self, run: str) -> Sequence[Head]:
        """Return what is kept of a run, the oldest first.

        Raises:
            AnchorError: if the anchor cannot be asked.
        """


class NoAnchor(Anchor):
    """No place: heads are in the run directory alone."""

    every = 1
    place = ""

    def publish(self, run: str, head: Head) -> None:  # noqa: D102
        raise AnchorError("anchor=none keeps nothing")

    def heads(self, run: str) -> list[Head]:  # noqa: D102
        return []


class FileAnchor(Anchor):
    """A file that only grows, elsewhere: on a write-once disk, or in a folder of others.

    Args:
        path: of the file, of any number of runs.
        every: rounds from head to head.
    """

    def __init__(self, path: str, every: Every = 1) -> None:
        self.every = every
        self.path = Path(path).expanduser()
        self.place = str(self.path)

    def publish(self, run: str, head: Head) -> None:  # noqa: D102
        kept = self.heads(run)
        if head in kept[-1:]:
            return
        if kept and head.size <= kept[-1].size:
            raise AnchorError(f"{self.path}: has {kept[-1]} of this run, and refuses {head}")
        entry = {"run": run, "size": head.size, "root": head.root}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lines.append(self.path, canonical(entry))
        except (OSError, FedmedError) as error:
            raise AnchorError(str(error)) from None

    def heads(self, run: str) -> list[Head]:  # noqa: D102
        try:
            found = [json.loads(line) for line in lines.read(self.path)]
            return [Head(one["size"], one["root"]) for one in found if one["run"] == run]
        except (ValueError, LookupError, TypeError):
            raise damaged(self.path, "it is no file of heads") from None
        except OSError as error:
            raise AnchorError(f"{self.path}: cannot be read: {error.strerror}") from None
