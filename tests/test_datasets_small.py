"""The smaller public sets in their genuine layouts, and on the real data that is at hand."""

import gzip
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import REAL
from standins_small import STANDINS, kermany_mendeley

from fedmed.config import compose
from fedmed.core.errors import ConfigError, DataError, UnreadableImage
from fedmed.data.table import Dataset, validate
from fedmed.data.vocabulary import common
from fedmed.datasets import indiana, medmnist

Trees = Callable[[str], Path]


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Trees:
    """Make the tree of a set once; returns its root."""
    made: dict[str, Path] = {}

    def tree(name: str) -> Path:
        if name not in made:
            made[name] = STANDINS[name](tmp_path_factory.mktemp(name))
        return made[name]

    return tree


def build(name: str, root: Path, *overrides: str) -> Dataset:
    """Build a set as a user does, by its yaml."""
    dataset: Dataset = compose(
        [f"dataset={name}", f"dataset.root={root}", *overrides]
    ).dataset.build()
    return dataset


def table_of(name: str, root: Path, *overrides: str) -> pd.DataFrame:
    """Return a set's table, validated and by image."""
    dataset = build(name, root, *overrides)
    return validate(dataset.table(), dataset).set_index("image", drop=False)


@pytest.mark.parametrize("name", STANDINS)
def test_every_set_reads_its_download(name: str, trees: Trees) -> None:
    table = table_of(name, trees(name))
    dataset = build(name, trees(name))
    assert table["patient"].str.startswith(f"{name}:").all()
    assert [common(finding) for finding in dataset.card.findings] == list(dataset.card.findings)
    learnable = [
        set(group[finding].dropna()) == {0, 1}
        for _, group in table.groupby("split")
        for finding in dataset.targets[:1]
    ]
    assert all(learnable)
    if name not in ("chestmnist", "pneumoniamnist"):
        around = build(name, trees(name).parent)
        assert len(around.table()) == len(table)
        assert around.has(around.table()["image"].iloc[0])


def test_kermany_patients_follow_from_names(trees: Trees) -> None:
    table = table_of("kermany", trees("kermany"))
    patient = table["patient"]
    assert patient["train/PNEUMONIA/person1_virus_4.jpeg"] == "kermany:train/person1"
    assert patient["train/PNEUMONIA/person1_virus_5.jpeg"] == "kermany:train/person1"
    assert patient["val/PNEUMONIA/person1_virus_4.jpeg"] == "kermany:train/person1"
    assert patient["test/PNEUMONIA/person1_virus_4.jpeg"] == "kermany:test/person1"
    assert patient["train/NORMAL/IM-0001-0001.jpeg"] == "kermany:train/IM-0001"
    healthy = "train/NORMAL/NORMAL2-IM-0001-0001-0002.jpeg"
    assert patient[healthy] == "kermany:train/NORMAL2-IM-0001"
    assert set(table.loc[table["image"].str.startswith("val/"), "split"]) == {"train"}
    assert (table["Pneumonia"] == table["Bacterial Pneumonia"] + table["Viral Pneumonia"]).all()
    assert table.loc["train/PNEUMONIA/person2_bacteria_8.jpeg", "Bacterial Pneumonia"] == 1


def test_kermany_patient_in_both_folders_only_tests(tmp_path: Path) -> None:
    table = table_of("kermany", kermany_mendeley(tmp_path))
    both = table[table["patient"] == "kermany:1000007"]
    assert set(both["image"].str.split("/").str[1]) == {"train", "test"}
    assert set(both["split"]) == {"test"}
    assert table["split"].value_counts()["train"] == 30 + 15 - 2


def test_indiana_counts_are_the_published_ones(tmp_path: Path) -> None:
    dataset = build("indiana", tmp_path, "dataset.views=null")
    table = validate(dataset.table(), dataset)
    assert len(table) == dataset.card.images == 7470
    assert table["patient"].nunique() == 3851  # 104 of the 3,955 reports have no image
    counts = table[["Cardiomegaly", "Effusion", "Lung Opacity", "Pneumothorax"]].sum()
    assert counts.tolist() == [493, 346, 819, 44]
    frontal = table_of("indiana", tmp_path)
    assert set(frontal["view"]) == {"PA", "AP"}
    assert 0.18 < (table["split"] == "test").mean() < 0.22


def test_indiana_finds_dicom_files_by_their_number(tmp_path: Path) -> None:
    path = tmp_path / "NLMCXR_dcm" / "1" / "1_IM-0001-3001.dcm"
    path.parent.mkdir(parents=True)
    path.touch()
    dataset = indiana.Indiana(["Effusion"], 64, tmp_path, None)
    assert dataset.path("CXR1_1_IM-0001-3001.png") == path
    assert not dataset.has("CXR1_1_IM-0001-4001.png")


def test_tuberculosis_readings_tell_sex_and_age(trees: Trees) -> None:
    table = table_of("shenzhen", trees("shenzhen"))
    told = table[["sex", "age", "Tuberculosis"]]
    assert list(told.loc["CXR_png/CHNCXR_0004_0.png"]) == ["M", 45, 0]
    assert told.loc["CXR_png/CHNCXR_0001_1.png", "sex"] == "F"
    assert told.loc["CXR_png/CHNCXR_0001_1.png", "age"] == pytest.approx(8 / 12)
    assert told.loc["CXR_png/CHNCXR_0003_1.png", ["sex", "age"]].isna().all()
    table = table_of("montgomery", trees("montgomery"))
    assert list(table.loc["CXR_png/MCUCXR_0027_1.png", ["sex", "age"]]) == ["M", 27]


def test_tbx11k_tests_on_val_and_knows_what_it_does_not(trees: Trees) -> None:
    table = table_of("tbx11k", trees("tbx11k"))
    assert table["split"].value_counts().to_dict() == {"train": 30, "test": 12}
    assert table.loc["imgs/tb/tb0002.png", "Tuberculosis":].isna().all()
    assert table["Tuberculosis"].isna().sum() == 1
    negative = table[table["image"].str.contains("health|sick")]
    assert (negative[["Tuberculosis", "Latent Tuberculosis"]] == 0).all(axis=None)
    assert table.loc["imgs/tb/tb0005.png", "Latent Tuberculosis"] == 1
    assert table.loc["imgs/tb/tb0008.png", "Active Tuberculosis"] == 1


def test_pneumoniamnist_real() -> None:
    root = REAL / "pneumoniamnist"
    if not root.is_dir():
        pytest.skip(f"no real radiographs at {root}; set FEDMED_DATA")
    dataset = build("pneumoniamnist", root)
    table = validate(dataset.table(), dataset)
    assert table["split"].value_counts().to_dict() == {"train": 4707, "val": 524, "test": 624}
    with np.load(root / "pneumoniamnist.npz") as arrays:
        for split, row in (("train", 4706), ("test", 3), ("train", 0), ("val", 523), ("train", 9)):
            np.testing.assert_array_equal(
                dataset.read(f"{split}/{row}"), arrays[f"{split}_images"][row]
            )
        test = table[table["split"] == "test"]
        np.testing.assert_array_equal(test["Pneumonia"], arrays["test_labels"][:, 0])


def test_medmnist_resolution_picks_the_file(trees: Trees) -> None:
    root = trees("chestmnist")
    small, large = build("chestmnist", root), build("chestmnist", root, "dataset.resolution=64")
    assert (small.size, large.size) == (28, 64)
    assert large.read("val/3").shape == (64, 64)
    assert small.recipe([]) != large.recipe([])
    with pytest.raises(DataError, match=r"chestmnist_224\.npz is missing"):
        build("chestmnist", root, "dataset.resolution=224").table()


def test_medmnist_never_unpickles(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        f"{split}_{kind}": np.array([print], dtype=object)
        for split in ("train", "val", "test")
        for kind in ("images", "labels")
    }
    np.savez(tmp_path / "pneumoniamnist.npz", **arrays)
    with pytest.raises(DataError, match="holds object, not rows of uint8"):
        build("pneumoniamnist", tmp_path).table()


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def _relabel(root: Path) -> None:
    with np.load(root / "chestmnist.npz") as arrays:
        changed = {name: array.copy() for name, array in arrays.items()}
    changed["val_labels"][7, 3] = 2
    np.savez_compressed(root / "chestmnist.npz", **changed)


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "chestmnist": (_relabel, r"chestmnist\.npz: val_labels, row 7, column 3: takes 0 or 1, got 2"),
    "pneumoniamnist": (
        lambda root: (root / "pneumoniamnist.npz").write_bytes(b"PK\x03\x04 not the rest"),
        r"pneumoniamnist\.npz: array of train: File is not a zip file",
    ),
    "tbx11k": (
        lambda root: _edit(
            root / "annotations/json/TBX11K_val.json", "sick/s0502.png", "sick/s0502.gif"
        ),
        r"TBX11K_val\.json: images\[1\]\.file_name: takes .*, got 'sick/s0502\.gif'",
    ),
    "indiana": (
        lambda root: (root / "NLMCXR_reports.tgz").write_bytes(b"<html>404</html>"),
        r"NLMCXR_reports\.tgz: torchxrayvision cannot read it: not a gzip file",
    ),
    "shenzhen": (
        lambda root: (root / "CXR_png/CHNCXR_0001_1.png").rename(root / "CXR_png/0001 (1).png"),
        r"CXR_png: takes images named CHNCXR_0001_0\.png, got 0001 \(1\)\.png",
    ),
    "montgomery": (lambda root: shutil.rmtree(root / "CXR_png"), r"CXR_png.* has no \.png files"),
    "kermany": (
        lambda root: (root / "test/NORMAL/person3_virus_1.jpeg").touch(),
        r"test/NORMAL/person3_virus_1\.jpeg: takes names as in PNEUMONIA/person1_virus_6\.jpeg",
    ),
    "covid19_radiography": (
        lambda root: shutil.rmtree(root / "Normal/images"),
        r"Normal/images is missing or has no \.png files",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_labels_end_in_one_line(name: str, tmp_path: Path) -> None:
    root = STANDINS[name](tmp_path)
    change, message = BROKEN[name]
    change(root)
    with pytest.raises(DataError, match=message) as caught:
        build(name, root).table()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("kermany", "train/NORMAL/IM-0001-0001.jpeg"),
        ("covid19_radiography", "Normal/images/Normal-1.png"),
        ("shenzhen", "CXR_png/CHNCXR_0001_1.png"),
    ],
)
@pytest.mark.parametrize("suffix", [".jpg", ".PNG", ".JPEG"])
def test_images_of_another_suffix_are_not_passed_over(
    name: str, image: str, suffix: str, tmp_path: Path
) -> None:
    """The folder is the table: what it would pass over were patients fewer, without a word."""
    root = STANDINS[name](tmp_path)
    path = next(p for p in root.rglob("*") if str(p).endswith(image))
    path.rename(path.with_suffix(suffix))
    named = re.escape(path.with_suffix(suffix).name)
    with pytest.raises(DataError, match=rf"{named}: the images of this set are named"):
        build(name, root).table()


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """Return content with bytes changed, cut out, doubled or cut off."""
    if not content:
        return bytes(rng.integers(0, 256, 9, dtype=np.uint8))
    start = int(rng.integers(len(content)))
    end = start + int(rng.integers(1, 30))
    match int(rng.integers(4)):
        case 0:
            changed = bytes(rng.integers(0, 256, end - start, dtype=np.uint8))
            return content[:start] + changed + content[end:]
        case 1:
            return content[:start] + content[end:]
        case 2:
            return content[:end] + content[start:]
    return content[:start]


@pytest.mark.parametrize(
    ("name", "file", "count"),
    [
        ("tbx11k", "annotations/json/TBX11K_train.json", 70),
        ("chestmnist", "chestmnist.npz", 70),
        ("shenzhen", "ClinicalReadings/CHNCXR_0004_0.txt", 40),
        ("indiana", "NLMCXR_reports.tgz", 20),
    ],
)
def test_mutated_labels_are_read_or_refused(
    name: str, file: str, count: int, tmp_path: Path
) -> None:
    root = STANDINS[name](tmp_path)
    path = root / file
    original = path.read_bytes()
    dataset = build(name, root)
    outcomes = set()
    for seed in range(count):
        rng = np.random.default_rng(seed)
        if path.suffix == ".tgz" and seed % 2:  # inside: else every change breaks the checksum
            path.write_bytes(gzip.compress(mutate(gzip.decompress(original), rng)))
        else:
            path.write_bytes(mutate(original, rng))
        try:
            table = validate(dataset.table(), dataset)
            medmnist._opened.cache_clear()
            dataset.read(table["image"].iloc[-1])
            outcomes.add("read")
        except (DataError, ConfigError, UnreadableImage) as error:
            outcomes.add("refused" if "\n" not in str(error) else str(error))
    assert outcomes == ({"read"} if name == "shenzhen" else {"read", "refused"})


def test_tbx11k_json_that_is_no_coco_file(tmp_path: Path) -> None:
    root = STANDINS["tbx11k"](tmp_path)
    path = root / "annotations/json/TBX11K_train.json"
    whole = json.loads(path.read_text())
    for part, wrong in (("images", []), ("images", {}), ("categories", []), ("annotations", [1])):
        path.write_text(json.dumps(whole | {part: wrong}))
        with pytest.raises(DataError, match=r"TBX11K_train\.json: ") as caught:
            build("tbx11k", root).table()
        assert "\n" not in str(caught.value)
