"""The large public sets: in the layouts of their downloads, with the numbers that are published."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torchxrayvision as xrv
from standins_hospital import ROWS, STANDINS, standin, vindr_cxr_kaggle

from fedmed.config import compose
from fedmed.core.errors import ConfigError, DataError
from fedmed.data.chexpert_labels import FINDINGS, LABELS
from fedmed.data.table import Dataset, validate
from fedmed.data.vocabulary import common


def build(name: str, root: Path, *overrides: str) -> Dataset:
    keys = (f"dataset.{override}" for override in overrides)
    dataset: Dataset = compose([f"dataset={name}", f"dataset.root={root}", *keys]).dataset.build()
    return dataset


def table_of(name: str, root: Path, *overrides: str) -> pd.DataFrame:
    dataset = build(name, root, *overrides)
    return validate(dataset.table(), dataset)


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Stand-ins for every set's download; who changes one changes it back."""
    folder = tmp_path_factory.mktemp("downloads")
    return {name: standin(name, folder / name) for name in STANDINS}


@pytest.mark.parametrize("name", STANDINS)
def test_download_is_read(name: str, roots: dict[str, Path]) -> None:
    dataset = build(name, roots[name])
    table = validate(dataset.table(), dataset)
    assert set(table["view"]) <= {"PA", "AP", None, np.nan}
    assert table["patient"].str.match(f"{'nih' if name == 'rsna' else name}:.").all()
    assert table["sex"].notna().any()
    for image in table["image"].iloc[[0, -1]]:
        pixels = dataset.read(image)
        assert pixels.shape == (48, 40)
        assert pixels.std() > 60  # noise over the whole range, of 8, 12 or 16 bits
    assert dataset.card.caveat or name == "rsna"


@pytest.mark.parametrize(
    ("name", "overrides", "images", "patients", "positive"),
    [
        ("padchest", ["views=null"], 158_616, 66_246, {"Cardiomegaly": 14_963}),
        ("rsna", [], 26_684, 26_684, {"Pneumonia": 6_012}),
        ("siim", [], 12_047, 12_047, {"Pneumothorax": 2_669}),
        ("vindr_cxr", ["split=patients"], 15_000, 15_000, {"No Finding": 10_606}),
    ],
)
def test_whole_tables_have_the_published_numbers(
    name: str,
    overrides: list[str],
    images: int,
    patients: int,
    positive: dict[str, int],
    tmp_path: Path,
) -> None:
    table = table_of(name, tmp_path, *overrides)
    assert len(table) == images
    assert table["patient"].nunique() == patients
    assert table[list(positive)].sum().to_dict() == positive
    assert 0.18 < (table.drop_duplicates("patient")["split"] == "test").mean() < 0.22


def test_shipped_tables_have_the_published_rows() -> None:
    shipped = Path(xrv.datasets.datapath)
    name = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz"
    padchest = pd.read_csv(shipped / name, usecols=["ImageID", "PatientID"])
    assert (len(padchest), padchest["PatientID"].nunique()) == (160_861, 67_625)
    siim = pd.read_csv(shipped / "siim-pneumothorax-train-rle.csv.gz")
    assert (len(siim), siim["ImageId"].nunique()) == (12_954, 12_047)


def test_labels_are_torchxrayvisions_where_it_has_no_choice(
    roots: dict[str, Path], tmp_path: Path
) -> None:
    everything: dict[str, Any] = {"imgpath": str(tmp_path), "views": ["*"]}
    ours = table_of(
        "chexpert", tmp_path, "split=patients", "views=null", "uncertain=ignore", "blank=ignore"
    )
    assert (len(ours), ours["patient"].nunique()) == (223_414, 64_540)
    assert (ours["view"] != "LATERAL").sum() == 191_027
    theirs = xrv.datasets.CheX_Dataset(**everything, unique_patients=False)
    np.testing.assert_array_equal(ours[theirs.pathologies], theirs.labels)

    spreadsheet = str(roots["brax"] / "master_spreadsheet_update.csv")
    ours = table_of("brax", roots["brax"], "views=null", "uncertain=ignore", "blank=ignore")
    theirs = xrv.datasets.BRAX_Dataset(**everything, csvpath=spreadsheet, unique_patients=False)
    np.testing.assert_array_equal(ours[theirs.pathologies], theirs.labels)
    np.testing.assert_array_equal(ours["age"], theirs.csv["age_years"])
    assert len(ours) == ROWS - 1  # a strip is left out

    ours = table_of("vindr_cxr", tmp_path, "split=patients", "vote=any")
    boxes = xrv.datasets.VinDr_Dataset(str(tmp_path))
    assert [f"{image}.dicom" for image in boxes.csv["image_id"]] == ours["image"].tolist()
    for finding, labels in zip(boxes.pathologies, boxes.labels.T, strict=True):
        if finding != "Other Lesion":
            np.testing.assert_array_equal(ours[common(str(finding))], labels)


#: Three reports: an uncertain edema beside an effusion; nothing but devices; a fracture excluded.
REPORTS = pd.DataFrame(
    [
        {"Edema": "-1.0", "Pleural Effusion": "1.0"},
        {"No Finding": "1.0", "Support Devices": "-1.0"},
        {"Fracture": "0.0", "Lung Opacity": "-1"},
    ],
    columns=LABELS,
)
NAN = np.nan


@pytest.mark.parametrize("name", ["chexpert", "brax", "mimic_cxr"])
@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["uncertain=ignore", "blank=negative"],
            {"Edema": [NAN, 0, 0], "Lung Opacity": [0, 0, NAN], "Support Devices": [0, NAN, 0]},
        ),
        (
            ["uncertain=zeros", "blank=ignore"],
            {"Edema": [0, 0, NAN], "Fracture": [NAN, 0, 0], "Support Devices": [NAN, 0, NAN]},
        ),
        (
            ["uncertain={Edema:ones,Lung Opacity:zeros,default:ignore}", "blank=negative"],
            {"Edema": [1, 0, 0], "Lung Opacity": [0, 0, 0], "Support Devices": [0, NAN, 0]},
        ),
        (["uncertain=ones", "blank=ignore"], {"No Finding": [0, 1, 0], "Effusion": [1, 0, NAN]}),
    ],
)
def test_uncertain_and_unmentioned_labels(
    name: str, overrides: list[str], expected: dict[str, list[float]], tmp_path: Path
) -> None:
    root = standin(name, tmp_path)
    source = {
        "chexpert": "CheXpert-v1.0-small/train.csv",
        "brax": "master_spreadsheet_update.csv",
        "mimic_cxr": "mimic-cxr-2.0.0-chexpert.csv.gz",
    }[name]
    cells = pd.read_csv(root / source, dtype=str)
    cells.loc[:2, list(LABELS)] = REPORTS.to_numpy()
    cells.to_csv(root / source, index=False)
    keys = [*overrides, "views=null", *(["split=patients"] if name == "chexpert" else [])]
    table = table_of(name, root, *keys)
    if name == "mimic_cxr":  # several images a report
        table = table.groupby(table["image"].str.rpartition("/")[0], sort=False).first()
        table = table.loc[[f"files/p10/p{s.subject_id}/s{s.study_id}" for s in cells.itertuples()]]
    for finding, values in expected.items():
        np.testing.assert_array_equal(table[finding].iloc[:3].astype(float), values, finding)


def test_uncertain_is_refused_in_one_line(roots: dict[str, Path]) -> None:
    for value, said in {
        "maybe": "dataset.uncertain: input should be 'ignore', 'zeros' or 'ones'",
        "{Edema:ones}": "dataset.uncertain.default: is missing",
        "{Oedema:ones,default:zeros}": "dataset.uncertain.Oedema: no finding; takes default, No",
        "{Edema:twos,default:zeros}": "dataset.uncertain: input should be 'ignore', 'zeros' or",
    }.items():
        with pytest.raises(ConfigError) as error:
            build("chexpert", roots["chexpert"], f"uncertain={value}")
        assert said in str(error.value)
        assert "\n" not in str(error.value)


def test_splits_of_chexpert_are_not_mixed(roots: dict[str, Path]) -> None:
    parts = {}
    for split in ("valid", "official", "patients"):
        table = table_of("chexpert", roots["chexpert"] / "CheXpert-v1.0-small", f"split={split}")
        parts[split] = {
            (own, image.split("/")[0]) for own, image in table[["split", "image"]].to_numpy()
        }
    assert parts == {
        "valid": {("train", "train"), ("test", "valid")},
        "official": {("train", "train"), ("val", "valid"), ("test", "test")},
        "patients": {("train", "train"), ("test", "train")},
    }


def test_laterals_are_had_by_asking(roots: dict[str, Path]) -> None:
    for name in ("chexpert", "mimic_cxr", "padchest", "brax"):
        default = table_of(name, roots[name])
        lateral = table_of(name, roots[name], "views=[LATERAL]")
        everything = table_of(name, roots[name], "views=null")
        assert set(lateral["view"]) == {"LATERAL"}
        assert len(everything) >= len(default) + len(lateral)
        assert set(default["image"]) | set(lateral["image"]) <= set(everything["image"])


def test_mimic_joins_its_tables(roots: dict[str, Path]) -> None:
    root = roots["mimic_cxr"]
    table = table_of("mimic_cxr", root, "views=null").set_index("image")
    split = pd.read_csv(root / "mimic-cxr-2.0.0-split.csv.gz", dtype=str)
    metadata = pd.read_csv(root / "mimic-cxr-2.0.0-metadata.csv.gz", dtype=str)
    columns = split[["subject_id", "study_id", "dicom_id", "split"]].to_numpy()
    for row, date in zip(columns, metadata["StudyDate"], strict=True):
        subject, study, dicom, its_split = row
        image = f"files/p10/p{subject}/s{study}/{dicom}.jpg"
        ours = table.loc[image]
        assert ours["patient"] == f"mimic_cxr:{subject}"
        assert ours["split"] == {"validate": "val"}.get(its_split, its_split)
        if subject != split["subject_id"].iloc[-1]:  # of whom MIMIC-IV tells nothing
            assert ours["age"] == 52 + int(date[:4]) - 2180
    assert table["age"].isna().any()
    assert table.iloc[-1][list(FINDINGS)].isna().all()  # a study without a report
    negbio = table_of("mimic_cxr", root, "views=null", "labeler=negbio")
    assert not negbio[list(FINDINGS)].equals(table.reset_index()[list(FINDINGS)])


def test_readers_of_vindr_vote(tmp_path: Path) -> None:
    rows = [
        ("a", "Cardiomegaly", "R1"),
        ("a", "Cardiomegaly", "R1"),  # two boxes of one reader are one vote
        ("a", "Cardiomegaly", "R2"),
        ("a", "Pleural effusion", "R2"),
        ("a", "No finding", "R3"),
        ("b", "No finding", "R1"),
        ("b", "Other lesion", "R2"),
        ("b", "Pleural effusion", "R3"),
        ("b", "Pleural effusion", "R3"),
    ]
    boxes = pd.DataFrame(rows, columns=["image_id", "class_name", "rad_id"])
    boxes.to_csv(tmp_path / "train.csv", index=False)
    findings = ["Cardiomegaly", "Effusion", "No Finding"]
    for vote, expected in {
        "majority": [[1, 0, 0], [0, 0, 0]],
        "any": [[1, 1, 1], [0, 1, 1]],
    }.items():
        table = table_of("vindr_cxr", tmp_path, "split=patients", f"vote={vote}")
        assert table[findings].to_numpy().tolist() == expected


def test_vindr_of_kaggle_is_vindr_of_physionet(roots: dict[str, Path], tmp_path: Path) -> None:
    kaggle, official = (
        table_of("vindr_cxr", root, "split=patients").set_index("image").sort_index()
        for root in (vindr_cxr_kaggle(tmp_path), roots["vindr_cxr"])
    )
    shared = [column for column in kaggle if kaggle[column].notna().any()]
    assert {"Effusion", "No Finding", "sex", "age"} <= set(shared)
    pd.testing.assert_frame_equal(kaggle[shared], official[shared])
    with pytest.raises(DataError, match=r"image_labels_test\.csv is missing"):
        table_of("vindr_cxr", tmp_path)


def test_rsna_knows_nihs_patients_by_the_mapping(tmp_path: Path) -> None:
    root = standin("rsna", tmp_path)
    table = table_of("rsna", root)
    assert table["patient"].iloc[:3].tolist() == ["nih:1", "nih:1", "nih:2"]
    assert build("rsna", root).caveats() == []
    (mapping,) = root.glob("*.json")
    mapping.write_text('[{"img_id": "00000001_000.png"}]')
    with pytest.raises(DataError, match="is not the mapping of the challenge: KeyError"):
        table_of("rsna", root)
    mapping.unlink()
    assert table_of("rsna", root)["patient"].is_unique
    assert "each image is taken for a patient" in build("rsna", root).caveats()[0]


@pytest.mark.parametrize("header", ["ImageId, EncodedPixels", "ImageId,EncodedPixels"])
def test_siim_with_and_without_the_space_of_its_header(header: str, tmp_path: Path) -> None:
    rows = [header, "1.2.3,-1", "1.2.4, 557374 2 1015 8", "1.2.4, 99 3", "1.2.5, -1"]
    (tmp_path / "train-rle.csv").write_text("\n".join(rows))
    table = table_of("siim", tmp_path)
    assert table["image"].tolist() == ["1.2.3.dcm", "1.2.4.dcm", "1.2.5.dcm"]
    assert table["Pneumothorax"].tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("name", "file", "column", "value"),
    [
        ("chexpert", "CheXpert-v1.0-small/train.csv", "Edema", "2"),
        ("chexpert", "CheXpert-v1.0-small/train.csv", "Path", "train/patient1.jpg"),
        ("chexpert", "CheXpert-v1.0-small/valid.csv", "Sex", "Femal"),
        ("mimic_cxr", "mimic-cxr-2.0.0-split.csv.gz", "split", "trian"),
        ("mimic_cxr", "mimic-cxr-2.0.0-split.csv.gz", "dicom_id", "02aa804e"),
        ("mimic_cxr", "mimic-cxr-2.0.0-chexpert.csv.gz", "Pneumonia", "yes"),
        ("mimic_cxr", "patients.csv.gz", "anchor_age", "-3"),
        ("padchest", "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", "Projection", "PAA"),
        ("padchest", "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", "PatientBirth", "?"),
        ("vindr_cxr", "annotations/image_labels_train.csv", "Tuberculosis", "0.5"),
        ("rsna", "stage_2_train_labels.csv", "Target", "2"),
        ("siim", "train-rle.csv", " EncodedPixels", "557374 2 1015"),
        ("brax", "master_spreadsheet_update.csv", "PatientAge", "old"),
        ("brax", "master_spreadsheet_update.csv", "Lung Lesion", "-2"),
    ],
)
def test_broken_label_file_fails_with_row_and_column(
    name: str, file: str, column: str, value: str, roots: dict[str, Path]
) -> None:
    path = roots[name] / file
    original = path.read_bytes()
    cells = pd.read_csv(path, dtype=str)
    cells.loc[7, column] = value
    cells.to_csv(path, index=False)
    with pytest.raises(DataError) as error:
        table_of(name, roots[name])
    path.write_bytes(original)
    assert f"{file}: row 9, column {column.strip()!r}: takes " in str(error.value)
    assert f", got {value!r} (1 such rows)" in str(error.value)


NASTY = ("", "nan", "-1", "1e999", '"', "é\u2028", "\x00", "9" * 40, "2", "a,b", "inf", "\ufeff")


def _mutate(text: bytes, rng: np.random.Generator) -> bytes:
    """Return a label file after one of the accidents that happen to label files."""
    lines = text.split(b"\n")
    row = int(rng.integers(len(lines)))
    accident = rng.integers(6)
    if accident == 0:
        mutated = bytearray(text)
        for at in rng.integers(len(text), size=rng.integers(1, 9)):
            mutated[at] = rng.integers(256)
        return bytes(mutated)
    if accident == 1:
        return text[: rng.integers(len(text))]
    if accident == 2:
        return b"\n".join([*lines[:row], *lines[row + 1 :]])
    if accident == 3:
        return b"\n".join([*lines[:row], lines[row], *lines[row:]])
    cells = lines[row].split(b",")
    at = int(rng.integers(len(cells)))
    if accident == 4:
        cells[at] = str(rng.choice(NASTY)).encode()
    else:
        cells[at:at] = [b"1.0"] * int(rng.integers(1, 3))
    return b"\n".join([*lines[:row], b",".join(cells), *lines[row + 1 :]])


@pytest.mark.parametrize("name", ["nih", *STANDINS])
def test_mutated_label_files_give_a_table_or_one_line(
    name: str, roots: dict[str, Path], request: pytest.FixtureRequest
) -> None:
    root = roots.get(name) or request.getfixturevalue("nih_standin")
    files = sorted(p for p in root.rglob("*") if p.suffix in (".csv", ".gz", ".json", ".txt"))
    dataset = build(name, root, *(["split=official"] if name in ("nih", "chexpert") else []))
    rng = np.random.default_rng(0)
    said = []
    for _ in range(63):  # 504 in all eight sets
        path = files[rng.integers(len(files))]
        original = path.read_bytes()
        packed = path.suffix == ".gz" and rng.random() < 0.7
        text = gzip.decompress(original) if packed else original
        mutated = _mutate(text, rng)
        path.write_bytes(gzip.compress(mutated) if packed else mutated)
        try:
            validate(dataset.table(), dataset)
            said.append("a table")
        except (DataError, ConfigError) as error:
            said.append(str(error))
        path.write_bytes(original)
    assert not [line for line in said if "\n" in line]
    assert len(set(said)) > 20  # "a table", and as many different faults as were made
