"""A run's data: the dataset's table, its patients divided into clients, its images decoded.

They are prepared, then saved, then reviewed: to prepare them writes nothing but the store.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from fedmed import partition
from fedmed.config import Config
from fedmed.core.errors import DataError, FedmedError
from fedmed.core.units import Unit
from fedmed.data import store
from fedmed.data.contents import Progress
from fedmed.data.store import Store
from fedmed.data.table import Dataset, labels, validate
from fedmed.deployment.evidence import Evidence, of_data
from fedmed.evaluation.metrics import Floats
from fedmed.partition.figures import draw_partition
from fedmed.runs.directory import RunDirectory


@dataclass(frozen=True)
class Finding:
    """Something that was found about the data and that a user must know.

    Attributes:
        text: in words, without a full stop.
        file: of the run directory that lists what it is about; empty if none does.
        rows: what that file lists.
        listed: what is said of the file.
        caveat: whether ``summary.json`` says it too, since no number of its own does.
    """

    text: str
    file: str = ""
    rows: pd.DataFrame = field(default_factory=pd.DataFrame)
    listed: str = "lists them"
    caveat: bool = True


@dataclass(frozen=True)
class Data:
    """The prepared data of a run.

    Attributes:
        dataset: where they come from; None where they are the hospitals' own.
        store: pixels and table.
        assigned: patient, client and role.
        clients: one row a client; ``clients.csv``.
        counted: the targets of which ``clients`` says how many images show them.
        test: the rows of the test split.
        truth: their labels, N×T.
        findings: what a user must know before believing a result.
    """

    dataset: Dataset | None
    store: Store
    assigned: pd.DataFrame
    clients: pd.DataFrame
    counted: tuple[str, ...]
    test: pd.DataFrame
    truth: Floats
    findings: list[Finding]

    @property
    def caveats(self) -> list[str]:
        """What ``summary.json`` says of the data, a sentence each."""
        return [finding.text for finding in self.findings if finding.caveat]

    @property
    def hashes(self) -> dict[str, str]:
        """What a resumed run must share with the one it resumes."""
        return {
            "data_sha256": self.store.sha256,
            "partition_sha256": partition.sha256(self.assigned),
        }

    def evidence(self) -> dict[int, Evidence]:
        """Return client → the hashes of its data, -1 of the test patients; all pixels are read."""
        return of_data(self.store, self.assigned)

    @property
    def patients(self) -> dict[str, int]:
        """How many patients have each role."""
        return {str(role): int(n) for role, n in self.assigned["role"].value_counts().items()}

    @property
    def images(self) -> dict[str, int]:
        """How many images are in each split of the dataset."""
        counts = self.store.table["split"].value_counts()
        return {str(split): int(n) for split, n in counts.items()}

    @property
    def homes(self) -> list[set[str]]:
        """The sites that each client's patients come from."""
        rows = self.store.table.merge(self.assigned, on="patient").groupby("client")["site"]
        return [set(sites) for sites in rows.unique().reindex(self.clients["client"])]

    def units(self, unit: Unit) -> list[int]:
        """Return how many of a unit each client trains on."""
        train = self.assigned[self.assigned["role"] == "train"]
        rows = self.store.table.merge(train, on="patient")
        sizes = unit.keys(rows).groupby(rows["client"]).nunique()
        return [int(n) for n in sizes.sort_index()]


def prepare(config: Config, progress: Progress, workers: int) -> Data:
    """Read the table, divide the patients, decode the images.

    Args:
        config: of the run.
        progress: called with the images decoded so far, and their number.
        workers: processes that decode; 0 decodes in this one.

    Raises:
        FedmedError: if label files are broken, or the patients do not suffice.
    """
    dataset: Dataset = config.dataset.build()
    table = validate(dataset.table(), dataset)
    _check_known(table, dataset)
    rule: partition.Partition = config.partition.build()
    assigned = rule.assign(table, dataset.targets)
    prepared = store.prepare(dataset, table, config.store, workers, progress)
    clients = partition.describe(prepared.table, assigned, dataset.targets)
    test = prepared.table[prepared.table["split"] == "test"]
    truth = labels(test, dataset.targets)
    findings = [*map(Finding, dataset.caveats()), *_found(prepared)]
    return Data(dataset, prepared, assigned, clients, tuple(dataset.targets), test, truth, findings)


def save(data: Data, run_dir: RunDirectory) -> None:
    """Write what a run directory keeps of the data: who has what, and all that was found.

    Raises:
        FedmedError: if the disk does not take it.
    """
    for finding in data.findings:
        if finding.file:
            run_dir.write_csv(finding.rows, finding.file)
    data.store.table.to_parquet(run_dir.table)
    partition.save(data.assigned, run_dir.partition)
    run_dir.write_csv(data.clients, "clients.csv")
    if data.counted:
        draw_partition(data.clients, data.counted, run_dir.picture)


def review(data: Data, run_dir: RunDirectory, warn: Callable[[str], None]) -> None:
    """Tell what was found, and refuse data that cannot be trained on or tested with.

    Args:
        data: as they were saved.
        run_dir: where; its files are named.
        warn: called with a line that a person should see.

    Raises:
        FedmedError: if the test split or a client has no image that could be read.
    """
    for finding in data.findings:
        where = f"; {run_dir.path}/{finding.file} {finding.listed}" if finding.file else ""
        warn(f"{finding.text}{where}")
    if data.test.empty:
        raise FedmedError(f"dataset: no image of the test split could be read; see {run_dir.path}")
    empty = data.clients.query("train_images == 0")
    if len(empty):
        raise FedmedError(
            f"partition: no image of client {empty['client'].iloc[0]} could be read; "
            f"see {run_dir.path}/unreadable.csv"
        )


def _found(prepared: Store) -> Iterator[Finding]:
    """Yield what was found about the images of a store."""
    if len(unreadable := prepared.unreadable):
        yield Finding(
            f"{len(unreadable)} images could not be read and are left out",
            "unreadable.csv",
            unreadable,
            "lists them with the reasons",
            caveat=False,  # a number in summary.json
        )
    if len(repeated := prepared.repeated()):
        yield Finding(store.caveat(repeated), "duplicates.csv", repeated)
    if prepared.even:
        rows = prepared.table.loc[prepared.even, ["image", "patient", "split"]]
        text = f"{len(rows)} images are of one grey level and show nothing"
        yield Finding(text, "one_grey_level.csv", rows)


def _check_known(table: pd.DataFrame, dataset: Dataset) -> None:
    """Refuse a target that no image to train on has a label of."""
    known = ~np.isnan(labels(table[table["split"] != "test"], dataset.targets))
    for column, target in enumerate(dataset.targets):
        if not known[:, column].any():
            raise DataError(f"dataset.targets: {target} is not known of any image to train on")
