"""Hashes of each client's data: the same told by its hospital and found by a simulation."""

from collections.abc import Mapping
from typing import Any, TypedDict

import pandas as pd

from fedmed import partition
from fedmed.data.sealed import pixels_of, pixels_sha256
from fedmed.data.store import Store
from fedmed.data.table import table_sha256
from fedmed.partition.record import HELD_OUT

TEST = -1  # the client of the server's test patients


class Tables(TypedDict):
    """Hashes of who has which images, 64 hexadecimal digits each.

    Attributes:
        table: of the rows of a client's images.
        partition: of its patients and their roles.
    """

    table: str
    partition: str


class Evidence(Tables):
    """The same, and of the images themselves.

    Attributes:
        pixels: of the pixels in the order of the rows.
    """

    pixels: str


def of_tables(table: pd.DataFrame, assigned: pd.DataFrame) -> dict[int, Tables]:
    """Return client → the hashes of its tables; -1 has the test patients.

    Args:
        table: a row an image.
        assigned: patient, client and role; who is held out of everything is in no hash.
    """
    return {
        client: Tables(table=table_sha256(rows), partition=partition.sha256(whose))
        for client, (rows, whose) in _parts(table, assigned).items()
    }


def of_data(prepared: Store, assigned: pd.DataFrame) -> dict[int, Evidence]:
    """Return client → the hashes of its data; -1 has the test patients.

    Args:
        prepared: pixels, and their table.
        assigned: patient, client and role.
    """
    tables, pixels = of_tables(prepared.table, assigned), pixels_of(prepared.path)
    return {
        client: Evidence(**tables[client], pixels=pixels_sha256(pixels, rows.index.tolist()))
        for client, (rows, _) in _parts(prepared.table, assigned).items()
    }


def _parts(
    table: pd.DataFrame, assigned: pd.DataFrame
) -> Mapping[int, tuple[pd.DataFrame, pd.DataFrame]]:
    """Return the images and the patients of each client, in the order of its own folder."""
    taking_part = assigned[~assigned["role"].isin(HELD_OUT)]
    client_of = table["patient"].map(taking_part.set_index("patient")["client"])
    images: Any = dict(iter(table.groupby(client_of)))
    patients: Any = taking_part.groupby("client")
    return {int(client): (images.get(client, table[:0]), whose) for client, whose in patients}
