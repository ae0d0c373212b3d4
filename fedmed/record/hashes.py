"""What a record binds, as hashes that do not hang on how it travelled or on where it is kept.

Arrays are hashed by name, type, shape and bytes, in the order of their names; metrics as the lines
of ``metrics.csv``. So two engines that give the same result give the same hashes.
"""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray

from fedmed.core.records import MetricRow, csv_lines
from fedmed.core.seeding import fingerprint
from fedmed.flower.arrays import Undecodable, decoded

NUMBERS = "biufc"  # kinds of arrays that are hashed as such; a reply may hold dates and worse


def of_arrays(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return the hash of arrays, 64 hexadecimal digits."""
    return fingerprint((name, arrays[name]) for name in sorted(arrays))


def of_record(record: ArrayRecord) -> str:
    """Return the hash of a message's arrays: the one of :func:`of_arrays`, where they are sound.

    What cannot be decoded, or holds no numbers, is hashed as the bytes that came.
    """
    return fingerprint((name, _plain(record, name)) for name in sorted(record))


def of_content(content: RecordDict) -> str:
    """Return the hash of all that a reply holds: arrays, metrics, and what its rule adds."""
    return fingerprint(
        (key, of_record(record) if isinstance(record, ArrayRecord) else sorted(record.items()))
        for key, record in sorted(content.items())
    )


def of_told(record: ConfigRecord) -> str:
    """Return the hash of what a client is told of a sum, whose keys and shares are no arrays."""
    return fingerprint([sorted(record.items())])


def of_rows(rows: Sequence[MetricRow]) -> str:
    """Return the hash of a round's metrics, as they stand in ``metrics.csv``."""
    return hashlib.sha256(csv_lines(rows).encode()).hexdigest()


def _plain(record: ArrayRecord, name: str) -> object:
    array = record[name]
    with suppress(Undecodable):
        if (values := decoded(array)).dtype.kind in NUMBERS:
            return values
    return ["undecodable", array.dtype, list(array.shape), array.stype, array.data]
