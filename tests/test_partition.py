"""Patients are never split, test patients never leak, and skews are what they are called."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fedmed.config import compose
from fedmed.datasets.phantom import Phantom
from fedmed.errors import DataError
from fedmed.partition import Partition, check, patients_of, read, save, sha256
from fedmed.table import NO_FINDING

TARGETS = ("Cardiomegaly", "Effusion", "Nodule")
RULES = {
    "iid": (),
    "dirichlet": ("partition.alpha=0.1",),
    "pathological": ("partition.keys=2",),
    "quantity": ("partition.alpha=0.3",),
    "site": (),
}


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return Phantom(list(TARGETS), 32, patients=800, sites=5).table()


def rule(name: str, *overrides: str, seed: int = 0) -> Partition:
    config = compose([f"partition={name}", *RULES[name], *overrides, f"seed={seed}"])
    built: Partition = config.partition.build()
    return built


@pytest.mark.parametrize("name", RULES)
def test_every_patient_has_one_place(name: str, table: pd.DataFrame, tmp_path: Path) -> None:
    assigned = rule(name).assign(table, TARGETS)
    assert not assigned["patient"].duplicated().any()
    assert set(assigned["patient"]) == set(table["patient"])
    test = set(table.loc[table["split"] == "test", "patient"])
    assert set(assigned.loc[assigned["role"] == "test", "patient"]) == test
    assert (assigned.loc[assigned["role"] == "test", "client"] == -1).all()
    assert set(assigned.loc[assigned["role"] != "test", "client"]) == set(
        range(5 if name == "site" else 8)
    )
    val = (assigned["role"] == "val").sum() / (assigned["role"] != "test").sum()
    assert 0.07 < val < 0.13
    save(assigned, tmp_path / "partition.csv")
    pd.testing.assert_frame_equal(read(tmp_path / "partition.csv"), assigned)
    assert sha256(rule(name).assign(table, TARGETS)) == sha256(assigned)
    if name != "site":
        assert sha256(rule(name, seed=1).assign(table, TARGETS)) != sha256(assigned)


def test_key_is_the_rarest_positive_finding() -> None:
    rows = {
        "a": [1, 1, np.nan],
        "b": [1, 0, 0],
        "c": [0, 0, 1],
        "d": [0, np.nan, 0],
    }
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(TARGETS))
    table = table.rename_axis("patient").reset_index().assign(site="s")
    keys = patients_of(table, TARGETS).set_index("patient")["key"]
    assert dict(keys) == {"a": "Effusion", "b": "Cardiomegaly", "c": "Nodule", "d": NO_FINDING}


def test_skews_are_skewed(table: pd.DataFrame) -> None:
    def shares(name: str, *overrides: str) -> pd.DataFrame:
        assigned = rule(name, *overrides).assign(table, TARGETS)
        keys = patients_of(table, TARGETS)
        merged = assigned[assigned["client"] >= 0].merge(keys, on="patient")
        return pd.crosstab(merged["client"], merged["key"])

    iid, skewed = shares("iid"), shares("dirichlet")
    spread = [(s.div(s.sum(axis=1), axis=0)).std().mean() for s in (iid, skewed)]
    assert spread[1] > 3 * spread[0]
    assert iid.sum(axis=1).max() - iid.sum(axis=1).min() <= 1
    assert ((shares("pathological") > 0).sum(axis=1) <= 2).all()
    sizes = shares("quantity").sum(axis=1)
    assert sizes.max() > 4 * sizes.min()
    sites = rule("site").assign(table, TARGETS).merge(table[["patient", "site"]], on="patient")
    assert (sites[sites["client"] >= 0].groupby("client")["site"].nunique() == 1).all()


def test_a_wrong_partition_is_refused_at_run_time(table: pd.DataFrame) -> None:
    good = rule("iid").assign(table, TARGETS)
    test = good["role"] == "test"
    with pytest.raises(DataError, match="has two clients"):
        check(pd.concat([good, good[~test].head(1)]), table)
    with pytest.raises(DataError, match="test patient"):
        check(good.assign(client=good["client"].where(~test, 0)), table)
    with pytest.raises(DataError, match="not those of the table"):
        check(good.iloc[1:], table)
    with pytest.raises(DataError, match="client 3 has no patient to train on"):
        check(good.assign(role=good["role"].where(good["client"] != 3, "val")), table)
