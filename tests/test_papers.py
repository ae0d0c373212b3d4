"""Papers: each composes and runs on stand-ins, and its table tells ours from the published."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
from conftest import REAL, summary
from omegaconf import OmegaConf
from sklearn.metrics import roc_auc_score
from standins_hospital import STANDINS as HOSPITAL
from standins_small import STANDINS as SMALL
from standins_small import heart_disease

from fedmed import config as cfg
from fedmed.config import CONF
from fedmed.config.paper import Expected
from fedmed.core.errors import DataError
from fedmed.datasets.heart_disease import CENTRES, HeartDisease
from fedmed.evaluation.predictions import Predictions
from fedmed.report.published import Ours, _verdict, compare, paper_of
from fedmed.report.trivial import trivial
from fedmed.runs.run import Run, find
from fedmed.sweep.grid import axes_of

STANDINS = {**HOSPITAL, **SMALL, "heart_disease": heart_disease}
PAPERS = sorted(path.stem for path in (CONF / "paper").glob("*.yaml"))
DRY = (
    "rounds=1",
    "evaluate_every=1",
    "client.steps=1",
    "client.epochs=1",
    "client.batch_size=4",
    "runner.workers=0",
    "tracking.mode=disabled",
)
#: Of a paper, what its stand-ins are too few for.
FEW = {
    "ziegler": ["partition.sizes={kermany: 2, chexpert: 2}", "partition.val_fraction=0.3"],
    "gradient_inversion": ["partition.sizes={COVID-19 Radiography Database: [2, 4, 1]}"],
    "niid_bench": ["dataset.patients=60", "partition.clients=3"],
}
Launch = Callable[..., dict[str, Any]]


def first_cell(name: str, roots: list[str]) -> list[str]:
    """Return the overrides of the first cell of a paper's grid."""
    axes, _ = axes_of([f"+paper={name}", *roots])
    return [axis[0] for axis in axes.values()]


@pytest.mark.parametrize("name", PAPERS)
def test_paper_runs(name: str, nih_standin: Path, tmp_path: Path, launch: Launch) -> None:
    opening = (CONF / "paper" / f"{name}.yaml").read_text().splitlines()[1]
    assert opening.startswith(f"# python -m fedmed.run -m +paper={name}")
    choice = cfg.settings([f"+paper={name}"]).runtime.choices["dataset"]
    roots = []
    for key in re.findall(r"(\S*root)=DIR", opening):
        whose = key.split(".")[2] if key.startswith("dataset.sets") else choice
        (tmp_path / whose).mkdir(exist_ok=True)
        root = nih_standin if whose == "nih" else STANDINS[whose](tmp_path / whose)
        roots.append(f"{key}={root}")
    if name == "chexnet":  # whose lists stand-ins of the official split do not have
        roots += ["dataset.split=official"]
    size = [] if name.startswith(("flamby", "medmnist")) else ["dataset.size=32"]
    cell = first_cell(name, roots)
    found = launch(*cell, *DRY, *size, *FEW.get(name, []))
    assert found["name"] == name
    for expected in paper_of(name).expected:  # is of a figure that runs have
        group, key = expected.value.split(".")[:2]
        assert key in found[group]


@pytest.mark.parametrize("name", PAPERS)
def test_what_was_not_found_is_null(name: str) -> None:
    for expected in paper_of(name).expected:
        assert (expected.published is None) == (expected.provenance == "not found")
    with pytest.raises(ValueError, match="null if, and only if"):
        Expected(where={}, value="x", published=None, tolerance=None, provenance="verbatim")


def recode(path: Path) -> None:
    """Write Cleveland's file as its widespread copy has it."""
    rows = pd.read_csv(path, header=None, na_values="?").dropna(subset=[3])
    rows[2] = rows[2].map({4: 0, 2: 1, 3: 2, 1: 3})
    rows[6] = rows[6].map({2: 0, 0: 1, 1: 2})
    rows[13] = (rows[13] == 0).astype(int)
    rows.to_csv(path, header=False, index=False, na_rep="?")


def heart(root: Path) -> HeartDisease:
    return HeartDisease(["Heart Disease"], root, 13)


def test_the_copy_with_other_codes_is_translated(tmp_path: Path) -> None:
    root = heart_disease(tmp_path)
    before = heart(root)
    table, features = before.table(), [before.read(i) for i in before.table()["image"]]
    recode(root / "processed.cleveland.data")
    after = heart(root)
    pd.testing.assert_frame_equal(after.table(), table)
    np.testing.assert_array_equal([after.read(i) for i in table["image"]], features)
    assert any("label turned round" in caveat for caveat in after.caveats())
    (root / "processed.va.data").write_text("60,1,7,140,0,0,1,1,1,3,2,?,?,2\n" * 3)
    with pytest.raises(DataError, match=r"va.data, line 1: chest_pain takes 1, 2, 3, 4, got 7"):
        heart(root).table()


def test_a_centre_is_standardised_by_its_own_training_rows(tmp_path: Path) -> None:
    data = heart(heart_disease(tmp_path))
    table = data.table()
    for centre in CENTRES:
        mine = table[(table["site"] == centre) & (table["split"] == "train")]
        values = np.array([data.read(image) for image in mine["image"]])
        np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-5)
        spread = values.std(axis=0, ddof=1)
        np.testing.assert_allclose(spread[spread > 0], 1, atol=1e-5)


def test_the_split_has_the_published_sizes() -> None:
    root = REAL / "heart-disease"
    if not root.is_dir():
        pytest.skip(f"no heart disease at {root}; set FEDMED_DATA")
    counts = heart(root).table().groupby(["site", "split"]).size().unstack()
    sizes = [(int(counts["train"][c]), int(counts["test"][c])) for c in CENTRES]
    assert sizes == [(199, 104), (172, 89), (30, 16), (85, 45)]


def test_as_published_the_noise_is_too_little(tmp_path: Path, launch: Launch) -> None:
    """Noise for epochs leaves a larger ε than was asked for, and the run says so."""
    root = heart_disease(tmp_path)
    asked = ("+paper=flamby_heart_dp", f"dataset.root={root}", *DRY, "client.steps=40")
    as_published = launch(*asked, "privacy.noise_for=epochs", folder=tmp_path / "published")
    true = launch(*asked, folder=tmp_path / "true")
    assert as_published["privacy"]["epsilon"] > 1.1 > true["privacy"]["epsilon"]
    assert as_published["rounds_done"] == 1


def test_the_table_tells_ours_from_the_published(tmp_path: Path, launch: Launch) -> None:
    root = heart_disease(tmp_path)
    for method in ("fedavg", "fedyogi"):
        cell = ["+paper=flamby_heart", f"+paper/flamby={method}", f"dataset.root={root}", *DRY]
        _leave(tmp_path / "runs" / method, cell)
        launch(*cell, folder=tmp_path / "runs" / method)
    ours = {m: summary(tmp_path / "runs" / m)["test"] for m in ("fedavg", "fedyogi")}
    by_site = ours["fedavg"]["accuracy_by_site"]
    mean = ours["fedavg"]["mean_site_accuracy"]
    assert mean == pytest.approx(np.mean(list(by_site.values())))
    assert not math.isnan(mean)
    text = compare("flamby_heart", paper_of("flamby_heart"), find([tmp_path / "runs"]), {})
    line = next(row for row in text.splitlines() if "strategy=fedavg" in row)
    test = pd.read_parquet(tmp_path / "runs" / "fedavg" / "predictions.parquet")
    sick = test.groupby("site")["Heart Disease/label"].mean()  # by hand: what knows nothing gets
    nothing = {
        "one answer": max(sick.mean(), 1 - sick.mean()),
        "by site": np.maximum(sick, 1 - sick).mean(),
    }
    assert " | ".join([", ".join(f"{v:.4f} ({k})" for k, v in nothing.items()), ""]) in line
    verdict = "within 0.05" if abs(mean - 0.685) <= 0.05 else "**outside** 0.05"
    near = [k for k, v in nothing.items() if abs(v - 0.685) <= 0.05]
    if near and verdict == "within 0.05":
        verdict += f", not distinguishable from {' or '.join(near)}"
    assert f"| 0.6850 ± 0.025 (computed) | {mean:.4f} (1 seed) | {mean - 0.685:+.4f} |" in line
    assert line.endswith(f"{verdict} |")
    assert "missing" in next(row for row in text.splitlines() if "strategy=fedadam" in row)
    holds = ours["fedyogi"]["mean_site_accuracy"] > mean
    assert f"better than FedAvg; {'holds' if holds else '**does not hold**'}" in text
    assert "Changed on the command line: rounds=1" in text


class Known:
    """A run whose predictions are these."""

    status, folder = "finished", Path("known")

    def __init__(self, labels: np.ndarray, sites: list[str]) -> None:
        targets = tuple("ab"[: labels.shape[1]])
        images = pd.DataFrame({"patient": [f"p{i}" for i in range(len(labels))], "site": sites})
        predictions = Predictions(targets, np.zeros_like(labels), labels, images)
        self.scored = SimpleNamespace(predictions=predictions)


def known(labels: np.ndarray, sites: list[str]) -> Run:
    """Return it as the run that it stands for."""
    return cast(Run, Known(labels, sites))


def test_what_knows_nothing_is_scored_as_a_model_is() -> None:
    """Against scikit-learn and plain means, with unknown labels, two targets and three sites."""
    rng = np.random.default_rng(0)
    sites = [*"x" * 40, *"y" * 30, *"z" * 30]
    share = np.array([[0.9, 0.3]] * 40 + [[0.2, 0.3]] * 30 + [[0.4, 0.8]] * 30)
    labels = (rng.random((100, 2)) < share).astype(np.float32)
    labels[rng.random((100, 2)) < 0.2] = np.nan
    run, frame = known(labels, sites), pd.DataFrame(labels).groupby(sites)
    of_site = frame.transform("mean").to_numpy()
    auroc = [
        roc_auc_score(labels[k, t], of_site[k, t])
        for t in (0, 1)
        for k in [~np.isnan(labels[:, t])]
    ]
    found = trivial(run, "test.macro_auroc")
    assert found == {"one answer": 0.5, "by site": pytest.approx(np.mean(auroc))}
    assert trivial(run, "test.auroc.b")["by site"] == pytest.approx(auroc[1])
    assert trivial(run, "test.by_site.y") == {"one answer": 0.5, "by site": 0.5}
    mean, pooled = frame.mean(), np.nanmean(labels, axis=0)
    majority = np.where(pooled > 0.5, mean, 1 - mean).mean()
    answers = (mean.to_numpy().mean(), 1 - mean.to_numpy().mean(), majority)
    accuracy = trivial(run, "test.mean_site_accuracy")
    assert accuracy["one answer"] == pytest.approx(max(answers), abs=1e-6)
    assert accuracy["by site"] == pytest.approx(
        np.maximum(mean.to_numpy(), 1 - mean.to_numpy()).mean()
    )
    assert trivial(run, "test.accuracy.a")["one answer"] == pytest.approx(
        max(pooled[0], 1 - pooled[0])
    )
    assert trivial(run, "val.mean") == {"one answer": 0.5}
    assert trivial(run, "test.macro_brier") == trivial(run, "time.rounds_s") == {}
    assert trivial(known(labels, ["x"] * 100), "test.macro_auroc") == {"one answer": 0.5}


def test_a_tolerance_that_a_constant_meets_tells_nothing() -> None:
    told = Expected(where={}, value="x", published=0.7, tolerance=0.05, provenance="verbatim")
    ours = Ours([0.69, 0.71], [])
    assert _verdict(told, ours, {"one answer": 0.6}) == "within 0.05"
    nothing = {"one answer": 0.66, "by site": 0.723}
    said = "within 0.05, not distinguishable from one answer or by site"
    assert _verdict(told, ours, nothing) == said
    assert _verdict(told, Ours([0.5], []), nothing) == "**outside** 0.05"


def _leave(folder: Path, overrides: list[str]) -> None:
    """Leave what Hydra leaves."""
    hydra = folder / ".hydra"
    hydra.mkdir(parents=True)
    OmegaConf.save(cfg.tree(overrides), hydra / "config.yaml")
    OmegaConf.save(list(overrides), hydra / "overrides.yaml")
    choices = {"runtime": {"choices": cfg.settings(overrides).runtime.choices}}
    OmegaConf.save({"hydra": choices}, hydra / "hydra.yaml")
