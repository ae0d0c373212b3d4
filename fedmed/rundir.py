"""The run directory: all that a run leaves, in files that anyone can read.

It is written as the run goes and stands on its own: nothing in it needs wandb or fedmed.
"""

import contextlib
import fcntl
import json
import platform
import shutil
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from safetensors.numpy import save_file

from fedmed import jsontext
from fedmed.errors import FedmedError
from fedmed.trees import write_atomically

if TYPE_CHECKING:  # to look at run directories takes no MONAI
    from fedmed.checkpoint import Row
    from fedmed.evaluation.predictions import Predictions
    from fedmed.models import Arrays

VERSIONS = ("fedmed", "flwr", "torch", "monai", "flwr-datasets", "dp-accounting", "opacus", "numpy")


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
        self.table = path / "table.parquet"
        self.partition = path / "partition.csv"
        self.picture = path / "partition.png"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out. Raises FedmedError if one is in."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("w") as file:
            if not _lock(file, fcntl.LOCK_EX):
                time.sleep(0.2)  # it may only be someone who looked: see in_use
                if not _lock(file, fcntl.LOCK_EX):
                    raise FedmedError(f"{self.path}: another process is running this run")
            yield

    def in_use(self) -> bool:
        """Return whether a process is running this run, on any machine that shares the disk."""
        path = self.path / ".lock"
        if not path.exists():
            return False
        with path.open() as file:
            return not _lock(file, fcntl.LOCK_SH)

    def summary(self) -> dict[str, Any] | None:
        """Return the summary, None if the run never came as far."""
        path = self.path / "summary.json"
        return json.loads(path.read_text()) if path.exists() else None

    def clear(self) -> None:
        """Delete what an earlier run left, but for Hydra's files and the log."""
        for entry in self.path.iterdir():
            if entry.name in {".hydra", ".lock", "run.log"}:
                continue
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write ``summary.json``."""
        text = jsontext.dumps(summary)
        write_atomically(self.path / "summary.json", lambda new: new.write_text(text))

    def write_metrics(self, rows: "Sequence[Row]") -> None:
        """Write ``metrics.csv``; the client is empty where a metric is of no one client."""
        frame = pd.DataFrame(rows, columns=["round", "scope", "client", "metric", "value"])
        frame["client"] = frame["client"].map(lambda client: "" if client < 0 else str(client))
        path = self.path / "metrics.csv"
        write_atomically(path, lambda new: frame.to_csv(new, index=False))

    def write_csv(self, frame: pd.DataFrame, name: str) -> None:
        """Write a table."""
        write_atomically(self.path / name, lambda new: frame.to_csv(new, index=False))

    def write_predictions(self, predictions: "Predictions") -> None:
        """Write ``predictions.parquet``: the final model's score and the label of each target.

        It has the patients' ids and attributes, and never leaves the run directory.
        """
        frame = predictions.frame()
        path = self.path / "predictions.parquet"
        write_atomically(path, lambda new: frame.to_parquet(new, index=False))

    def write_model(self, arrays: "Arrays") -> None:
        """Write ``checkpoint/model.safetensors``, which ``model.weights`` takes."""
        path = self.path / "checkpoint" / "model.safetensors"
        whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        write_atomically(path, lambda new: save_file(whole, new))


def versions() -> dict[str, str]:
    """Return what the result may depend on: Python, packages, processor; no names of hosts."""
    machine = {"python": platform.python_version(), "machine": platform.machine()}
    return machine | {name: version(name) for name in VERSIONS}


def _lock(file: IO[str], kind: int) -> bool:
    """Return whether the lock was to be had; closing the file frees it."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
