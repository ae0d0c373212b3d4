"""The run directory: all that a run leaves, in files that anyone can read.

It is written as the run goes and stands on its own: nothing in it needs wandb or fedmed.
"""

import contextlib
import fcntl
import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors.numpy import save_file
from yaml import YAMLError

from fedmed.core import formats, jsontext
from fedmed.core.errors import FedmedError, readable
from fedmed.core.files import damaged, write_atomically
from fedmed.core.records import MetricRow, csv_lines
from fedmed.core.texts import cell

if TYPE_CHECKING:  # to look at run directories takes no MONAI
    from fedmed.evaluation.predictions import Predictions
    from fedmed.models import Arrays

FORMAT = 1  # of summary.json
DIGEST = "sha256"  # the key in summary.json of the hash of all else in it
#: Whose hashes a finished run's summary holds.
RESULTS = (
    ".hydra/config.yaml",
    "partition.csv",
    "table.parquet",
    "metrics.csv",
    "clients.csv",
    "time.csv",
    "predictions.parquet",
    "checkpoint/model.safetensors",
)
#: What outlives a run that is begun anew: who has it, what it said, what is recorded and was spent.
_KEPT = {
    ".hydra",
    ".lock",
    "run.log",
    "slurm_job",
    "ledger.json",
    "chain.jsonl",
    "signatures.jsonl",
    "release.json",
    "label_counts.csv",
    "label_counts.png",
}


class RunDirectory:
    """The files of a run.

    Args:
        path: the folder; made if absent.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoint = path / "checkpoint" / "checkpoint.safetensors"
        self.states = path / "checkpoint" / "clients"
        self.ledger = path / "ledger.json"
        self.chain = path / "chain.jsonl"
        self.signatures = path / "signatures.jsonl"
        self.table = path / "table.parquet"
        self.partition = path / "partition.csv"
        self.picture = path / "partition.png"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out. Raises FedmedError if one is in."""
        with readable(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / ".lock").open("w")
        with file:
            if not _lock(file, fcntl.LOCK_EX):
                time.sleep(0.2)  # it may only be someone who looked: see in_use
                if not _lock(file, fcntl.LOCK_EX):
                    raise FedmedError(f"{self.path}: another process is running this run")
            with readable(self.path):
                yield

    def in_use(self) -> bool:
        """Return whether a process is running this run, on any machine that shares the disk."""
        path = self.path / ".lock"
        if not path.exists():
            return False
        with readable(path), path.open() as file:
            return not _lock(file, fcntl.LOCK_SH)

    def summary(self) -> dict[str, Any] | None:
        """Return the summary, None if the run never came as far.

        Raises:
            FedmedError: if it is damaged, was changed after it was written, or is of a newer
                format.
        """
        path = self.path / "summary.json"
        if not path.exists():
            return None
        try:
            found = cast(dict[str, Any], json.loads(path.read_text()))
            formats.check(path, found.get(formats.KEY), FORMAT)
            digest = found.pop(DIGEST)
            whole = digest == _digest(found)
            _ = found.pop(formats.KEY), found["status"]
        except (ValueError, LookupError, TypeError, AttributeError):
            raise damaged(path, "it is no summary") from None
        if not whole:
            raise damaged(path, "it is not as it was written")
        return found

    def composed(self) -> dict[str, Any]:
        """Return the configuration as it was composed, unresolved; empty if there is none.

        Raises:
            FedmedError: if its file is damaged.
        """
        path = self.path / ".hydra" / "config.yaml"
        if not path.exists():
            return {}
        try:
            loaded = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        except (YAMLError, OmegaConfBaseException, ValueError, OSError):
            raise damaged(path, "it is no configuration") from None
        return cast(dict[str, Any], loaded)

    def check(self, name: str) -> Path:
        """Return the path of a file of a finished run.

        Raises:
            FedmedError: if it is gone, or is not the one that the summary was made with.
        """
        path = self.path / name
        known = (self.summary() or {}).get("files", {}).get(name)
        if known is not None and not path.exists():
            raise FedmedError(f"{path}: is gone; put back a copy, or run again with force=true")
        if known is not None and _sha256_of(path) != known:
            raise damaged(path, "it is not the one that summary.json was made with")
        return path

    def clear(self) -> None:
        """Delete what an earlier run left, but for what was spent, who has it and what it said."""
        for entry in self.path.iterdir():
            if entry.name not in _KEPT:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def write_configuration(self, files: Mapping[str, DictConfig | ListConfig]) -> None:
        """Write ``.hydra``: what was asked for, and what that composed to."""
        (self.path / ".hydra").mkdir(exist_ok=True)
        for name, content in files.items():
            write_atomically(self.path / ".hydra" / name, partial(OmegaConf.save, content))

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write ``summary.json``, and in it its format and the hash of all that it says."""
        content = {formats.KEY: FORMAT, **summary}
        text = jsontext.dumps(content | {DIGEST: _digest(content)})
        write_atomically(self.path / "summary.json", lambda new: new.write_text(text))

    def digests(self) -> dict[str, str]:
        """Return the hashes of the files that a summary is made with."""
        there = [name for name in RESULTS if (self.path / name).exists()]
        return {name: _sha256_of(self.path / name) for name in there}

    def write_metrics(self, rows: "Sequence[MetricRow]") -> None:
        """Write ``metrics.csv``; the client is empty where a metric is of no one client."""
        text = ",".join(MetricRow._fields) + "\n" + csv_lines(rows)
        write_atomically(self.path / "metrics.csv", lambda new: new.write_text(text))

    def write_csv(self, frame: pd.DataFrame, name: str) -> None:
        """Write a table; a text that a spreadsheet took for a formula gets an apostrophe."""
        write_atomically(self.path / name, lambda new: safe(frame).to_csv(new, index=False))

    def write_predictions(self, predictions: "Predictions") -> None:
        """Write ``predictions.parquet``: the final model's score and the label of each target.

        It has the patients' ids and attributes, and never leaves the run directory.
        """
        frame = predictions.frame()
        path = self.path / "predictions.parquet"
        write_atomically(path, lambda new: frame.to_parquet(new, index=False))

    def write_model(self, arrays: "Arrays") -> None:
        """Write ``checkpoint/model.safetensors``, which ``model.weights`` takes."""
        from fedmed.models.state import CHECKSUM, arrays_sha256

        path = self.path / "checkpoint" / "model.safetensors"
        whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        checksum = {CHECKSUM: arrays_sha256(whole)}
        write_atomically(path, lambda new: save_file(whole, new, checksum))


def _digest(summary: Mapping[str, Any]) -> str:
    """Return the hash of what a summary says, as it is written and as it is read."""
    plain = json.loads(jsontext.dumps(dict(summary)))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def safe(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose texts, names of columns among them, are no formulas."""
    safe = frame.map(lambda value: cell(value) if isinstance(value, str) else value)
    return safe.rename(columns=lambda name: cell(name) if isinstance(name, str) else name)


def _lock(file: IO[str], kind: int) -> bool:
    """Return whether the lock was to be had; closing the file frees it."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise FedmedError(
            f"{file.name}: cannot be locked ({error.strerror}): this file system has no flock, "
            "without which two processes could run the same run; name a hydra.run.dir on another "
            "one, or mount it with locks (NFS: without nolock; Lustre: with flock)"
        ) from None
    return True
