"""What a dataset says of itself is what it gives: phantom, and NIH on real radiographs."""

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import REAL

import fedmed.data.card
from fedmed.core.errors import DataError
from fedmed.data.card import Card
from fedmed.data.pixels import fit
from fedmed.data.table import labels, validate
from fedmed.datasets.nih import NIH
from fedmed.datasets.phantom import Phantom

FINDINGS = list(Phantom.card.findings)


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return Phantom(FINDINGS, 64, patients=600, sites=4)


def test_phantom_is_a_world_of_patients(phantom: Phantom) -> None:
    table = validate(phantom.table(), phantom)
    images = table.groupby("patient").size()
    assert images.max() >= 4
    assert images.median() <= 2
    assert table["site"].nunique() == 4
    known = table[FINDINGS].notna()
    assert 0.01 < 1 - known.to_numpy().mean() < 0.1
    prevalence = table[FINDINGS].mean()
    assert prevalence.max() > 3 * prevalence.min()
    by_site = table.groupby("site")[FINDINGS].mean()
    assert (by_site.max() > 1.5 * by_site.min()).sum() >= 4
    both = table["Effusion"].corr(table["Edema"])
    assert both > 0.05


def test_phantom_is_drawn_from_its_seed_alone(phantom: Phantom) -> None:
    images = phantom.table()["image"].iloc[[0, 100, 200, 300]].tolist()
    code = (
        "import sys, hashlib; from fedmed.datasets.phantom import Phantom; "
        f"p = Phantom({FINDINGS}, 64, patients=600, sites=4); "
        "print([hashlib.sha256(p.read(i).tobytes()).hexdigest() for i in sys.argv[1:]][::-1])"
    )
    other = subprocess.run(
        [sys.executable, "-c", code, *images[::-1]], capture_output=True, text=True, check=True
    )
    here = [hashlib.sha256(phantom.read(image).tobytes()).hexdigest() for image in images]
    assert other.stdout.strip() == str(here)
    assert len(set(here)) == 4
    reseeded = Phantom(FINDINGS, 64, patients=600, sites=4, seed=1)
    assert not reseeded.table().equals(phantom.table())


def test_phantom_findings_are_where_the_boxes_say(phantom: Phantom) -> None:
    table, boxes = phantom.table(), phantom.boxes()
    wide = table.melt("image", FINDINGS, "finding", "label").query("label == 1")
    positive = set(zip(wide["image"], wide["finding"], strict=True))
    assert set(zip(boxes["image"], boxes["finding"], strict=True)) == positive
    assert (boxes[["x0", "y0"]].to_numpy() < boxes[["x1", "y1"]].to_numpy()).all()
    corners = boxes[["x0", "y0", "x1", "y1"]].to_numpy()
    assert ((corners >= 0) & (corners <= 1)).all()
    masses = boxes[boxes["finding"] == "Mass"].drop_duplicates("image", keep=False).head(25)
    brighter = []
    for image, (x0, y0, x1, y1) in zip(masses["image"], corners[masses.index], strict=True):
        pixels = phantom.read(image).astype(float)
        y, x = np.mgrid[0:64, 0:64] / 64
        inside = (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
        width, height = x1 - x0, y1 - y0
        near = (abs(x - (x0 + x1) / 2) < width) & (abs(y - (y0 + y1) / 2) < height)
        brighter.append(pixels[inside].mean() > pixels[near & ~inside].mean())
    assert np.mean(brighter) > 0.7


def test_nih_as_downloaded(nih_root: Path) -> None:
    data = NIH(["view", "sex", "Effusion"], 64, nih_root, "official")
    table = validate(data.table(), data)
    assert len(table) == 1605
    assert table["patient"].nunique() == 743
    lists = {
        s: (nih_root / f).read_text().split()
        for s, f in (("train", "train_val_list.txt"), ("test", "test_list.txt"))
    }
    assert {s: set(g["image"]) for s, g in table.groupby("split")} == {
        s: set(n) for s, n in lists.items()
    }
    raw = (
        pd.read_csv(nih_root / "Data_Entry_2017_v2020.csv")
        .set_index("Image Index")
        .loc[table["image"]]
    )
    view, sex, effusion = labels(table, data.targets).T
    np.testing.assert_array_equal(view, raw["View Position"] == "AP")
    np.testing.assert_array_equal(sex, raw["Patient Gender"] == "M")
    np.testing.assert_array_equal(effusion, raw["Finding Labels"].str.contains("Effusion"))
    for finding in data.card.findings:
        written = raw["Finding Labels"].str.get_dummies("|")
        assert table[finding].sum() == written[finding].sum()


def test_nih_originals_at_1024_pixels_and_rgba(nih_root: Path) -> None:
    root = REAL / "nih-chestxray14-originals"
    data = NIH(["view"], 64, root, "official")
    from PIL import Image

    modes = set()
    for name in sorted(path.name for path in root.rglob("*.png")):
        with Image.open(data.path(name)) as image:
            modes.add(image.mode)
        pixels = data.read(name)
        assert pixels.shape == (1024, 1024)
        assert pixels.dtype == np.uint8
        assert 20 < pixels.mean() < 235
        assert fit(pixels, 64, "squash").shape == (64, 64)
        small = nih_root / "images" / name
        if small.exists():
            with Image.open(small) as image:
                reference = np.asarray(image.convert("L"), float)
            assert abs(fit(pixels, 64, "squash") - reference).mean() < 6
    assert modes == {"L", "RGBA"}


def test_nih_views_are_learnt(nih_root: Path, launch: Callable[..., dict[str, Any]]) -> None:
    summary = launch(
        "+experiment=nih_view",
        f"dataset.root={nih_root}",
        "runner.workers=2",
        "tracking.mode=disabled",
    )
    assert summary["test"]["macro_auroc"] >= 0.95
    assert summary["images"]["test"] == len((nih_root / "test_list.txt").read_text().split())


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("title: Mine\nfindings: [Mass]\n", r"images is missing \(6 such\)"),
        (None, "is no card, or is not there"),
        ("- Mass\n", "is no card"),
        ("title: [\n", "is no card"),
    ],
)
def test_a_card_that_is_not_whole_is_told_of(
    written: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fedmed.data.card, "CARDS", tmp_path)
    if written is not None:
        (tmp_path / "mine.yaml").write_text(written)
    with pytest.raises(DataError, match=rf"mine\.yaml: {said}"):
        Card.load("mine")


def test_a_card_has_no_other_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = (fedmed.data.card.CARDS / "phantom.yaml").read_text()
    monkeypatch.setattr(fedmed.data.card, "CARDS", tmp_path)
    (tmp_path / "mine.yaml").write_text(f"{whole}\nlicense: mine\n")
    with pytest.raises(DataError, match=r"mine\.yaml: license is no field of a card"):
        Card.load("mine")


@pytest.mark.parametrize("size", [2, 3, 9, 10])
@pytest.mark.filterwarnings("error")
def test_a_phantom_of_few_pixels_is_the_large_one_averaged(size: int) -> None:
    """Scattered light was found over more cells than there were pixels: noise, at nine or fewer."""
    few, many = (Phantom(["Effusion"], s, patients=40) for s in (size, 60 // size * size))
    alike = []
    for image in few.table()["image"][:30]:
        blocks = many.read(image).reshape(size, 60 // size, size, 60 // size).mean(axis=(1, 3))
        alike.append(np.corrcoef(few.read(image).ravel(), blocks.ravel())[0, 1])
    assert np.median(alike) > 0.8
