"""docs/privacy.md says what the code computes, docs/python.md runs, the site fetches nothing."""

import math
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from safetensors.numpy import load_file

from fedmed.datasets.phantom import Phantom
from fedmed.privacy import Event, epsilon
from fedmed.privacy.accounting import noise_for
from fedmed.privacy.mechanisms import gaussian_deviation

PAGE = " ".join((ROOT / "docs" / "privacy.md").read_text().split())
SIDE = 64
DELTA = 1e-5
Images = Sequence[np.ndarray]


def step(image: np.ndarray) -> int:
    """Return the largest difference between neighbouring pixels, which the recipe goes by."""
    return max(int(np.abs(np.diff(image.astype(int), axis=axis)).max()) for axis in (0, 1))


def means(image: np.ndarray, block: int) -> np.ndarray:
    side = SIDE // block
    return np.asarray(image.reshape(side, block, side, block).mean(axis=(1, 3)))


def loss(images: Images, scale: float, block: int = 1) -> float:
    """Return the largest privacy loss of Laplace noise of that scale on the block means."""
    return float(np.abs(means(images[0], block) - means(images[1], block)).sum() / scale)


def hits(images: Images, scale: float, block: int = 1) -> int:
    """Return how often of 1,000 times an attacker names the image that was released."""
    rng = np.random.default_rng(0)
    exact = [means(image, block) for image in images]
    right = 0
    for trial in range(1000):
        seen = exact[trial % 2] + rng.laplace(0, scale, exact[0].shape)
        right += int(np.argmin([np.abs(seen - mean).sum() for mean in exact])) == trial % 2
    return right


@pytest.mark.parametrize(
    ("eps", "row"),
    [
        (0.1, "| 0.1 | 52.5 % | 0.11 % | 1.1 |"),
        (1, "| 1 | 73.1 % | 0.27 % | 2.7 |"),
        (2, "| 2 | 88.1 % | 0.73 % | 7.4 |"),
        (4, "| 4 | 98.2 % | 5.2 % | 54.6 |"),
        (8, "| 8 | 99.97 % | 74.9 % | 99.97 |"),
    ],
)
def test_the_odds_of_an_attacker(eps: float, row: str) -> None:
    assert row in PAGE
    stated = [float(cell.strip(" %")) for cell in row.strip("|").split("|")]
    odds = math.exp(eps)
    even, rare = odds / (1 + odds), 0.001 * odds / (0.999 + 0.001 * odds)
    power = min(0.01 * odds, 1 - 0.99 / odds)  # at a false-positive rate of 1 % (Kairouz 2015)
    for told, value in zip(stated[1:], (even, rare, power), strict=True):
        digits = len(str(told).partition(".")[2])
        assert told == pytest.approx(100 * value, abs=0.51 * 10.0**-digits)


def test_the_examples_of_the_ledger() -> None:
    def spent(z: float, rate: float, steps: int) -> float:
        return epsilon([Event(0, "patient", z, rate, steps=steps)], DELTA)

    assert "1.195 times the clipping norm" in PAGE
    rounds = {n: spent(1.195, 16 / 500, 20 * n) for n in (1, 9, 36, 72)}
    assert (
        "After one round ε is 0.86, after 9 rounds 2.0, after 36 it is 4.0; at 72 it would be 5.8"
        in PAGE
    )
    assert [round(rounds[1], 2), *(round(rounds[n], 1) for n in (9, 36, 72))] == [
        0.86,
        2.0,
        4.0,
        5.8,
    ]
    assert "ε = 21 if the server" in PAGE
    assert round(spent(1.0, 0.5, 36)) == 21
    assert "the 0.53 of 10,000 hospitals of which 100 join" in PAGE
    assert round(spent(1.0, 100 / 10_000, 36), 2) == 0.53
    assert "has ε = 26, and 71 for which data it has; local noise" in PAGE
    assert (round(spent(1.0, 1.0, 18)), round(spent(0.5, 1.0, 18))) == (26, 71)


def test_the_copied_recipe_is_not_private() -> None:
    """Under (1, 0)-privacy nobody names the right one of two in over e/(1 + e) of the cases."""
    ramp = np.tile(np.linspace(0, 255, SIDE).astype(np.uint8), (SIDE, 1))
    pair = ramp, ramp[:, ::-1]
    assert max(map(step, pair)) == 5
    assert "their largest step is 5" in PAGE
    assert loss(pair, 5 / 1.0) == 105_984
    assert "the true loss is 105,984" in PAGE
    assert hits(pair, 5 / 1.0) == hits(pair, 5 / 0.01) == 1000
    assert "ε = 1 allows 731" in PAGE
    assert round(1000 * math.e / (1 + math.e)) == 731
    assert f"{hits(pair, 255 * SIDE**2 / 8**2, 8)}, a coin's toss" in PAGE
    assert loss(pair, 255 * SIDE**2 / 8**2, 8) <= 1


def test_nor_is_it_on_radiographs() -> None:
    data = Phantom(["Effusion"], SIDE)
    table = data.table()
    images = [data.read(image) for image in table.loc[table["view"] == "PA", "image"][:2]]
    steps = sorted(map(step, images))
    assert f"(steps of {steps[0]} and {steps[1]})" in PAGE
    assert f"the true loss is {loss(images, steps[1]):.0f}," in PAGE
    assert hits(images, steps[1]) == 1000


def test_groups_and_the_data_of_a_client() -> None:
    """The page's figures of several images, and of other data in place of a hospital's own."""

    def spent(z: float, rate: float, steps: int, **far: Any) -> float:
        return epsilon([Event(0, "image", z, rate, steps=steps)], DELTA, **far)

    one = gaussian_deviation(1.0, DELTA)  # a release without sampling
    assert spent(one, 1.0, 1) == pytest.approx(1.0, abs=1e-3)
    assert "an ε of 14.4 at the same δ, not of 10" in PAGE
    assert round(spent(one, 1.0, 1, group=10), 1) == 14.4
    trained = noise_for(Event(0, "image", 0.0, 16 / 500, steps=720), 1.0, DELTA)
    assert spent(trained, 16 / 500, 720, group=10) == pytest.approx(14.4, abs=0.1)  # sampled too
    assert "whose ε would be 1,410" in PAGE
    assert spent(trained, 16 / 500, 720, group=184) == pytest.approx(1410, abs=5)
    assert "(below, 21 is 37)" in PAGE
    assert "not none: ε = 37" in PAGE
    assert round(spent(1.0, 0.5, 36, replaced=True)) == 37
    assert "has ε = 26, and 71 for which data it has" in PAGE
    assert round(spent(1.0, 1.0, 18, replaced=True)) == 71


def test_the_pages_are_a_site_without_a_dead_link_that_fetches_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = {page.stem for page in tmp_path.glob("*.html")}
    assert pages >= {page.stem for page in (ROOT / "docs").glob("*.md")}
    for page in tmp_path.glob("*.html"):
        fetched = re.findall(r"<(?:script|img|iframe)[^>]* src=\"?(\S+)", page.read_text())
        fetched += re.findall(
            r"<link[^>]* rel=\"?(?:stylesheet|preload)[^>]* href=\"?(\S+)", page.read_text()
        )
        assert fetched
        assert [address for address in fetched if "//" in address] == []


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_pages_beside_the_site_have_no_dead_link(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / page).read_text()):
        assert "://" in target or (ROOT / target).exists(), target


@pytest.mark.slow
def test_the_page_on_python_runs_from_top_to_bottom(store: Path, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "python.md").read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    assert code.count("import fedmed") == 1
    done = subprocess.run(
        [sys.executable, "-"],
        input=code,
        cwd=tmp_path,
        env=os.environ | {"FEDMED_STORE": str(store)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "runs").iterdir())) == 3
    assert load_file(tmp_path / "best.safetensors")
