"""A store's folder: its pixels, what is said of them, and whether they are those put there."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmed.core.errors import DataError
from fedmed.data.contents import NO_LOOK, look
from fedmed.data.inputs import InputSpec

PIXELS = "pixels.npy"
META = "meta.json"
HASHED = 1 << 24  # bytes hashed at once
Pixels = NDArray[np.uint8] | NDArray[np.float32]


def pixels_of(path: Path) -> Pixels:
    """Memory-map a store's pixels, N×size×size, or features, N×F, read only."""
    return np.asarray(np.load(path / PIXELS, mmap_mode="r"))


def seal(partial: Path, unreadable: Mapping[str, str]) -> None:
    """Keep what of a store cannot be seen without reading it all.

    That is the reason of each row that could not be read, the hash of all pixels, which rows are
    alike, and which are of one grey level.

    Raises:
        DataError: if no row could be read.
    """
    decoded = pixels_of(partial)
    if len(unreadable) == len(decoded):
        raise DataError(f"no image could be read; the first: {next(iter(unreadable.values()))}")
    _blank(partial / PIXELS, [int(row) for row in unreadable])
    rows, even = defaultdict(list), []
    images = InputSpec.of(decoded).is_image
    for row, image in enumerate(decoded):
        if str(row) not in unreadable:
            rows[hashlib.sha256(image.tobytes()).digest()].append(row)
            if images and image.min() == image.max():
                even.append(row)
    meta = {
        "pixels_sha256": pixels_sha256(decoded),
        "unreadable": unreadable,
        "alike": [group for group in rows.values() if len(group) > 1],
        "even": even,
    }
    (partial / META).write_text(json.dumps(meta))


def _blank(target: Path, rows: Sequence[int]) -> None:
    """Make rows black, whatever a former image or a decoder that died has left there."""
    stored = np.load(target, mmap_mode="r")
    with target.open("r+b", buffering=0) as file:
        for row in rows:
            if stored[row].any():
                file.seek(stored.offset + row * stored[row].nbytes)
                file.write(bytes(stored[row].nbytes))


def pixels_sha256(decoded: Pixels, rows: Sequence[int] | None = None) -> str:
    """Return the hash of a store's pixels, or of some rows' of them, in their order."""
    digest = hashlib.sha256()
    step = max(1, HASHED // max(1, decoded[:1].nbytes))
    for start in range(0, len(decoded if rows is None else rows), step):
        part = slice(start, start + step)
        digest.update(decoded[part if rows is None else rows[part]].tobytes())
    return digest.hexdigest()


def whole_of(path: Path, rows: int) -> dict[str, Any] | None:
    """Return what :func:`seal` has said of a store; None if it is not as it was then.

    The pixels are hashed if their file looks other than when they last were.

    Args:
        path: the folder.
        rows: how many it should have.
    """
    note = path / "verified.json"
    try:
        meta: dict[str, Any] = json.loads((path / META).read_text())
        stored, seen, digest = pixels_of(path), look(path / PIXELS), meta["pixels_sha256"]
        if len(stored) != rows or not {"unreadable", "alike", "even"} <= meta.keys():
            return None
        if note.exists() and json.loads(note.read_text()) == [digest, seen and list(seen)]:
            return meta
        trusted = seen.trusted() if seen else NO_LOOK
        if pixels_sha256(stored) != digest:
            return None
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError):
        return None
    with suppress(OSError):  # a folder that may only be read is hashed each time
        replace(note, json.dumps([digest, trusted]))
    return meta


def replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    new.replace(path)
