"""The record of a partition: ``partition.csv``, its hash, and what it must never be."""

import hashlib
from pathlib import Path

import pandas as pd

from fedmed.core.errors import DataError

#: Roles of patients who are held out of everything: left over by a rule, or by a coin of an audit.
HELD_OUT = ("out", "tossed out")


def check(assigned: pd.DataFrame, table: pd.DataFrame) -> None:
    """Refuse a partition that splits a patient, leaks a test patient or leaves a client empty.

    Raises:
        DataError: naming the first offender.
    """
    twice = assigned["patient"].duplicated()
    if twice.any():
        raise DataError(f"partition: patient {assigned['patient'][twice].iloc[0]} has two clients")
    split = table.drop_duplicates("patient").set_index("patient")["split"]
    splits = assigned["patient"].map(split)
    if splits.isna().any() or len(assigned) != len(split):
        raise DataError("partition: its patients are not those of the table")
    tested = splits == "test"
    out = assigned["role"].isin(HELD_OUT)
    homeless = ~tested & ~out & (assigned["client"] < 0)
    for wrong, what in (
        (tested & (assigned["client"] >= 0), "test patient {} is in a client"),
        (homeless, "patient {} has no client"),
        (out & (assigned["client"] >= 0), "patient {} is held out and in a client"),
        (tested != (assigned["role"] == "test"), "patient {} has a role of another split"),
        ((splits == "val") & (assigned["role"] == "train"), "validation patient {} is trained on"),
    ):
        if wrong.any():
            raise DataError("partition: " + what.format(assigned["patient"][wrong].iloc[0]))
    sizes = assigned[assigned["role"] == "train"].groupby("client").size()
    clients = assigned["client"].max() + 1
    empty = [k for k in range(clients) if k not in sizes.index]
    if empty or clients == 0:
        raise DataError(
            f"partition: client {empty[0] if empty else 0} has no patient to train on; "
            "use fewer clients or a lower partition.val_fraction"
        )


def save(assigned: pd.DataFrame, path: Path) -> None:
    """Write ``partition.csv``; the file's SHA-256 is that of the partition."""
    assigned.to_csv(path, index=False, lineterminator="\n")


def read(path: Path) -> pd.DataFrame:
    """Read ``partition.csv``."""
    return pd.read_csv(path, dtype={"patient": str, "client": int, "role": str})


def sha256(assigned: pd.DataFrame) -> str:
    """Return the hash of who is whose."""
    return hashlib.sha256(assigned.to_csv(index=False, lineterminator="\n").encode()).hexdigest()
