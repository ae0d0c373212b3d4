"""The chain: one record a round, each with the hash of the one before, in a file that only grows.

A record is a line of canonical JSON. A round that is done again, after a crash or with ``force``,
leaves the file as it is if all of it is the same to the bit and nothing more was released;
otherwise its record follows with the next ``attempt``, and those that it takes the place of stay:
what was spent in them was spent.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedmed.core import formats
from fedmed.core.files import damaged
from fedmed.core.jsontext import canonical
from fedmed.record import lines, merkle
from fedmed.record.merkle import Head

FORMAT = 1  # of a record; counted up when an older version could read another meaning in it
NONE_BEFORE = "0" * 64  # the previous hash of the first record
Record = Mapping[str, Any]
#: What a record has by its place in the chain, and not by what was done.
_PLACE = (formats.KEY, "previous", "attempt", "events", "privacy")


class Chain:
    """The records of a run.

    Args:
        path: of the file; there may be none yet.
        records: those that it holds.

    Attributes:
        records: all of them, in their order.
    """

    def __init__(self, path: Path, records: Sequence[Record] = ()) -> None:
        self.path = path
        self.records = list(records)
        self._leaves = [merkle.leaf_hash(canonical(record)) for record in records]

    @classmethod
    def read(cls, path: Path) -> "Chain":
        """Return the chain in a file, as it stands; an empty one where there is no file.

        Raises:
            FedmedError: naming the first record that is not as it was written, or does not follow
                from the one before.
        """
        records: list[Record] = []
        previous = NONE_BEFORE
        for place, line in enumerate(lines.read(path), 1):
            record = _parsed(path, place, line)
            if record["previous"] != previous:
                raise damaged(path, f"record {place} does not follow from the one before: previous")
            records.append(record)
            previous = merkle.leaf_hash(line).hex()
        return cls(path, records)

    @property
    def run(self) -> str:
        """The hash of the first record, by which the record is called elsewhere."""
        return self._leaves[0].hex()

    def head(self, size: int | None = None) -> Head:
        """Return the head of the chain.

        Args:
            size: of its first records; None for all.

        Raises:
            IndexError: if there are not as many.
        """
        n = len(self.records) if size is None else size
        if not 0 <= n <= len(self.records):
            raise IndexError(n)
        return Head(n, merkle.root(self._leaves[:n]).hex())

    def current(self) -> dict[int, Record]:
        """Return round → its record, of the rounds that the run's result came from.

        A record is superseded by a later one of the same round or of one before.
        """
        found: dict[int, Record] = {}
        lowest = math.inf
        for record in reversed(self.records):
            if record["round"] < lowest:
                found[lowest := record["round"]] = record
        return dict(reversed(found.items()))

    def bound(self) -> Iterator[dict[str, Any]]:
        """Yield the ledger's events that are bound so far, in their order."""
        for record in self.records:
            yield from record["events"]

    def append(self, body: Record) -> None:
        """Put a round's record on the disk, unless it is there already to the bit.

        Args:
            body: what was done: ``round``, ``events`` (the ledger's that no record before binds),
                and all else that is bound.

        Raises:
            FedmedError: if the disk does not take it.
        """
        round_ = body["round"]
        now = self.current().get(round_)
        if now is not None and not body["events"] and _done(now) == _done(body):
            return
        record = {
            **body,
            formats.KEY: FORMAT,
            "attempt": sum(other["round"] == round_ for other in self.records),
            "previous": self._leaves[-1].hex() if self._leaves else NONE_BEFORE,
        }
        line = canonical(record)
        lines.append(self.path, line)
        self.records.append(json.loads(line))
        self._leaves.append(merkle.leaf_hash(line))


def _done(record: Record) -> dict[str, Any]:
    """Return what of a record was done, as JSON gives it back."""
    return {key: value for key, value in json.loads(canonical(record)).items() if key not in _PLACE}


def _parsed(path: Path, place: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
        if canonical(record) != line:
            raise ValueError
        formats.check(path, record[formats.KEY], FORMAT)
        _ = record["previous"], record["attempt"], record["events"]
        round_ = record["round"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise damaged(path, f"record {place} is not as it was written") from None
    if type(round_) is not int or round_ < 0:
        raise damaged(path, f"record {place} is of no round: {round_!r}")
    return dict(record)
