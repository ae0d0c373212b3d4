"""Contents of messages in files, each written once for all receivers and read once by each."""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import cast

from flwr.app import RecordDict

from fedmed.flower import serialization


class Contents:
    """A folder of its own for files that live as long as an exchange; :meth:`close` deletes it."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="fedmed-")
        self._files = 0

    def new(self) -> Path:
        """Return a path that was never used before: readers keep what they have read."""
        self._files += 1
        return Path(self._folder.name) / f"{self._files}.safetensors"

    @contextmanager
    def shared(self, contents: Iterable[RecordDict]) -> Iterator[dict[int, Path]]:
        """Leave each content in a file, however many its receivers; yield id(content) → file."""
        files: dict[int, Path] = {}
        try:
            for content in contents:
                if id(content) not in files:
                    files[id(content)] = self.new()
                    serialization.save(content, files[id(content)], durable=False)
            yield files
        finally:
            for file in files.values():
                file.unlink(missing_ok=True)

    def close(self) -> None:
        """Delete the folder."""
        self._folder.cleanup()


@lru_cache(maxsize=2)
def content_of(file: Path) -> RecordDict:
    """Return the content of a file; a process reads it once."""
    return cast(RecordDict, serialization.load(file, durable=False))
