"""The making of a store: what is known stays, what is not is decoded, and is made known."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedmed.data.contents import NO_LOOK, Look, Progress, Tried, look, still_true
from fedmed.data.decoding import Chunk, decode
from fedmed.data.sealed import PIXELS, replace, seal, whole_of
from fedmed.data.table import Dataset, Origin

CHUNK = 64  # images a task: what is lost when a build is cut off, for each process


@dataclass(frozen=True)
class Build:
    """The making of a store.

    Attributes:
        dataset, images, origins: what is read.
        identity: what the pixels depend on beside the files' bytes.
        place: the path of all that belongs to these files, without its suffix.
        workers, progress: see :func:`prepare`.
    """

    dataset: Dataset
    images: list[str]
    origins: list[Origin | None]
    identity: Mapping[str, Any]
    place: Path
    workers: int
    progress: Progress

    def unchanged(self) -> Path | None:
        """Return the store that was made of these files, if they all look as they did then."""
        path, tried = self._recorded()
        if path is None:
            return None
        looks = [_look(origin) for origin in self.origins]
        same = all(t.lasting and t.look == now for t, now in zip(tried, looks, strict=True))
        return path if same else None

    def made(self) -> Path:
        """Return the store of the files as they are now."""
        path, recorded = self._recorded()
        known: list[Tried | None] = [None] * len(self.images)
        if path:
            known = still_true(recorded, self.origins, self.workers, self.progress)
            same = [tried for tried in known if tried]
            if len(same) == len(known):
                self._record(path.name, same)
                return path
            if whole_of(path, len(known)) is None:  # nothing is taken over from what is damaged
                path, known = None, [None] * len(known)
        return self._decoded(path, known)

    def _decoded(self, former: Path | None, known: list[Tried | None]) -> Path:
        """Decode what is not known; take the rest from a former store."""
        partial = self.place.with_suffix(".partial")
        target, journal = partial / PIXELS, partial / "tried.jsonl"
        if target.exists():
            known = still_true(
                _read(journal, len(known)), self.origins, self.workers, self.progress
            )
        else:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            new = partial / f"{PIXELS}.new"
            if former:
                shutil.copyfile(former / PIXELS, new)
            else:
                spec = self.dataset.input
                shape = (len(self.images), *spec.shape)
                np.lib.format.open_memmap(new, "w+", np.dtype(spec.dtype), shape).flush()
            _write(journal, dict(enumerate(known)))
            new.rename(target)
        todo = [row for row, tried in enumerate(known) if tried is None]
        done = len(known) - len(todo)
        self.progress(done, len(known))
        for chunk in decode(self.dataset, target, self._chunks(todo), self.workers):
            fresh = dict(enumerate(chunk.tried, chunk.first))
            _write(journal, fresh)
            known[chunk.first : chunk.first + len(fresh)] = chunk.tried
            done += len(fresh)
            self.progress(done, len(known))
        tried = [one for one in known if one]
        seal(partial, {str(row): t.failure for row, t in enumerate(tried) if t.failure})
        path = self.place.with_name(key({**self.identity, "files": [t.content for t in tried]}))
        self._record(path.name, tried)
        try:
            partial.rename(path)
        except OSError:
            if not path.is_dir():
                raise
            shutil.rmtree(partial)  # files elsewhere, or these before, had the same content
        (path / journal.name).unlink(missing_ok=True)
        return path

    def _chunks(self, rows: Sequence[int]) -> list[Chunk]:
        """Divide rows into chunks of neighbours."""
        chunks: list[Chunk] = []
        for row in rows:
            last = chunks[-1] if chunks else None
            if last and row == last.first + len(last.images) and len(last.images) < CHUNK:
                last.images.append(self.images[row])
            else:
                chunks.append(Chunk(row, [self.images[row]]))
        return chunks

    def _recorded(self) -> tuple[Path | None, list[Tried]]:
        """Return the store that was last made of these files, and what became of each."""
        try:
            record = json.loads(self.place.with_suffix(".json").read_text())
            path = self.place.with_name(record["store"])
            tried = [Tried.of(fields) for fields in record["tried"]]
        except (OSError, ValueError, KeyError, TypeError):  # never made, or the record is damaged
            return None, []
        return (path, tried) if path.is_dir() and len(tried) == len(self.images) else (None, [])

    def _record(self, store: str, tried: Sequence[Tried]) -> None:
        text = json.dumps({"store": store, "tried": [one.fields for one in tried]})
        replace(self.place.with_suffix(".json"), text)


def _look(origin: Origin | None) -> Look | None:
    try:
        return look(origin.path) if origin else None
    except OSError:
        return NO_LOOK


def _write(journal: Path, tried: Mapping[int, Tried | None]) -> None:
    """Add what became of some rows."""
    rows = {row: one.fields for row, one in tried.items() if one}
    with journal.open("a") as file:
        file.write(json.dumps(rows) + "\n")


def _read(journal: Path, rows: int) -> list[Tried | None]:
    """Return what became of each row at last; a line that was cut off says nothing."""
    tried: list[Tried | None] = [None] * rows
    for line in journal.read_text().splitlines():
        with suppress(ValueError):
            for row, fields in json.loads(line).items():
                tried[int(row)] = Tried.of(fields)
    return tried


def key(identity: Mapping[str, Any]) -> str:
    """Return the name that follows from an identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
