"""The words of each set's label files: of a closed vocabulary with one meaning each, or refused."""

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torchxrayvision as xrv
from label_tables import refused, table_of
from standins_hospital import SHIPPED
from standins_small import heart_disease, indiana, tbx11k

from fedmed.config import compose
from fedmed.data.label_files import LabelFile
from fedmed.data.padchest_labels import WORDS, words

NIH = "Data_Entry_2017_v2020.csv"
PADCHEST = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"


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
    path = SHIPPED / f"{PADCHEST}.gz"
    return pd.read_csv(path, dtype=str, nrows=1500, keep_default_na=False)


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
