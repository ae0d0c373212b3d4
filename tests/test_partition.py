"""Patients are never split, test patients never leak, and skews are what they are called."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import REAL
from contracts import check_partition
from scipy.spatial.distance import jensenshannon

from fedmed.config import CONF, compose
from fedmed.core.errors import ConfigError, DataError
from fedmed.data.table import COLUMNS, NO_FINDING, validate
from fedmed.datasets.phantom import Phantom
from fedmed.partition import (
    Partition,
    check,
    describe,
    measure,
    patients_of,
    read,
    save,
    sha256,
)
from fedmed.partition.figures import draw_partition

TARGETS = ("Cardiomegaly", "Effusion", "Nodule")
TWO_EACH = ",".join(f"hospital-{site}:2" for site in range(1, 6))
#: Every rule, how many clients it makes of the table below and what it is given.
RULES: dict[str, tuple[int, tuple[str, ...]]] = {
    "iid": (8, ()),
    "dirichlet": (8, ("partition.alpha=0.1",)),
    "pathological": (8, ("partition.keys=2",)),
    "quantity": (8, ("partition.alpha=0.3",)),
    "site": (5, ()),
    "acquisition": (2, ()),
    "flower": (8, ()),
    "hospital_silos": (4, ()),
    "niid_homo": (10, ()),
    "niid_label_quantity": (10, ()),
    "niid_label_dirichlet": (10, ()),
    "niid_quantity": (10, ("partition.alpha=1",)),
    "sized": (10, (f"partition.sizes={{{{{TWO_EACH}}}}}",)),
    "saved": (8, ("partition.file={saved}",)),
}
#: Rules that follow from the table alone.
FIXED = ("site", "acquisition", "saved")


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return Phantom(list(TARGETS), 32, patients=800, sites=5).table()


@pytest.fixture(scope="module")
def saved(table: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "partition.csv"
    save(rule("iid").assign(table, TARGETS), path)
    return path


def rule(name: str, *overrides: str, seed: int = 0, saved: Path | None = None) -> Partition:
    given = [override.format(saved=saved) for override in RULES[name][1]]
    config = compose([f"partition={name}", *given, *overrides, f"seed={seed}"])
    built: Partition = config.partition.build()
    return built


def test_every_rule_is_tried() -> None:
    assert set(RULES) == {path.stem for path in (CONF / "partition").glob("*.yaml")}


@pytest.mark.parametrize("name", RULES)
def test_every_rule_keeps_the_contract(name: str, table: pd.DataFrame, saved: Path) -> None:
    assigned = check_partition(lambda: rule(name, saved=saved), table, TARGETS)
    clients = set(assigned.loc[assigned["role"] != "test", "client"])
    assert clients == set(range(RULES[name][0]))
    val = (assigned["role"] == "val").sum() / (assigned["role"] != "test").sum()
    assert 0.07 < val < 0.13
    if name not in FIXED:
        assert sha256(rule(name, seed=1).assign(table, TARGETS)) != sha256(assigned)


def rows_of(**columns: list[object]) -> pd.DataFrame:
    """Return a table of the training split with these columns; the other columns are empty."""
    table = pd.DataFrame(columns)
    empty = {name: None for name in COLUMNS if name not in table}
    return table.assign(**empty | {"split": "train", "site": "s"})


def test_key_is_the_rarest_positive_finding_or_the_one_chosen() -> None:
    table = rows_of(
        patient=list("abcdd"),
        Cardiomegaly=[1, 1, 0, 0, np.nan],
        Effusion=[1, 0, 0, np.nan, np.nan],
        Nodule=[np.nan, 0, 1, 0, np.nan],
        view=["AP", "PA", None, "AP", "PA"],
        age=[30, 39.5, 100, 7, 9],
    )

    def keys(key: str = "rarest") -> list[str]:
        return patients_of(table, TARGETS, key)["key"].tolist()

    assert keys() == ["Effusion", "Cardiomegaly", "Nodule", NO_FINDING]
    assert keys("Effusion") == ["positive", "negative", "negative", "unknown"]
    assert keys("Nodule") == ["unknown", "negative", "positive", "negative"]
    assert keys("view") == ["AP", "PA", "unknown", "AP"]  # of d's two views the first
    assert keys("age") == ["30-39", "30-39", "100-109", "0-9"]
    with pytest.raises(
        ConfigError, match=r"partition\.key: Mass is unknown; it takes rarest, site"
    ):
        keys("Mass")
    with pytest.raises(ConfigError, match=r"partition\.key: scanner is known of no patient"):
        keys("scanner")


def test_a_patient_has_the_view_of_most_images(table: pd.DataFrame) -> None:
    usual = patients_of(table, TARGETS).set_index("patient")["view"]
    counts = pd.crosstab(table["patient"], table["view"])
    assert (
        counts.to_numpy()[np.arange(len(usual)), counts.columns.get_indexer(pd.Index(usual))]
        == counts.max(axis=1)
    ).all()


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


def test_niid_bench_is_as_defined(table: pd.DataFrame) -> None:
    """#labelk: party i has the i-th key and k - 1 others, each key split evenly; labeldir: 10."""
    keys = patients_of(table[table["split"] != "test"], TARGETS)
    merged = rule("niid_label_quantity").assign(table, TARGETS).merge(keys, on="patient")
    counts = pd.crosstab(merged["client"], merged["key"])
    assert ((counts > 0).sum(axis=1) == 2).all()
    assert all(counts.loc[i].iloc[i % counts.shape[1]] > 0 for i in range(10))
    for key in counts:
        holders = counts[key][counts[key] > 0]
        assert holders.max() - holders.min() <= 1
    balanced = rule("niid_label_dirichlet").assign(table, TARGETS)
    sizes = balanced[balanced["client"] >= 0].groupby("client").size()
    assert sizes.min() >= 10


def test_hospitals_draw_whom_they_suit(table: pd.DataFrame) -> None:
    assigned = rule("hospital_silos").assign(table, TARGETS)
    traits = patients_of(table, TARGETS).merge(assigned.query("client >= 0"), on="patient")
    views = pd.crosstab(traits["client"], traits["view"], normalize="index")["AP"]
    ages = traits.groupby("client")["age"].median()
    assert views[0] > 0.4 > 0.1 > views[1]  # the wards' portable films, the clinic's upright ones
    assert ages[0] > ages[1] + 5
    with pytest.raises(ConfigError, match=r"partition\.hospitals\.A\.share: .* got -1"):
        rule("hospital_silos", "partition.hospitals.A.share=-1")
    with pytest.raises(ConfigError, match=r"hospitals\.B\.findings: Efusion is no finding"):
        rule("hospital_silos", "+partition.hospitals.B.findings.Efusion=1").assign(table, TARGETS)


@pytest.mark.parametrize(
    ("target", "arguments", "message"),
    [
        ("ShardPartitioner", "num_partitions: 3,partition_by: Nodulle,shard_size: 5", "Nodulle"),
        ("LinearPartitioner", "num_partitions: 0", "must be greater than zero"),
        ("LinearPartitioner", "partitions: 3", "unknown key; partition.partitioner takes num_"),
        ("SizePartitioner", "partition_sizes: [5,5]", "leaves [0-9]+ of [0-9]+ to nobody"),
    ],
)
def test_faults_of_a_flower_partitioner_are_told(
    target: str, arguments: str, message: str, table: pd.DataFrame
) -> None:
    given = f"{{_target_: flwr_datasets.partitioner.{target}, {arguments}}}"
    with pytest.raises(ConfigError, match=rf"partition\.partitioner.*{message}"):
        rule("flower", "~partition.partitioner", f"+partition.partitioner={given}").assign(
            table, TARGETS
        )


def test_the_seed_of_a_flower_partitioner_is_ours(table: pd.DataFrame) -> None:
    given = (
        "~partition.partitioner",
        "+partition.partitioner={_target_: flwr_datasets.partitioner.DirichletPartitioner,"
        "num_partitions: 4,partition_by: view,alpha: 0.5}",
    )
    hashes = [sha256(rule("flower", *given, seed=s).assign(table, TARGETS)) for s in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_validation_split_of_the_dataset_is_kept(table: pd.DataFrame) -> None:
    val = set(table.loc[table["split"] == "train", "patient"].unique()[::5])
    table = table.assign(split=table["split"].mask(table["patient"].isin(val), "val"))
    assigned = rule("dirichlet").assign(table, TARGETS)
    assert set(assigned.loc[assigned["role"] == "val", "patient"]) == val
    assert (assigned.loc[assigned["role"] == "val", "client"] >= 0).all()
    with pytest.raises(DataError, match=r"validation patient .* is trained on"):
        check(assigned.assign(role=assigned["role"].replace("val", "train")), table)


def test_a_saved_partition_is_taken_only_as_it_was(
    table: pd.DataFrame, saved: Path, tmp_path: Path
) -> None:
    assigned = rule("iid").assign(table, TARGETS)
    meant = f"partition.sha256={sha256(assigned)}"
    taken = rule("saved", meant, saved=saved).assign(table, TARGETS)
    pd.testing.assert_frame_equal(taken, assigned)
    other = tmp_path / "other.csv"
    other.write_text(saved.read_text().replace(",0,train", ",1,train", 1))
    with pytest.raises(DataError, match=r"partition\.sha256: .*other\.csv is another partition"):
        rule("saved", meant, saved=other).assign(table, TARGETS)
    other.write_text(saved.read_text().replace(",0,train", ",0.5,train", 1))
    with pytest.raises(DataError, match=r"row [0-9]+, column 'client': takes a whole number"):
        rule("saved", saved=other).assign(table, TARGETS)
    with pytest.raises(DataError, match="does not fit this dataset and split"):
        rule("saved", saved=saved).assign(table.iloc[50:], TARGETS)
    with pytest.raises(ConfigError, match=r"partition\.file: there is no file"):
        rule("saved", saved=tmp_path / "none.csv")


@pytest.mark.parametrize("name", ["iid", "dirichlet", "quantity"])
def test_measures_agree_with_their_definitions(name: str, table: pd.DataFrame) -> None:
    assigned = rule(name).assign(table, TARGETS)
    clients = describe(table, assigned, TARGETS)
    keys = patients_of(table[table["split"] != "test"], TARGETS).merge(assigned, on="patient")
    counts = pd.crosstab(keys["client"], keys["key"])
    pool = counts.sum()
    expected = [jensenshannon(row, pool, base=2) ** 2 for row in counts.to_numpy()]
    np.testing.assert_allclose(clients["js_divergence"], expected, atol=1e-12)
    assert clients["patients"].tolist() == counts.sum(axis=1).tolist()
    sizes = clients["patients"].to_numpy(float)
    gini = np.abs(sizes[:, None] - sizes).mean() / (2 * sizes.mean())
    measured = measure(clients)
    assert measured["size_gini"] == pytest.approx(gini, abs=1e-12)
    assert measured["js_divergence"]["mean"] == pytest.approx(np.average(expected, weights=sizes))
    rows = table[table["patient"].isin(assigned.query("client == 2")["patient"])]
    assert (
        clients.loc[2, "images"]
        == len(rows)
        == clients.loc[2, ["train_images", "val_images"]].sum()
    )
    assert clients.loc[2, "Effusion"] == (rows["Effusion"] == 1).sum()


@pytest.mark.parametrize(("clients", "targets"), [(3, TARGETS[:1]), (120, TARGETS)])
def test_any_partition_is_pictured(
    clients: int, targets: tuple[str, ...], table: pd.DataFrame, tmp_path: Path
) -> None:
    assigned = rule("iid", f"partition.clients={clients}").assign(table, targets)
    draw_partition(describe(table, assigned, targets), targets, tmp_path / "partition.png")
    assert (tmp_path / "partition.png").stat().st_size > 5000


def test_all_of_nih_is_partitioned_and_pictured(tmp_path: Path) -> None:
    lists = REAL / "nih-splits"
    if not lists.is_dir():
        pytest.skip(f"no split of NIH at {lists}; set FEDMED_DATA")
    config = compose(
        [
            "dataset=nih",
            f"dataset.root={tmp_path}",
            f"dataset.lists={lists}",
            "partition=dirichlet",
            "partition.clients=20",
        ]
    )
    dataset = config.dataset.build()
    table = validate(dataset.table(), dataset)
    assigned = config.partition.build().assign(table, dataset.targets)
    clients = describe(table, assigned, dataset.targets)
    draw_partition(clients, dataset.targets, tmp_path / "partition.png")
    assert len(assigned) == 30_805
    assert measure(clients)["clients"] == 20
    assert (clients["patients"].sum(), clients["images"].sum()) == (28_008, 86_524)


def test_script_shows_a_partition_that_can_be_used_again(tmp_path: Path) -> None:
    def script(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "fedmed.cli", "partition", *arguments],
            cwd=tmp_path,
            env=os.environ | {"COLUMNS": "150"},
            capture_output=True,
            text=True,
            check=False,
        )

    shown = script("dataset.patients=80", "partition=iid", "partition.clients=3", "--out", "here")
    assert shown.returncode == 0, shown.stderr
    made = {path.name for path in (tmp_path / "here").iterdir()}
    assert made == {"partition.csv", "clients.csv", "partition.png"}
    again = shown.stdout.splitlines()[-1].split()
    assert again[2] == f"partition.sha256={sha256(read(tmp_path / 'here' / 'partition.csv'))}"
    refused = script("partition=fair")
    assert refused.returncode == 2
    assert refused.stderr.startswith("fedmed: partition=fair: unknown; partition takes acquisition")
    assert refused.stderr.count("\n") == 1


def test_a_wrong_partition_is_refused_at_run_time(table: pd.DataFrame) -> None:
    good = rule("iid").assign(table, TARGETS)
    test = good["role"] == "test"
    with pytest.raises(DataError, match="has two clients"):
        check(pd.concat([good, good[~test].head(1)]), table)
    with pytest.raises(DataError, match="test patient"):
        check(good.assign(client=good["client"].where(~test, 0)), table)
    with pytest.raises(DataError, match="not those of the table"):
        check(good.iloc[1:], table)
    with pytest.raises(DataError, match="has no client"):
        check(good.assign(client=good["client"].where(good["role"] != "val", -1)), table)
    with pytest.raises(DataError, match="has a role of another split"):
        check(good.assign(role="train"), table)
    with pytest.raises(DataError, match="client 3 has no patient to train on"):
        check(good.assign(role=good["role"].where(good["client"] != 3, "val")), table)
