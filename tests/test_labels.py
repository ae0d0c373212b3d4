"""What label files say: one person a patient, one meaning a word, and only the empty is empty."""

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torchxrayvision as xrv
from hypothesis import given, settings
from hypothesis import strategies as st
from openpyxl import Workbook
from standins_hospital import SHIPPED, write_dicom
from standins_small import heart_disease, indiana, tbx11k

from fedmed import partition
from fedmed.config import compose
from fedmed.core.errors import ConfigError, DataError, FedmedError
from fedmed.core.spelling import alike, clean, key
from fedmed.data.label_files import LabelFile, years
from fedmed.data.padchest_labels import WORDS, words
from fedmed.data.table import validate
from fedmed.datasets.folder import Folder
from fedmed.evaluation.submission import read as submitted

FOLDER = ("dataset=folder", "dataset.findings={Effusion: fluid}", "dataset.headers=false")
NIH = "Data_Entry_2017_v2020.csv"
PADCHEST = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
NOTHING = ("none", "None", "NA", "N/A", "n/a", "nan", "NaN", "null", "NULL", "<NA>", "#N/A", "-")


def table_of(root: Path, *overrides: str) -> pd.DataFrame:
    """Return a validated table, as a run reads it."""
    dataset = compose([*overrides, f"dataset.root={root}"]).dataset.build()
    return validate(dataset.table(), dataset)


def folder(root: Path, table: str = "labels.csv", **more: Any) -> Folder:
    """Return a hospital's folder whose spreadsheet has the columns of :func:`rows`."""
    columns = {"image": "image", "patient": "patient"}
    given = {"values": {}, "name": "folder", "headers": False} | more
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


def workbook(path: Path, cells: list[list[Any]]) -> None:
    """Write an XLSX file of typed cells."""
    book = Workbook()
    for row in cells:
        book.active.append(row)
    book.save(path)


XLSX = (*FOLDER, "dataset.table=labels.xlsx")


def test_a_number_is_one_id_however_a_workbook_holds_it(tmp_path: Path) -> None:
    ids = [12, 12.0, 1.2e1, "12", " 12 ", *range(100, 120)]
    cells = [["image", "patient", "fluid"]]
    cells += [[f"{i}.png", name, (0, True, "1", None)[i % 4]] for i, name in enumerate(ids)]
    workbook(tmp_path / "labels.xlsx", cells)
    table = table_of(tmp_path, *XLSX)
    assert table["patient"].tolist() == [
        *["folder:12"] * 5,
        *(f"folder:{i}" for i in range(100, 120)),
    ]
    expected = [(0, 1, 1, np.nan)[i % 4] for i in range(len(ids))]
    np.testing.assert_array_equal(table["Effusion"], expected)
    cells[4][1] = "012"
    workbook(tmp_path / "labels.xlsx", cells)
    assert "rows 2 and 5, column 'patient': '12' and '012'" in refused(tmp_path, *XLSX)


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("#N/A", "holds the error #N/A"),
        (pd.Timestamp(2026, 1, 5), "holds a date or time"),
        ("=1+1", "holds a formula without its result"),
        (1234567890123456, "holds the number 1234567890123456, whose last digits"),
    ],
)
@pytest.mark.parametrize("column", [1, 2])
def test_cells_that_say_two_things(cell: Any, said: str, column: int, tmp_path: Path) -> None:
    cells: list[list[Any]] = [["image", "patient", "fluid"]]
    cells += [[f"{i}.png", f"q{i}", i % 2] for i in range(20)]
    cells[8][column] = cell
    workbook(tmp_path / "labels.xlsx", cells)
    assert f"row 9, column {cells[0][column]!r}: {said}" in refused(tmp_path, *XLSX)


PLAIN = "image,patient,fluid\n" + "".join(f"{i}.png,q{i},{i % 2}\n" for i in range(20))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.replace("fluid\n", "fluid,fluid\n"), "column 'fluid' stands 2 times"),
        (lambda t: t.replace("fluid", "fluid, fluid\u00a0"), "column 'fluid' stands 2 times"),
        (lambda t: t.replace(",q7,1", ",q7"), "row 9 has 2 cells, the header has 3"),
        (lambda t: t.replace(",q7,1", ",q7,1,0"), "row 9 has 4 cells, the header has 3"),
        (lambda t: t.replace(",q7,", ',"q7,'), "quotes"),
        (lambda t: t.replace(",q7,", ',"q"7,'), "row 9"),
        (lambda t: t.replace(",", ";"), "parted by semicolons"),
        (lambda t: t.replace(",", "\t"), "parted by tabs"),
        (lambda t: t.encode("utf-16"), "UTF-16"),
        (lambda t: t.encode("utf-16-le"), "UTF-16"),
        (lambda t: t.replace("q7", "Zo\u00eb").encode("latin-1"), "row 9 is not in UTF-8"),
        (lambda t: t.replace("q7", "nan"), "row 9, column 'patient': takes a name"),
        (lambda t: t.replace("q7", "#REF!"), "row 9, column 'patient': takes a name"),
        (lambda t: t.replace("q7", " \u200b"), "row 9, column 'patient': takes a value"),
        (lambda t: t.replace("q7", "8.39860E+35"), "row 9, column 'patient': takes an id, not"),
        (lambda t: t.replace("q7,1", "q7,nan"), "row 9, column 'fluid': takes '0'"),
        (lambda t: t.replace("q7,1", "q7,2"), "row 9, column 'fluid': takes '0'"),
    ],
)  # fmt: skip
def test_a_spreadsheet_that_is_not_certain_is_refused(
    change: Callable[[str], str | bytes], said: str, tmp_path: Path
) -> None:
    changed = change(PLAIN)
    content = changed if isinstance(changed, bytes) else changed.encode()
    (tmp_path / "labels.csv").write_bytes(content)
    assert said in refused(tmp_path, *FOLDER)


def test_marks_and_line_ends_of_editors_are_no_content(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(PLAIN)
    plain = table_of(tmp_path, *FOLDER)
    for change in ("\ufeff" + PLAIN, PLAIN.replace("\n", "\r\n"), PLAIN.replace("\n", " \n"),
                   PLAIN + ",,\n", PLAIN.replace("\n1.", "\n\n1.")):  # fmt: skip
        (tmp_path / "labels.csv").write_bytes(change.encode())
        pd.testing.assert_frame_equal(table_of(tmp_path, *FOLDER), plain)


@pytest.mark.parametrize("table", ["labels.csv", "labels.xlsx"])
def test_only_an_empty_cell_is_empty(table: str, tmp_path: Path) -> None:
    for i, word in enumerate(NOTHING):
        if (table, word) == ("labels.xlsx", "#N/A"):
            continue  # which a workbook holds as an error
        given = rows([f"q{j}" for j in range(20)], fluid=[word, "", "mild", "mild"] * 5)
        root = tmp_path / str(i)
        root.mkdir()
        if table.endswith(".csv"):
            given.to_csv(root / table, index=False)
        else:
            given.to_excel(root / table, index=False)
        meant = {"finding": {word: 0, "mild": 1}}
        effusion = folder(root, table, values=meant).table()["Effusion"]
        np.testing.assert_array_equal(effusion, [0, np.nan, 1, 1] * 5)
        with pytest.raises(DataError) as error:
            folder(root, table, values={"finding": {"mild": 1}}).table()
        said = str(error.value)
        assert "row 2, column 'fluid': takes '0'" in said
        assert f"got {word!r} (5 such rows)" in said
    empty = {"finding": {"": 0, "mild": 1, word: None}}
    effusion = folder(root, table, values=empty).table()["Effusion"]
    np.testing.assert_array_equal(effusion, [np.nan, 0, 1, 1] * 5)


def test_meanings_that_contradict_are_refused(tmp_path: Path) -> None:
    rows([f"q{i}" for i in range(20)]).to_csv(tmp_path / "labels.csv", index=False)
    twice = folder(tmp_path, values={"finding": {"mild": 1, "mild\u00a0": 0}})
    with pytest.raises(ConfigError, match="finding: 'mild' is given two meanings, 1 and 0"):
        twice.table()
    for override in ("dataset.values={finding: {mild: 1}}", "dataset.values.finding={mild: 1}"):
        said = refused(tmp_path, *FOLDER, override)
        assert f"is added to with a +, as in +{override.split('=')[0]}=" in said
        assert "unknown key" not in said


AGES = {"58": 58, "058Y": 58, "58.5": 58.5, "006M": 0.5, "005D": 5 / 365.25, "0": 0, "130": 130}
NO_AGES = ("411Y", "999Y", "131", "-3", "old", "1e3", "058Z", "nan", "0x3A", "3000M")


def test_an_age_is_one_age_whatever_file_it_is_in(tmp_path: Path) -> None:
    ids, column = [f"q{i}" for i in range(20)], ("dataset.columns.age=age",)
    labels = tmp_path / "labels.csv"
    rows(ids, age=[*AGES, *[""] * 13]).to_csv(labels, index=False)
    expected = [*AGES.values(), *[np.nan] * 13]
    np.testing.assert_allclose(table_of(tmp_path, *FOLDER, *column)["age"], expected)
    scores = rows(ids)[["image", "fluid"]].assign(fluid=0.5)
    scores.to_csv(tmp_path / "scores.csv", index=False)
    np.testing.assert_allclose(submitted(tmp_path / "scores.csv", labels).images["age"], expected)
    for age in NO_AGES:
        rows(ids, age=[*["40"] * 19, age]).to_csv(labels, index=False)
        assert "row 21, column 'age': takes an age of at most 130 years" in refused(
            tmp_path, *FOLDER, *column
        )
        with pytest.raises(DataError, match=f"row 21, column 'age': .*got '{age}'"):
            submitted(tmp_path / "scores.csv", labels)
    written = {"045Y": 45.0, "411Y": np.nan, "999Y": np.nan, "": np.nan, "130Y": 130.0}
    for i, age in enumerate(written):
        write_dicom(tmp_path / f"i{i}.dcm", PatientAge=age)
    images = [f"i{i}.dcm" for i in range(len(written))] + [f"i{i}.png" for i in range(5, 20)]
    rows(ids, image=images).to_csv(labels, index=False)
    told = table_of(tmp_path, *FOLDER[:2], "dataset.headers=true")["age"]
    np.testing.assert_array_equal(told[:5], list(written.values()))
    assert years("058Y") == years("58")


@pytest.fixture(scope="module")
def nih() -> pd.DataFrame:
    """The first rows of NIH's genuine label table."""
    return pd.read_csv(SHIPPED / f"{NIH}.gz", dtype=str, nrows=600)


def nih_root(folder: Path, table: pd.DataFrame) -> Path:
    """Write a download: the label file and, as lists, the split."""
    table.to_csv(folder / NIH, index=False)
    test = table["Patient ID"].astype(int) % 5 == 0
    (folder / "test_list.txt").write_text("\n".join(table["Image Index"][test]))
    (folder / "train_val_list.txt").write_text("\n".join(table["Image Index"][~test]))
    return folder


def test_nihs_words_over_the_whole_table_are_those_that_pandas_finds(tmp_path: Path) -> None:
    """The closed vocabulary holds every word that NIH published; torchxrayvision agrees."""
    whole = pd.read_csv(SHIPPED / f"{NIH}.gz", dtype=str)
    dataset = compose(["dataset=nih", f"dataset.root={tmp_path}"]).dataset.build()
    found = dataset._findings(LabelFile.read(SHIPPED / f"{NIH}.gz", ["Finding Labels"]))
    written = whole["Finding Labels"].str.get_dummies("|")
    np.testing.assert_array_equal(found, written[list(found)])
    theirs = xrv.datasets.NIH_Dataset(str(tmp_path), views=["PA", "AP"], unique_patients=False)
    np.testing.assert_array_equal(found[theirs.pathologies], theirs.labels)


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        ("Pleural_Thickening", "Pleural Thickening", "Pleural_Thickening"),
        ("Pleural_Thickening", "PLEURAL-THICKENING", "Pleural_Thickening"),
        ("Effusion", " effusion\u00a0", "Effusion"),
        ("Effusion", "Efusion", None),
        ("Effusion", "Effusion|No Finding", None),
        ("Effusion", "Effusion|", None),
        ("Effusion", "Pleural Other", None),
        ("No Finding", "Normal", "Effusion"),
        ("No Finding", "nan", None),
    ],
)
def test_nihs_words_are_known_or_refused(
    old: str, new: str, finding: str | None, nih: pd.DataFrame, tmp_path: Path
) -> None:
    changed = nih["Finding Labels"].str.replace(old, new)
    root = nih_root(tmp_path, nih.assign(**{"Finding Labels": changed}))
    if finding:
        right = nih["Finding Labels"].str.contains(finding)
        assert right.sum() > 3
        np.testing.assert_array_equal(table_of(root, "dataset=nih")[finding], right)
    else:
        row = int(np.flatnonzero(changed != nih["Finding Labels"])[0]) + 2
        assert f"{NIH}: row {row}, column 'Finding Labels': takes " in refused(root, "dataset=nih")


def test_nihs_first_label_file_and_lists_with_marks(nih: pd.DataFrame, tmp_path: Path) -> None:
    """As in 2017: ages 058Y, days and months among them, and a comma at the end of each line."""
    plain = table_of(nih_root(tmp_path, nih), "dataset=nih")
    ages = [f"{int(age):03d}Y" for age in nih["Patient Age"]]
    ages[:4] = ["006M", "031D", "411Y", "414Y"]
    text = nih.assign(**{"Patient Age": ages}).to_csv(index=False).replace("\n", ",\n")
    (tmp_path / NIH).unlink()
    (tmp_path / "Data_Entry_2017.csv").write_text("\ufeff" + text)
    for name in ("test_list.txt", "train_val_list.txt"):
        listed = (tmp_path / name).read_text()
        (tmp_path / name).write_bytes(("\ufeff" + listed.replace("\n", " \r\n")).encode())
    first = table_of(tmp_path, "dataset=nih")
    np.testing.assert_allclose(first["age"][:4], [0.5, 31 / 365.25, np.nan, np.nan])
    pd.testing.assert_frame_equal(first[4:], plain[4:])
    columns = [column for column in plain if column != "age"]
    pd.testing.assert_frame_equal(first[columns], plain[columns])
    (tmp_path / "test_list.txt").write_bytes(listed.encode("utf-16"))
    assert "test_list.txt: is not in UTF-8" in refused(tmp_path, "dataset=nih")


def test_a_split_file_that_says_two_things(nih: pd.DataFrame, tmp_path: Path) -> None:
    nih_root(tmp_path, nih)
    ids = nih["Patient ID"].drop_duplicates().tolist()
    listed = pd.DataFrame({"patient": [*ids, ids[3]], "split": [*["train"] * len(ids), "test"]})
    listed.to_csv(tmp_path / "official.csv", index=False)
    said = refused(tmp_path, "dataset=nih")
    assert "official.csv: row 5, column 'split': takes one split a patient" in said
    listed[:-1].assign(patient=[f"{int(i):05d} " for i in ids]).to_csv(
        tmp_path / "official.csv", index=False
    )
    assert "are in none of official.csv" in refused(tmp_path, "dataset=nih")


@pytest.fixture(scope="module")
def padchest() -> pd.DataFrame:
    """The first rows of PadChest's genuine label table."""
    kept = {"dtype": str, "nrows": 1500, "keep_default_na": False}
    return pd.read_csv(SHIPPED / f"{PADCHEST}.gz", **kept)


def test_padchests_labels_are_torchxrayvisions(padchest: pd.DataFrame, tmp_path: Path) -> None:
    padchest.to_csv(tmp_path / PADCHEST, index=False)
    ours = table_of(tmp_path, "dataset=padchest", "dataset.views=null").set_index("image")
    theirs = xrv.datasets.PC_Dataset(
        str(tmp_path), str(tmp_path / PADCHEST), views=["*"], unique_patients=False
    )
    assert set(theirs.csv["ImageID"]) == set(ours.index)
    found = ours.loc[theirs.csv["ImageID"], theirs.pathologies]
    np.testing.assert_array_equal(found, theirs.labels)
    assert found.to_numpy().sum() > 500
    changed = padchest["Labels"].str.upper().str.replace("'", "' ").replace("NAN", "nan")
    padchest.assign(Labels=changed).to_csv(tmp_path / PADCHEST, index=False)
    again = table_of(tmp_path, "dataset=padchest", "dataset.views=null").set_index("image")
    pd.testing.assert_frame_equal(again, ours)


@pytest.mark.parametrize(
    "cell", ["['cardiomegally']", "cardiomegaly", "['normal'", "", "None", "[7]"]
)
def test_padchests_words_are_known_or_refused(
    cell: str, padchest: pd.DataFrame, tmp_path: Path
) -> None:
    changed = padchest.head(50).copy()
    changed.loc[7, "Labels"] = cell
    changed.to_csv(tmp_path / PADCHEST, index=False)
    if cell:
        assert "row 9, column 'Labels': takes " in refused(tmp_path, "dataset=padchest")
    else:  # without labels, and so left out
        table = table_of(tmp_path, "dataset=padchest", "dataset.views=null")
        assert changed["ImageID"][7] not in set(table["image"])
    assert words("[' Pleural  EFFUSION', '']") == ["pleural effusion", ""]
    assert len(WORDS) == 194


def test_indianas_terms_are_the_publishers_or_refused(tmp_path: Path) -> None:
    root = indiana(tmp_path, reports=40)
    whole = gzip.decompress((root / "NLMCXR_reports.tgz").read_bytes())
    assert b"<automatic>Cardiomegaly<" in whole
    misspelt = whole.replace(b"<automatic>Cardiomegaly<", b"<automatic>Cardiomegali<")
    (root / "NLMCXR_reports.tgz").write_bytes(gzip.compress(misspelt))
    said = refused(root, "dataset=indiana")
    assert "MeSH/automatic takes terms of the publisher's reports, got 'cardiomegali'" in said


def test_tbx11ks_boxes_are_of_its_categories_or_refused(tmp_path: Path) -> None:
    root = tbx11k(tmp_path)
    path = root / "annotations/json/TBX11K_train.json"
    text = path.read_text()
    whole = json.loads(text)
    names = {image["id"]: image["file_name"] for image in whole["images"]}
    healthy = next(i for i, name in names.items() if name.startswith("health"))
    for change, said in (
        (text.replace('"supercategory": "Tuberculosis"', '"supercategory": "tb"', 1), "categories"),
        (text.replace('"category_id": 2', '"category_id": 9', 1), "one that is listed, got 9"),
        (json.dumps(whole | {"annotations": [{"image_id": healthy, "category_id": 1, "bbox": []}]}),
         "is a box of tuberculosis in an image of health/"),
    ):  # fmt: skip
        assert change != text
        path.write_text(change)
        assert said in refused(root, "dataset=tbx11k")


@pytest.mark.parametrize(
    ("column", "cell"), [(1, "2"), (5, "3"), (8, "-1"), (13, "5"), (13, "nan")]
)
def test_codes_of_heart_disease_are_known_or_refused(
    column: int, cell: str, tmp_path: Path
) -> None:
    path = heart_disease(tmp_path) / "processed.va.data"
    lines = [line.split(",") for line in path.read_text().splitlines()]
    lines[4][column] = cell
    path.write_text("\n".join(map(",".join, lines)))
    said = refused(tmp_path, "dataset=heart_disease")
    assert "line 5: " in said or "takes 14 numbers a line" in said
    lines[4][column] = "0,0"
    path.write_text("\n".join(map(",".join, lines)))
    assert "row 5 has 15 cells" in refused(tmp_path, "dataset=heart_disease")


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
