"""A run's data: the dataset's table, its patients divided into clients, its images decoded."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from fedmed import partition
from fedmed.config import Config
from fedmed.core.errors import DataError, FedmedError
from fedmed.data import store
from fedmed.data.store import Store
from fedmed.data.table import Dataset, labels, validate
from fedmed.evaluation.metrics import Floats
from fedmed.partition.figures import draw_partition
from fedmed.runs.console import Console
from fedmed.runs.directory import RunDirectory


@dataclass(frozen=True)
class Data:
    """The prepared data of a run.

    Attributes:
        dataset: where they come from; None where they are the hospitals' own.
        store: pixels and table.
        assigned: patient, client and role.
        clients: one row a client; ``clients.csv``.
        test: the rows of the test split.
        truth: their labels, N×T.
        caveats: what a user must know before believing a result.
    """

    dataset: Dataset | None
    store: Store
    assigned: pd.DataFrame
    clients: pd.DataFrame
    test: pd.DataFrame
    truth: Floats
    caveats: list[str]

    @property
    def hashes(self) -> dict[str, str]:
        """What a resumed run must share with the one it resumes."""
        return {
            "data_sha256": self.store.sha256,
            "partition_sha256": partition.sha256(self.assigned),
        }

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

    def units(self, unit: str) -> list[int]:
        """Return how many patients or images each client trains on."""
        train = self.assigned[self.assigned["role"] == "train"]
        rows = self.store.table.merge(train, on="patient").groupby("client")["patient"]
        sizes = rows.nunique() if unit == "patient" else rows.size()
        return [int(n) for n in sizes.sort_index()]


def prepare(config: Config, here: RunDirectory, console: Console, workers: int) -> Data:
    """Read the table, divide the patients, decode the images; keep who has what in ``here``.

    Decoding is spread over ``workers`` processes; 0 decodes in this one.

    Raises:
        FedmedError: if label files are broken, the patients do not suffice, or a client or the
            test split has no image that can be read.
    """
    dataset: Dataset = config.dataset.build()
    caveats = dataset.caveats()
    for caveat in caveats:
        console.warn(caveat)
    table = validate(dataset.table(), dataset)
    _check_known(table, dataset)
    rule: partition.Partition = config.partition.build()
    assigned = rule.assign(table, dataset.targets)
    prepared = store.prepare(
        dataset,
        table,
        config.store,
        workers,
        lambda done, total: console.show("images", done, total),
    )
    if len(prepared.unreadable):
        here.write_csv(prepared.unreadable, "unreadable.csv")
        console.warn(
            f"{len(prepared.unreadable)} images could not be read and are left out; "
            f"{here.path}/unreadable.csv lists them with the reasons"
        )
    repeated = prepared.repeated()
    if len(repeated):
        here.write_csv(repeated, "duplicates.csv")
        caveats.append(store.caveat(repeated))
        console.warn(f"{caveats[-1]}; {here.path}/duplicates.csv lists them")
    if prepared.even:
        columns = ["image", "patient", "split"]
        here.write_csv(prepared.table.loc[prepared.even, columns], "one_grey_level.csv")
        caveats.append(f"{len(prepared.even)} images are of one grey level and show nothing")
        console.warn(f"{caveats[-1]}; {here.path}/one_grey_level.csv lists them")
    test = prepared.table[prepared.table["split"] == "test"]
    if test.empty:
        raise FedmedError(f"dataset: no image of the test split could be read; see {here.path}")
    clients = partition.describe(prepared.table, assigned, dataset.targets)
    empty = clients.query("train_images == 0")
    if len(empty):
        raise FedmedError(
            f"partition: no image of client {empty['client'].iloc[0]} could be read; "
            f"see {here.path}/unreadable.csv"
        )
    prepared.table.to_parquet(here.table)
    partition.save(assigned, here.partition)
    here.write_csv(clients, "clients.csv")
    draw_partition(clients, dataset.targets, here.picture)
    truth = labels(test, dataset.targets)
    return Data(dataset, prepared, assigned, clients, test, truth, caveats)


def _check_known(table: pd.DataFrame, dataset: Dataset) -> None:
    """Refuse a target that no image to train on has a label of."""
    known = ~np.isnan(labels(table[table["split"] != "test"], dataset.targets))
    for column, target in enumerate(dataset.targets):
        if not known[:, column].any():
            raise DataError(f"dataset.targets: {target} is not known of any image to train on")
