"""What a partition is, and how a rule makes one of the patients that may be learnt from."""

import warnings
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated

import numpy as np
import pandas as pd
from pydantic import Field

from fedmed.core.errors import ConfigError
from fedmed.core.seeding import generator
from fedmed.partition.patients import RAREST, patients_of
from fedmed.partition.record import check

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner

Clients = Annotated[int, Field(ge=1)]
ValFraction = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0)]


class Partition(ABC):
    """Who is whose, however it is decided."""

    @abstractmethod
    def assign(self, table: pd.DataFrame, targets: tuple[str, ...]) -> pd.DataFrame:
        """Give every patient a role, and all but the test patients a client.

        Returns:
            Columns ``patient``, ``client`` (-1 for test patients) and ``role`` (train, val or
            test), sorted by patient.

        Raises:
            ConfigError: if the patients do not suffice.
            DataError: if the result breaks a promise of :func:`fedmed.partition.check`.
        """


class Rule(Partition):
    """A rule by which patients become clients.

    Args:
        val_fraction: share of each client's patients that is kept for its validation. Where the
            dataset has a validation split itself, that is kept instead, and a client may have
            none of it.
        seed: of the draw.
    """

    key = RAREST

    def __init__(self, val_fraction: float, seed: int) -> None:
        self.val_fraction = val_fraction
        self.seed = seed

    @abstractmethod
    def divide(self, patients: pd.DataFrame) -> list[list[str]]:
        """Return each client's patients, of a shuffled table as ``patients_of`` makes it."""

    def assign(self, table: pd.DataFrame, targets: tuple[str, ...]) -> pd.DataFrame:  # noqa: D102
        patients = patients_of(table[table["split"] != "test"], targets, self.key)
        shuffled = patients.iloc[generator(self.seed, "partition").permutation(len(patients))]
        clients = [sorted(ids) for ids in self.divide(shuffled)]
        split = table.drop_duplicates("patient").set_index("patient")["split"]
        val = set(split.index[split == "val"])
        parts = [
            pd.DataFrame({"patient": ids, "client": client, "role": self.roles(client, ids, val)})
            for client, ids in enumerate(clients)
        ]
        test = split.index[split == "test"]
        parts.append(pd.DataFrame({"patient": test, "client": -1, "role": "test"}))
        assigned = pd.concat(parts).sort_values("patient", ignore_index=True)
        check(assigned, table)
        return assigned

    def roles(self, client: int, patients: list[str], val: set[str]) -> list[str]:
        """Return train or val for each of a client's patients.

        Args:
            client: whose.
            patients: all of them, sorted.
            val: the dataset's own validation patients, if it has any.
        """
        if val:
            return ["val" if patient in val else "train" for patient in patients]
        order = generator(self.seed, "validation", client).permutation(len(patients))
        kept = order < round(self.val_fraction * len(patients))
        return list(np.where(kept, "val", "train"))

    def _enough(self, patients: pd.DataFrame, clients: int) -> None:
        if clients > len(patients):
            raise ConfigError(
                f"partition.clients: at most one a patient; {clients} clients were asked for and "
                f"there are {len(patients)} patients to train"
            )


def parts(partitioner: "Partitioner", patients: pd.DataFrame) -> list[list[str]]:
    """Return each client's patients, as one of flwr-datasets' partitioners divides them.

    Their tables pay for each column at each turn: give no more than the partitioner reads.
    """
    from datasets import Dataset as HFDataset  # takes a second, and clients only read partitions

    partitioner.dataset = HFDataset.from_pandas(patients, preserve_index=False)
    with warnings.catch_warnings(action="ignore"):  # of what its callers refuse
        clients = range(partitioner.num_partitions)
        # a slice is a column of Arrow's; without it each patient would be a row fetched alone
        return [list(partitioner.load_partition(client)["patient"][:]) for client in clients]
