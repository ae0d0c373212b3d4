"""Partitions: patient → client. The partitioners of flwr-datasets, given patients.

A patient carries findings on several images, so a label skew needs one key a patient: the rarest
finding that any of the patient's training images shows, or "No Finding". Test patients belong to
no client.
"""

import hashlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from flwr_datasets.partitioner import (
    DirichletPartitioner,
    IidPartitioner,
    NaturalIdPartitioner,
    Partitioner,
    PathologicalPartitioner,
    SizePartitioner,
)
from pydantic import Field

from datasets import Dataset as HFDataset
from fedmed.errors import ConfigError, DataError
from fedmed.seeding import generator, seed_of
from fedmed.table import NO_FINDING, labels

Clients = Annotated[int, Field(ge=1)]
Alpha = Annotated[float, Field(gt=0)]
Patients = Annotated[int, Field(ge=1)]
ValFraction = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0)]

ATTEMPTS = 100  # draws before a partition with too small clients is given up


class Partition(ABC):
    """A rule by which patients become clients.

    Args:
        val_fraction: share of each client's patients that is kept for its validation.
        seed: of the draw.
    """

    def __init__(self, val_fraction: float, seed: int) -> None:
        self.val_fraction = val_fraction
        self.seed = seed

    @abstractmethod
    def divide(self, patients: pd.DataFrame) -> list[list[str]]:
        """Return each client's patients; ``patients`` has the columns patient, site and key."""

    def assign(self, table: pd.DataFrame, targets: tuple[str, ...]) -> pd.DataFrame:
        """Give every patient a role, and all but the test patients a client.

        Returns:
            Columns ``patient``, ``client`` (-1 for test patients) and ``role`` (train, val or
            test), sorted by patient.

        Raises:
            ConfigError: if the patients do not suffice.
        """
        patients = patients_of(table[table["split"] != "test"], targets)
        shuffled = patients.iloc[generator(self.seed, "partition").permutation(len(patients))]
        parts = [self._roles(client, ids) for client, ids in enumerate(self.divide(shuffled))]
        test = table.loc[table["split"] == "test", "patient"].unique()
        parts.append(pd.DataFrame({"patient": test, "client": -1, "role": "test"}))
        assigned = pd.concat(parts).sort_values("patient", ignore_index=True)
        check(assigned, table)
        return assigned

    def _roles(self, client: int, patients: list[str]) -> pd.DataFrame:
        order = generator(self.seed, "validation", client).permutation(len(patients))
        role = np.where(order < round(self.val_fraction * len(patients)), "val", "train")
        return pd.DataFrame({"patient": sorted(patients), "client": client, "role": role})

    def _enough(self, patients: pd.DataFrame, clients: int) -> None:
        if clients > len(patients):
            raise ConfigError(
                f"partition.clients: at most one a patient; {clients} clients were asked for and "
                f"there are {len(patients)} patients to train"
            )


class IID(Partition):
    """Patients shuffled and dealt out evenly."""

    def __init__(self, clients: Clients, val_fraction: ValFraction, seed: Seed) -> None:
        super().__init__(val_fraction, seed)
        self.clients = clients

    def divide(self, patients: pd.DataFrame) -> list[list[str]]:  # noqa: D102
        self._enough(patients, self.clients)
        return _parts(IidPartitioner(self.clients), patients)


class _Skewed(Partition):
    """A skew drawn from Dir(alpha), again and again until every client has enough patients."""

    def __init__(
        self,
        clients: Clients,
        alpha: Alpha,
        min_patients: Patients,
        val_fraction: ValFraction,
        seed: Seed,
    ) -> None:
        super().__init__(val_fraction, seed)
        self.clients, self.alpha, self.min_patients = clients, alpha, min_patients


class Dirichlet(_Skewed):
    """Label skew by Dir(alpha) over the clients, for each key (Yurochkin et al. 2019)."""

    def divide(self, patients: pd.DataFrame) -> list[list[str]]:  # noqa: D102
        self._enough(patients, self.clients * self.min_patients)
        for attempt in range(ATTEMPTS):
            partitioner = DirichletPartitioner(
                self.clients,
                "key",
                self.alpha,
                min_partition_size=0,
                seed=seed_of(self.seed, "dirichlet", attempt) % 2**32,
            )
            parts = _parts(partitioner, patients)
            if min(map(len, parts)) >= self.min_patients:
                return parts
        raise ConfigError(_hopeless(self.min_patients))


class Pathological(Partition):
    """Each client holds patients of only a few keys (McMahan et al. 2017)."""

    def __init__(
        self, clients: Clients, keys: Clients, val_fraction: ValFraction, seed: Seed
    ) -> None:
        super().__init__(val_fraction, seed)
        self.clients, self.keys = clients, keys

    def divide(self, patients: pd.DataFrame) -> list[list[str]]:  # noqa: D102
        self._enough(patients, self.clients)
        known = patients["key"].nunique()
        if self.keys > known:
            raise ConfigError(
                f"partition.keys: at most {known}, the keys there are; got {self.keys}"
            )
        if self.clients + self.keys - 1 < known:
            raise ConfigError(
                f"partition.clients: {self.clients} clients of {self.keys} keys leave some of the "
                f"{known} keys, and their patients, to nobody; raise either"
            )
        partitioner = PathologicalPartitioner(
            self.clients,
            "key",
            self.keys,
            class_assignment_mode="deterministic",
            seed=seed_of(self.seed, "pathological") % 2**32,
        )
        return _parts(partitioner, patients)


class Quantity(_Skewed):
    """Quantity skew: the clients' shares are drawn from Dir(alpha) (Li et al. 2022)."""

    def divide(self, patients: pd.DataFrame) -> list[list[str]]:  # noqa: D102
        self._enough(patients, self.clients * self.min_patients)
        rng = generator(self.seed, "quantity")
        for _ in range(ATTEMPTS):
            cuts = np.cumsum(rng.dirichlet(np.full(self.clients, self.alpha))) * len(patients)
            sizes = np.diff(np.round(cuts[:-1]), prepend=0, append=len(patients)).astype(int)
            if sizes.min() >= self.min_patients:
                return _parts(SizePartitioner(sizes.tolist()), patients)
        raise ConfigError(_hopeless(self.min_patients))


class Site(Partition):
    """Natural: a client is a site of the dataset."""

    def __init__(self, val_fraction: ValFraction, seed: Seed) -> None:
        super().__init__(val_fraction, seed)

    def divide(self, patients: pd.DataFrame) -> list[list[str]]:  # noqa: D102
        return _parts(NaturalIdPartitioner("site"), patients)


def _parts(partitioner: Partitioner, patients: pd.DataFrame) -> list[list[str]]:
    partitioner.dataset = HFDataset.from_pandas(patients, preserve_index=False)
    clients = range(partitioner.num_partitions)
    return [list(partitioner.load_partition(client)["patient"]) for client in clients]


def _hopeless(least: int) -> str:
    return (
        f"partition.alpha: none of {ATTEMPTS} draws gave every client {least} patients; raise "
        "alpha, or lower partition.clients or partition.min_patients"
    )


def patients_of(table: pd.DataFrame, targets: tuple[str, ...]) -> pd.DataFrame:
    """Return one row a patient, sorted: ``patient``, ``site`` and ``key``.

    The key is the rarest of the patient's positive targets, counted in patients.
    """
    positive = pd.DataFrame(labels(table, targets) == 1, columns=list(targets))
    by_patient = positive.groupby(table["patient"].to_numpy()).any().sort_index()
    by_rarity = by_patient.sum().sort_values(kind="stable").index
    key = by_patient[by_rarity].idxmax(axis=1).where(by_patient.any(axis=1), NO_FINDING)
    site = table.groupby("patient")["site"].first()
    return pd.DataFrame(
        {"patient": key.index, "site": site[key.index].to_numpy(), "key": key.array}
    )


def check(assigned: pd.DataFrame, table: pd.DataFrame) -> None:
    """Refuse a partition that splits a patient, leaks a test patient or leaves a client empty.

    Raises:
        DataError: naming the first offender.
    """
    twice = assigned["patient"].duplicated()
    if twice.any():
        raise DataError(f"partition: patient {assigned['patient'][twice].iloc[0]} has two clients")
    if set(assigned["patient"]) != set(table["patient"]):
        raise DataError("partition: its patients are not those of the table")
    test = set(table.loc[table["split"] == "test", "patient"])
    leaked = assigned[assigned["patient"].isin(test) & (assigned["client"] >= 0)]
    if len(leaked):
        raise DataError(f"partition: test patient {leaked['patient'].iloc[0]} is in a client")
    sizes = assigned[assigned["role"] == "train"].groupby("client").size()
    clients = assigned["client"].max() + 1
    empty = [k for k in range(clients) if k not in sizes.index]
    if empty or clients == 0:
        raise DataError(
            f"partition: client {empty[0] if empty else 0} has no patient to train on; "
            "use fewer clients or a lower partition.val_fraction"
        )


def save(assigned: pd.DataFrame, path: Path) -> None:
    """Write ``partition.csv``."""
    assigned.to_csv(path, index=False)


def read(path: Path) -> pd.DataFrame:
    """Read ``partition.csv``."""
    return pd.read_csv(path, dtype={"patient": str, "client": int, "role": str})


def sha256(assigned: pd.DataFrame) -> str:
    """Return the hash of who is whose."""
    return hashlib.sha256(assigned.to_csv(index=False).encode()).hexdigest()
