"""Spreadsheets of a hospital's folder, for the tests of what label files say."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fedmed.config import compose
from fedmed.core.errors import FedmedError
from fedmed.data.table import validate
from fedmed.datasets.folder import Folder

FOLDER = ("dataset=folder", "dataset.findings={Effusion: fluid}", "dataset.headers=false")


def table_of(root: Path, *overrides: str) -> pd.DataFrame:
    """Return a validated table, as a run reads it."""
    dataset = compose([*overrides, f"dataset.root={root}"]).dataset.build()
    return validate(dataset.table(), dataset)


def folder(root: Path, table: str = "labels.csv", **more: Any) -> Folder:
    """Return a hospital's folder whose spreadsheet has the columns of :func:`rows`."""
    columns = {"image": "image", "patient": "patient"}
    given: dict[str, Any] = {"values": {}, "name": "folder", "headers": False} | more
    return Folder(["Effusion"], 16, root, table, columns, {"Effusion": "fluid"}, **given)


def refused(root: Path, *overrides: str) -> str:
    """Return the one line that a run ends with."""
    with pytest.raises(FedmedError) as error:
        table_of(root, *overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


def rows(patients: list[str], **more: list[Any]) -> pd.DataFrame:
    """Return a hospital's spreadsheet, of one image a row."""
    n = len(patients)
    images = [f"i{i}.png" for i in range(n)]
    return pd.DataFrame(
        {"image": images, "patient": patients, "fluid": [str(i % 2) for i in range(n)]} | more
    )
