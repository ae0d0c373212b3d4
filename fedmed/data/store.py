"""The store: every image decoded once to uint8, memory-mapped, shared by all runs and workers.

Of a table of measurements it holds the features, float32, in the place of pixels.

A store is a folder named by the hash of what its pixels are made of: the bytes of the images'
files, the pixel recipe, the decoders and the size; so tables which differ in labels or splits share
it. It is built beside its final place and renamed when whole; a build that was cut off goes on
where it stopped. It holds pixels and nothing else: no name, no id. Beside it lies a record, named
by where the files are, of how they looked and what they hashed to (:mod:`fedmed.data.contents`).
A file that has changed since is decoded anew, and it alone; so is, at each start, an image that
could not be read for a reason that may pass: a disk's error, or a decoder that took too long.
"""

import fcntl
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from fedmed.core.errors import DataError
from fedmed.data import pixels
from fedmed.data.building import Build, key
from fedmed.data.contents import Progress
from fedmed.data.sealed import Pixels, pixels_of, seal, whole_of
from fedmed.data.table import Dataset, Origin, table_sha256

__all__ = [
    "Pixels",
    "Store",
    "caveat",
    "opened",
    "origins_of",
    "pixels_of",
    "prepare",
    "seal",
]

#: What turns files into pixels, beside the code here: another version may round otherwise.
DECODERS = (
    "imagecodecs",
    "pillow",
    "pydicom",
    "pylibjpeg",
    "pylibjpeg-openjpeg",
    "pylibjpeg-rle",
)


@dataclass(frozen=True)
class Store:
    """A prepared dataset.

    Attributes:
        path: its folder.
        table: the rows whose image could be read; its index is their place among the pixels.
        unreadable: ``image`` and ``reason`` of the rows left out.
        sha256: the hash of table and pixels.
        pixels_sha256: that of the pixels alone, of all rows.
        alike: groups of rows with the same pixels.
        even: rows of one grey level, which show nothing.
    """

    path: Path
    table: pd.DataFrame
    unreadable: pd.DataFrame
    sha256: str
    pixels_sha256: str
    alike: list[list[int]]
    even: list[int]

    def repeated(self) -> pd.DataFrame:
        """Return the images whose pixels are those of another patient's too.

        Returns:
            Columns ``group``, by which they are alike, ``image``, ``patient`` and ``split``.
        """
        found = []
        for group, rows in enumerate(self.alike):
            images = self.table.loc[rows, ["image", "patient", "split"]]
            if images["patient"].nunique() > 1:
                found.append(images.assign(group=group))
        columns = ["group", "image", "patient", "split"]
        return pd.concat(found)[columns] if found else pd.DataFrame(columns=columns)


def caveat(repeated: pd.DataFrame) -> str:
    """Return what a user must know of images that are another patient's too."""
    splits = repeated.groupby("group")["split"].agg(set)
    tested = sum("test" in found and len(found) > 1 for found in splits)
    return (
        f"{len(repeated)} images are the same as another patient's, pixel for pixel, in "
        f"{len(splits)} groups, of which {tested} are both in the test split and out of it"
    )


def prepare(
    dataset: Dataset, table: pd.DataFrame, root: Path, workers: int, progress: Progress
) -> Store:
    """Return the store of ``dataset``, building it if it is not there yet.

    Args:
        dataset: where pixels come from.
        table: its validated table.
        root: the folder of all stores.
        workers: processes that decode; 0 decodes in this one.
        progress: called with the images done, or first the files hashed anew, and their number.

    Raises:
        DataError: if no image can be read, two rows are one file, or the disk cannot take the
            pixels.
    """
    images = table["image"].tolist()
    origins = origins_of(dataset, images)
    paths = [str(origin.path) if origin else None for origin in origins]
    identity = {
        "images": images,
        "dataset": dataset.recipe(images),
        "pixels": pixels.RECIPE,
        "decoders": {name: version(name) for name in DECODERS} if any(origins) else None,
        "suffixes": [origin.path.suffix.lower() if origin else None for origin in origins],
        "size": dataset.size,
        "aspect": dataset.aspect,
    }
    place = root.expanduser() / key({**identity, "paths": paths})
    build = Build(dataset, images, origins, identity, place, workers, progress)
    path = build.unchanged()
    if path is None:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with _locked(place.with_suffix(".lock")):
                # Another process may have built it while this one waited.
                path = build.unchanged() or build.made()
        except OSError as error:
            raise DataError(f"store: cannot write {place.parent}: {error.strerror}") from None
    return opened(path, table)


def origins_of(dataset: Dataset, images: Sequence[str]) -> list[Origin | None]:
    """Return the file of each image. Raises DataError if two images are one file."""
    origins = [dataset.origin(image) for image in images]
    first: dict[tuple[int, int, str], str] = {}
    for image, origin in zip(images, origins, strict=True):
        try:
            stat = origin.path.stat() if origin else None
        except (OSError, ValueError):  # reading it tells why
            continue
        if origin is None or stat is None:
            continue
        other = first.setdefault((stat.st_dev, stat.st_ino, origin.part), image)
        if other != image:
            raise DataError(
                f"{dataset.card.title}: the images {other} and {image} are one file, "
                f"{origin.path}; each image is of one patient, and there once"
            )
    return origins


def opened(path: Path, table: pd.DataFrame) -> Store:
    """Return the store in a folder; ``table`` has a row for each of its pixels.

    Raises:
        DataError: if its pixels are not those that were put there.
    """
    meta = whole_of(path, len(table))
    if meta is None:
        raise DataError(
            f"{path}: is not as it was prepared, or by another version; delete it and prepare anew"
        )
    reasons = {int(row): reason for row, reason in meta["unreadable"].items()}
    unreadable = table.loc[list(reasons), ["image"]].assign(reason=list(reasons.values()))
    readable = table.drop(index=list(reasons))
    sha256 = hashlib.sha256(f"{table_sha256(readable)}{meta['pixels_sha256']}".encode()).hexdigest()
    pixels_sha256 = meta["pixels_sha256"]
    return Store(path, readable, unreadable, sha256, pixels_sha256, meta["alike"], meta["even"])


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that the system frees with the process, whatever ends it."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
