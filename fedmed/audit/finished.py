"""A finished run, as an auditor finds it: its configuration, its patients and its model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from safetensors.numpy import load_file
from yaml import safe_load

from fedmed import config as cfg
from fedmed import models, partition
from fedmed.audit.canaries import FLIPPED, MARKED, OUT
from fedmed.client.context import ClientContext, open_context
from fedmed.config import identity
from fedmed.core.errors import FedmedError
from fedmed.data import store
from fedmed.data.examples import Examples, predict
from fedmed.data.table import Dataset, validate
from fedmed.engines.local import workers
from fedmed.evaluation.metrics import Floats
from fedmed.runs.directory import RunDirectory


@dataclass(frozen=True)
class Finished:
    """What a run left.

    Attributes:
        folder: the run directory.
        overrides: what the run was composed from.
        config: the same, composed.
        summary: its ``summary.json``.
        weights: the final model.
        patients: patient and role; the role of who was kept out by a coin is ``tossed out``.
    """

    folder: Path
    overrides: tuple[str, ...]
    config: cfg.Config
    summary: dict[str, Any]
    weights: models.Arrays
    patients: pd.DataFrame

    @classmethod
    def open(cls, folder: Path) -> "Finished":
        """Read a run directory.

        Raises:
            FedmedError: if it is none, if the run is not finished, or if its configuration no
                longer gives what it gave.
        """
        here = RunDirectory(folder)
        summary, composed = here.summary(), folder / ".hydra" / "overrides.yaml"
        if summary is None or not composed.exists():
            raise FedmedError(f"{folder}: is no run directory of fedmed")
        if summary["status"] != "finished":
            raise FedmedError(f"{folder}: the run is {summary['status']}; finish it first")
        overrides = tuple(cast(list[str], safe_load(composed.read_text(encoding="utf-8"))))
        config = cfg.compose(overrides)
        if identity.sha256(config, summary["device"]) != summary["config_sha256"]:
            raise FedmedError(
                f"{folder}: its overrides no longer compose to the configuration that ran; "
                "audit it with the version of fedmed that made it"
            )
        weights = load_file(here.check("checkpoint/model.safetensors"))
        patients = partition.read(here.check("partition.csv"))
        return cls(folder, overrides, config, summary, weights, patients)

    def marked(self) -> "pd.Series[bool]":
        """Return, by marked canary, whether it was trained on."""
        return self._members(self.patients["patient"].str.startswith(MARKED), OUT)

    def tossed(self) -> "pd.Series[bool]":
        """Return, by patient with images, whether they were trained on, as a fair coin decided.

        Where there are flipped canaries, only they; empty where no coin was tossed. Who is in no
        client for another reason, as a rule leaves some over, is not among them.
        """
        flipped = self.patients["patient"].str.startswith(FLIPPED)
        members = self._members(flipped if flipped.any() else self._imaged(), OUT)
        return members.iloc[:0] if members.all() else members

    def trained(self) -> "pd.Series[bool]":
        """Return, by training and test patient, whether they were trained on."""
        return self._members(self._imaged(), "test")

    def _imaged(self) -> "pd.Series[bool]":
        return ~self.patients["patient"].str.startswith(MARKED)

    def _members(self, which: "pd.Series[bool]", others: str) -> "pd.Series[bool]":
        chosen = self.patients[which & self.patients["role"].isin(["train", others])]
        return chosen.set_index("patient")["role"] == "train"


@dataclass(frozen=True)
class Bench:
    """Where models of one configuration are queried: its network and its images.

    Attributes:
        context: a client's of the run.
        rows: of the images of the patients in question.
        patients: whose they are.
    """

    context: ClientContext
    rows: np.ndarray[tuple[int], np.dtype[np.intp]]
    patients: list[str]

    @classmethod
    def of(cls, run: Finished, patients: "pd.Index[str]") -> "Bench":
        """Return a bench with the images of some of a run's patients, decoded anew if need be.

        Raises:
            FedmedError: if the data are not those that the run was trained on.
        """
        dataset: Dataset = run.config.dataset.build()
        table = validate(dataset.table(), dataset)
        prepared = store.prepare(
            dataset, table, run.config.store, workers(run.config.runner), lambda done, total: None
        )
        if prepared.sha256 != run.summary["data_sha256"]:
            raise FedmedError(f"{run.folder}: the dataset has changed since the run")
        kept = RunDirectory(run.folder)
        context = open_context(
            run.config, run.config.runner.device, prepared.path, kept.table, kept.partition
        )
        own = context.index[context.index["patient"].isin(patients)]
        return cls(context, own.index.to_numpy(), own["patient"].tolist())

    @property
    def labels(self) -> Floats:
        """The labels of the images, n×T."""
        return self.context.labels[self.rows]

    def query(self, weights: models.Arrays) -> Floats:
        """Return a model's probabilities of the images, n×T: all that a black box tells."""
        self.context.receive(models.to_record(weights))
        examples = Examples(self.context.pixels, self.context.labels, self.rows)
        batch_statistics = self.context.config.strategy.keeps_statistics
        return predict(self.context.network, examples, batch_statistics=batch_statistics)
