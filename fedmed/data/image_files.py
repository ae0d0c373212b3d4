"""What datasets on disk share: image files to be found, and labels that torchxrayvision reads."""

import os
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from stat import S_ISREG
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedmed.core.errors import ConfigError, DataError, UnreadableImage
from fedmed.core.seeding import seeded_globals
from fedmed.data import pixels
from fedmed.data.label_files import LabelFile
from fedmed.data.table import Aspect, Dataset, Origin

T = TypeVar("T")
__all__ = ["ImageFiles", "LabelFile", "NamedFiles", "below", "images_in", "through_xrv", "walk"]
#: What images are called, of whatever set.
SUFFIXES = {".png", ".jpg", ".jpeg", ".dcm", ".dicom", ".tif", ".tiff", ".bmp"}


def through_xrv(dataset: Callable[..., T], source: Path, **arguments: Any) -> T:
    """Return one of torchxrayvision's datasets, for its labels and its table.

    Its classes seed NumPy's global generator; here that is undone.

    Raises:
        DataError: naming ``source``, if the class cannot read it.
    """
    with seeded_globals(0, "torchxrayvision"):
        try:
            return dataset(**arguments)
        except Exception as error:  # whatever pandas raises deep inside on a broken file
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise DataError(f"{source}: torchxrayvision cannot read it: {reason[0]}") from None


def images_in(folder: Path, suffix: str) -> list[Path]:
    """Return the images of a folder whose files are its table, by name.

    Args:
        folder: where they lie, not deeper.
        suffix: of all of them, as the set has it: a copy that was converted is not the set.

    Raises:
        DataError: if there are none, or others among them, which would be left out unseen.
    """
    found = sorted(path for path in folder.glob("[!.]*") if path.suffix.lower() in SUFFIXES)
    others = [path for path in found if path.suffix != suffix]
    if others:
        raise DataError(
            f"{others[0]}: the images of this set are named *{suffix} ({len(others)} are not)"
        )
    if not found:
        raise DataError(f"{folder} is missing or has no {suffix} files")
    return found


class ImageFiles(Dataset):
    """A dataset whose ``image`` is the path of a file below a root.

    Args:
        targets, size, aspect: see Dataset.
        root: the folder of the download.
    """

    def __init__(
        self, targets: Sequence[str], size: int, root: Path, aspect: Aspect = "squash"
    ) -> None:
        super().__init__(targets, size, aspect)
        self.root = Path(os.path.normpath(Path(root).expanduser().absolute()))
        if not self.root.is_dir():
            raise ConfigError(f"dataset.root: there is no folder {root}")

    def path(self, image: str) -> Path:
        """Return where an image lies, or would.

        Raises:
            DataError: if that is outside the root.
        """
        return below(self.root, image)

    def read(self, image: str) -> NDArray[np.uint8]:
        """Return an image's pixels. Raises UnreadableImage."""
        path = self.path(image)
        if (stat := _stat(path)) and not S_ISREG(stat.st_mode):
            raise UnreadableImage("is no file")
        if "\0" in image:
            raise UnreadableImage("absent")
        return pixels.read(path)

    def has(self, image: str) -> bool:
        """Say whether an image's file is there."""
        stat = _stat(self.path(image))
        return stat is not None and S_ISREG(stat.st_mode)

    def origin(self, image: str) -> Origin | None:
        """Return the file, which is the image."""
        return Origin(self.path(image))

    def recipe(self, images: Sequence[str]) -> dict[str, Any]:
        """Return the name of the set; the store hashes the files."""
        return {"dataset": type(self).__name__}


class NamedFiles(ImageFiles):
    """A dataset whose ``image`` is the name of a file in any folder below the root, or its path.

    A name without a slash may stand for any file that is called so, and for one alone: copies,
    masks and thumbnails of the same name are refused. ``./x.png`` is the path of the root's own.
    Links to folders are entered. Names that Unicode writes in two ways (é as one character or as
    e and an accent, as macOS stores it) are the same.
    """

    @cached_property
    def _found(self) -> dict[str, list[Path]]:
        """All files below the root, by name."""
        found: dict[str, list[Path]] = {}
        for file in walk(self.root):
            found.setdefault(_composed(file.name), []).append(file)
        return found

    def path(self, image: str) -> Path:
        """Return where an image lies, or would.

        Raises:
            DataError: if the name is of several files, or the path leads out of the root.
        """
        if "/" in image:
            path = below(self.root, image)
            named = self._found.get(_composed(path.name), []) if _stat(path) is None else []
            places = [place for place in named if _composed(str(place)) == _composed(str(path))]
        else:
            places = self._found.get(_composed(image), [])
        if len(places) == 1:
            return places[0]
        files = {(stat.st_dev, stat.st_ino): place for place in places if (stat := _stat(place))}
        if len(files) > 1:
            one, other, *more = [place.relative_to(self.root) for place in files.values()]
            raise DataError(
                f"{self.root}: {image} is in {len(files)} places, {_spelled(one)} and "
                f"{_spelled(other)}{' and others' if more else ''}; write which in the label file "
                "(a path below the root), or keep one of these folders elsewhere"
            )
        return next(iter(files.values()), below(self.root, image))


def below(root: Path, image: str) -> Path:
    """Return the path of an image that a label file gives. Raises DataError if not below root."""
    if not image.startswith("/") and ".." not in image.split("/"):
        return root / image
    path = Path(os.path.normpath((root / image).absolute()))
    # As it is written; or, since an absolute path may go through another link, as it really is.
    written = path.is_relative_to(os.path.normpath(root.absolute()))
    if not written and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        raise DataError(f"{root}: {image} is not below it; dataset.root holds all images")
    return path


def walk(root: Path) -> Iterator[Path]:
    """Yield every file below a folder once, in an order that no file system decides.

    Links to folders are entered, but for those into a folder that was entered before (it holds
    the same files) and those to a folder that the root is in. Folders that may not be listed, such
    as ``lost+found``, are passed over.

    Raises:
        DataError: if a folder cannot be listed, for another reason than that.
    """
    entered = {(stat.st_dev, stat.st_ino) for up in root.resolve().parents if (stat := _stat(up))}
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        stat = _stat(folder)
        if stat is None or (stat.st_dev, stat.st_ino) in entered:
            continue
        entered.add((stat.st_dev, stat.st_ino))
        try:
            with os.scandir(folder) as listed:
                entries = sorted(listed, key=lambda entry: entry.name)
        except PermissionError:
            continue
        except OSError as error:
            raise DataError(f"{folder}: cannot be listed: {error.strerror}") from None
        yield from (folder / entry.name for entry in entries if _is(entry.is_file))
        inner = [entry for entry in reversed(entries) if _is(entry.is_dir)]
        # Last of all what is reached by a link: a folder is known by its own place in the root.
        waiting[:0] = [folder / entry.name for entry in inner if entry.is_symlink()]
        waiting += [folder / entry.name for entry in inner if not entry.is_symlink()]


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (OSError, ValueError):  # it is not there, or no path can be called so
        return None


def _is(kind: Callable[[], bool]) -> bool:
    try:
        return kind()
    except OSError:  # a link that leads to itself, or to where one may not look
        return False


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _spelled(place: Path) -> str:
    """Return a path as a label file must write it, to be no name."""
    return place.as_posix() if len(place.parts) > 1 else f"./{place}"
