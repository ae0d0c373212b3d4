"""A hospital's folder: its own patients' pixels, labels and roles, and nobody else's.

It has the files of a store and of a run directory, so that a client finds in it what it finds in a
simulation. The rows keep their order, which decides the batches: a client learns the same from it.
The server's folder is made alike, of the test patients.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from fedmed import partition
from fedmed.core.errors import DataError, FedmedError
from fedmed.core.units import Unit, trainable
from fedmed.data import store
from fedmed.data.store import Store
from fedmed.data.table import labels, table_sha256

NodeReport = Mapping[str, object]  # what a hospital says of its data: see describe

TABLE = "table.parquet"
PARTITION = "partition.csv"
SITES = " + "  # between the names of sites
ROWS = 4096  # copied at once


def whose(table: pd.DataFrame, rule: partition.Partition, client: int | None) -> pd.DataFrame:
    """Return patient, client and role of those of a table that go into one folder.

    Args:
        table: a hospital's own; all that are not in its test split become the client's.
        rule: how a federation divides patients; here it says who is for validation.
        client: the hospital's number; None for the server, whose are the test patients.

    Raises:
        FedmedError: if there are none, or the rule cannot say.
    """
    split = table.drop_duplicates("patient").set_index("patient")["split"].sort_index()
    if client is None:
        tested = split.index[split == "test"]
        found = pd.DataFrame({"patient": tested, "client": -1, "role": "test"})
    elif isinstance(rule, partition.Rule):
        mine = list(split.index[split != "test"])
        roles = rule.roles(client, mine, set(split.index[split == "val"]))
        found = pd.DataFrame({"patient": mine, "client": client, "role": roles})
    else:
        raise FedmedError("partition: a saved one is of other patients; name a rule")
    if found.empty:
        raise DataError("dataset: there are no patients for this folder; see dataset.split")
    return found


def export(prepared: Store, whose: pd.DataFrame, folder: Path) -> Store:
    """Write a folder with the patients of ``whose`` and return it as a store.

    Args:
        prepared: pixels and table of these patients, and maybe of others.
        whose: patient, client and role: some rows of a partition.
        folder: made anew.

    Raises:
        FedmedError: if the folder is already there, or none of the patients' images can be read.
    """
    mine = prepared.table[prepared.table["patient"].isin(whose["patient"])]
    if mine.empty:
        raise DataError(f"{folder}: none of its patients has an image that could be read")
    if folder.exists():
        raise FedmedError(f"{folder}: is already there; delete it first, or name another")
    new = folder.with_name(folder.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    pixels = store.pixels_of(prepared.path)
    shape = (len(mine), *pixels.shape[1:])
    target = np.lib.format.open_memmap(new / "pixels.npy", "w+", pixels.dtype, shape)
    for i in range(0, len(mine), ROWS):
        target[i : i + ROWS] = pixels[mine.index[i : i + ROWS]]
    target.flush()
    store.seal(new, {})
    mine.reset_index(drop=True).to_parquet(new / TABLE)
    partition.save(whose, new / PARTITION)
    new.rename(folder)
    return read(folder)


def read(folder: Path) -> Store:
    """Return a hospital's folder as a store. Raises DataError if it is none, or damaged."""
    if not (folder / TABLE).is_file():
        raise DataError(f"{folder}: is no folder that fedmed hospital has prepared")
    try:
        table = pd.read_parquet(folder / TABLE)
    except (OSError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{folder / TABLE}: cannot be read: {reason}") from None
    return store.opened(folder, table)


def holds(folder: Path, prepared: Store, whose: pd.DataFrame) -> bool:
    """Say whether a folder is what :func:`export` would make. Raises DataError if it is damaged."""
    own = read(folder)
    kept, pixels = store.pixels_of(folder), store.pixels_of(prepared.path)
    mine = prepared.table[prepared.table["patient"].isin(whose["patient"])]
    return table_sha256(own.table) == table_sha256(mine) and all(
        np.array_equal(kept[i : i + ROWS], pixels[mine.index[i : i + ROWS]])
        for i in range(0, len(mine), ROWS)
    )


def trained(unit: Unit) -> str:
    """Return the key of a report that tells how many of a unit there are to train on."""
    return f"train_{unit.several}"


def trained_on(folder: Path) -> list[str]:
    """Return the patients of a hospital's folder who are trained on, in order.

    Raises:
        DataError: if one of its tables cannot be read.
    """
    try:
        patients = pd.read_parquet(folder / TABLE, columns=["patient"])["patient"]
    except (OSError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{folder / TABLE}: cannot be read: {reason}") from None
    whose = partition.read(folder / PARTITION)
    train = whose.loc[whose["role"] == "train", "patient"]
    return sorted(patients[patients.isin(train)].unique())


def describe(
    folder: Path, targets: Sequence[str], keyed: Callable[[str], str]
) -> dict[str, int | str]:
    """Return what is told of a hospital's folder: counts, the names of its sites, and hashes.

    Args:
        folder: the hospital's.
        targets: those to tell the number of positive images of.
        keyed: gives the hash that is told in place of one.
    """
    own, whose = read(folder), partition.read(folder / PARTITION)
    images = own.table.merge(whose, on="patient")
    train = images["role"] == "train"
    positive = (labels(own.table, targets) == 1).sum(axis=0) if targets else []
    return {
        "sites": SITES.join(sorted(images["site"].unique())),
        "patients": len(whose),
        "val_patients": int(images["patient"][~train].nunique()),
        "images": len(images),
        **{trained(unit): int(unit.keys(images)[train].nunique()) for unit in trainable()},
        "val_images": int((~train).sum()),
        "data_sha256": keyed(own.sha256),
        "table_sha256": keyed(table_sha256(own.table)),
        "pixels_sha256": keyed(own.pixels_sha256),
        "partition_sha256": keyed(partition.sha256(whose)),
        **{target: int(n) for target, n in zip(targets, positive, strict=True)},
    }
