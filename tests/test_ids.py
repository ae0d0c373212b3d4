"""One person is one patient, one hospital one site, by whatever spelling and in every way in."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from label_tables import FOLDER, folder, refused, rows, table_of

from fedmed import partition
from fedmed.config import compose
from fedmed.core.errors import ConfigError, DataError
from fedmed.core.spelling import alike, clean, key
from fedmed.data.table import validate
from fedmed.evaluation.submission import read as submitted

INVISIBLE = st.text(
    st.sampled_from(" \t\u00a0\u2009\u3000\ufeff\u200b\u00ad\u2060\0\ufe0f"), max_size=3
)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 11), INVISIBLE, INVISIBLE, INVISIBLE), min_size=30))
def test_nobody_is_two_people_by_what_cannot_be_seen(
    tmp_path_factory: pytest.TempPathFactory, seen: list[tuple[int, str, str, str]]
) -> None:
    root = tmp_path_factory.mktemp("hospital")
    people = [*range(12), *(person for person, *_ in seen)]  # some to train, some to test
    shown = [("", "", "")] * 12 + [rest for _, *rest in seen]
    spelt = [f"{a}Zo\u00eb{b} {n}{c}" for n, (a, b, c) in zip(people, shown, strict=True)]
    spelt[15] = f"Zoe\u0308 {people[15]}"  # the same letter of two characters, as macOS writes it
    with (root / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "patient", "fluid"])
        writer.writerows((f"{i}.png", name, i % 2) for i, name in enumerate(spelt))
    dataset = folder(root)
    table = validate(dataset.table(), dataset)
    assert table["patient"].nunique() == 12
    assert (table.groupby(people)["patient"].nunique() == 1).all()
    assert (table.groupby(people)["split"].nunique() == 1).all()
    homes = partition.IID(3, 0.1, 0).assign(table, ("Effusion",)).set_index("patient")
    assert homes.index.is_unique
    assert set(homes.index) == set(table["patient"])


ONE = [
    ("p7", "P7"),
    ("00012", "12"),
    ("12", "12.0"),
    ("12.", "12"),
    ("12,0", "12"),
    ("p07", "p7"),
    ("MRN 12", "MRN12"),
    ("\uff11\uff12", "12"),
    ("\u0661\u0662", "12"),
    ("DOE^JANE", "Doe^Jane^^"),
    ("A\u20111", "a-1"),
    ("stra\u00dfe", "STRASSE"),
]


SEVERAL = [
    ("p1", "p10"),
    ("p0", "p"),
    ("1.05", "1.5"),
    ("1.2.0", "1.20"),
    ("100", "1000"),
    ("1.5", "15"),
]


@pytest.mark.parametrize(("one", "other"), ONE)
def test_ids_that_a_spreadsheet_may_have_changed_are_refused_with_their_rows(
    one: str, other: str, tmp_path: Path
) -> None:
    ids = [*(f"q{i}" for i in range(20)), one, "x", other]
    rows(ids).to_csv(tmp_path / "labels.csv", index=False)
    said = refused(tmp_path, *FOLDER)
    assert f"labels.csv: rows 22 and 24, column 'patient': {one!r} and {other!r} differ" in said
    assert "dataset.distinct_ids=true" in said
    table = table_of(tmp_path, *FOLDER, "dataset.distinct_ids=true")
    assert table["patient"].nunique() == 23
    released = ("dataset=released", "dataset@dataset.of=folder", "dataset.block=8")
    given = ("dataset.of.findings={Effusion: fluid}", f"dataset.of.root={tmp_path}")
    behind = [*released, *given, "dataset.of.targets=[Effusion]"]
    with pytest.raises(DataError, match="rows 22 and 24"):
        compose(behind).dataset.build().table()
    dataset = compose([*behind, "dataset.of.distinct_ids=true"]).dataset.build()
    assert validate(dataset.table(), dataset)["patient"].nunique() == 23


@pytest.mark.parametrize(("one", "other"), SEVERAL)
def test_other_ids_are_other_people(one: str, other: str, tmp_path: Path) -> None:
    assert key(one) != key(other)
    rows([*(f"q{i}" for i in range(20)), one, other]).to_csv(tmp_path / "labels.csv", index=False)
    assert table_of(tmp_path, *FOLDER)["patient"].nunique() == 22


@given(st.text(max_size=12))
def test_a_clean_word_is_clean(word: str) -> None:
    assert clean(clean(word)) == clean(word)
    assert key(clean(word)) == key(word)
    assert alike([clean(word), clean(f"\u00a0{word}\u200b")]) is None


def test_sites_and_scanners_are_not_doubled_by_their_spelling(tmp_path: Path) -> None:
    ids = [f"q{i}" for i in range(20)]
    sites, makers = ["Ward A", "Ward\u00a0A ", "B", "B"] * 5, ["Siemens", "SIEMENS ", "GE", ""] * 5
    columns = ("dataset.columns.site=ward", "dataset.columns.scanner=maker")
    given = rows(ids, ward=sites, maker=makers)
    given.to_csv(tmp_path / "labels.csv", index=False)
    table = table_of(tmp_path, *FOLDER, *columns)
    assert set(table["site"]) == {"Ward A", "B"}
    assert table["scanner"].value_counts().to_dict() == {"Siemens": 10, "GE": 5}
    given.loc[3, "ward"] = "ward a"
    given.to_csv(tmp_path / "labels.csv", index=False)
    assert "rows 2 and 5, column 'ward'" in refused(tmp_path, *FOLDER, *columns)


def test_sets_whose_names_differ_by_case_are_one_hospital(tmp_path: Path) -> None:
    sets = []
    for name, prefix in (("a", "clinic"), ("b", "Clinic")):
        (tmp_path / name).mkdir()
        rows([f"q{i}" for i in range(20)]).to_csv(tmp_path / name / "labels.csv", index=False)
        own = f"dataset.sets.{name}"
        sets += [f"+dataset@{own}=folder", f"{own}.root={tmp_path / name}", f"{own}.name={prefix}"]
        sets += [f"{own}.findings={{Effusion: fluid}}"]
    dataset = compose(["dataset=federation", "dataset.targets=[Effusion]", *sets]).dataset.build()
    with pytest.raises(ConfigError, match="a and b hold images of the same patients"):
        dataset.table()


def test_a_saved_partition_knows_people_by_their_clean_ids(tmp_path: Path) -> None:
    rows([f"q {i}" for i in range(20)]).to_csv(tmp_path / "labels.csv", index=False)
    table = table_of(tmp_path, *FOLDER)
    made = compose(["partition=iid", "partition.clients=3"]).partition.build()
    assigned = made.assign(table, ("Effusion",))
    edited = assigned.assign(patient=assigned["patient"].str.replace(" ", "\u00a0") + "\u200b ")
    edited.to_csv(tmp_path / "partition.csv", index=False)
    saved = partition.Saved(tmp_path / "partition.csv", partition.sha256(assigned))
    pd.testing.assert_frame_equal(saved.assign(table, ("Effusion",)), assigned, check_dtype=False)


def score(tmp_path: Path, predictions: pd.DataFrame, labels: pd.DataFrame, **more: Any) -> Any:
    """Read a submission, the labels as Parquet."""
    predictions.to_csv(tmp_path / "p.csv", index=False)
    labels.to_parquet(tmp_path / "l.parquet")
    return submitted(tmp_path / "p.csv", tmp_path / "l.parquet", **more)


def test_submissions_know_people_and_images_by_their_clean_ids(tmp_path: Path) -> None:
    n = 40
    truth = pd.DataFrame({"image": range(n), "patient": [f"p{i // 2}" for i in range(n)]})
    truth = truth.assign(Effusion=[i % 2 for i in range(n)], sex=["M", "F"] * 20)
    guess = pd.DataFrame({"image": range(n), "Effusion": np.linspace(0.1, 0.9, n)})
    plain = score(tmp_path, guess, truth)
    blank = truth.assign(
        image=[f"{i}\u00a0" for i in range(n)],
        patient=[f"{p}{' ' * (i % 2)}" for i, p in enumerate(truth["patient"])],
        sex=["M ", "F"] * 20,
    )
    same = score(tmp_path, guess.iloc[::-1], blank)
    assert same.images["patient"].nunique() == 20
    pd.testing.assert_frame_equal(same.images, plain.images)
    np.testing.assert_array_equal(same.scores, plain.scores)
    np.testing.assert_array_equal(plain.scores[:, 0], guess["Effusion"])
    score(tmp_path, guess, truth.assign(image=truth["image"].astype(float)))  # 12.0 is 12
    padded = truth.assign(image=[f"{i:04d}" for i in range(n)])
    with pytest.raises(DataError, match=r"lacks 40 of the 40 ids in .* first is 0000, here 0"):
        score(tmp_path, guess, padded)
    for column, cell, said in (
        ("patient", "P0", r"rows 2 and 5, column 'patient': 'p0' and 'P0'.*--distinct-ids"),
        ("patient", None, "row 5, column 'patient': takes a value, got nothing"),
        ("patient", "nan", "row 5, column 'patient': takes a name"),
        ("sex", "m", "rows 2 and 5, column 'sex': 'M' and 'm'"),
    ):
        changed = truth.astype(object)
        changed.loc[3, column] = cell
        with pytest.raises(DataError, match=said):
            score(tmp_path, guess, changed.assign(image=truth["image"]))
    changed = truth.assign(patient=["P0", *truth["patient"][1:]])
    assert score(tmp_path, guess, changed, distinct_ids=True).images["patient"].nunique() == 21
    with pytest.raises(DataError, match=r"Effusion of image 3 is NA: labels are 0, 1 or nothing"):
        score(tmp_path, guess, truth.assign(Effusion=[*"010", "NA", *"01" * 18]))
