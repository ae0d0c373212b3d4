"""What leaves a hospital hides what it says it hides."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import TINY
from scipy import stats

from fedmed.cli.main import main
from fedmed.config import compose
from fedmed.core.errors import ConfigError
from fedmed.data.store import pixels_of, prepare
from fedmed.data.table import Hidden
from fedmed.privacy import epsilon
from fedmed.privacy.accounting import PURE
from fedmed.privacy.pixel_release import pixel_releases
from fedmed.privacy.release import Released, best_round, patient_counts, pixelate, utility
from fedmed.runs.directory import RunDirectory

PHANTOM = {"_target_": "fedmed.datasets.phantom.Phantom", "patients": 40, "sites": 3}


def released(**changed: Any) -> Released:
    given: dict[str, Any] = {"targets": ["Effusion"], "size": 32, "of": PHANTOM}
    given |= {"epsilon": 50.0, "block": 8}
    return Released(**(given | changed))


@pytest.mark.parametrize(("changed", "epsilon"), [(1, 1.0), (32, 10.0), (1024, 400.0)])
def test_no_two_neighbours_lose_more_than_epsilon(changed: int, epsilon: float) -> None:
    """With the noise that is drawn, over images that differ as much as neighbours may."""
    rng = np.random.default_rng(0)
    grey = np.full((800, 800), 128, np.uint8)
    coarse = pixelate(grey, 8, epsilon, rng, changed)[::8, ::8].ravel() - 128.0
    scale = 255 * changed / 8**2 / epsilon
    smooth = coarse + rng.uniform(-0.5, 0.5, coarse.size)  # undoes the rounding
    assert stats.kstest(smooth, "laplace", args=(0, scale)).pvalue > 0.001
    for where in (np.arange(1024), rng.permutation(1024)):  # in one corner, or all over
        black, other = np.zeros(1024), np.zeros(1024)
        other[where[:changed]] = 255
        apart = (other - black).reshape(4, 8, 4, 8).mean(axis=(1, 3))
        assert np.abs(apart).sum() / scale <= epsilon * (1 + 1e-9)


def test_a_release_is_made_once_and_never_twice_with_the_same_noise() -> None:
    data = released()
    first = data.table()["image"][0]
    np.testing.assert_array_equal(data.read(first), released().read(first))
    mean = data.of.read(first).reshape(4, 8, 4, 8).mean(axis=(1, 3))
    # The same draws at half the scale would cancel out and leave the image.
    draws = [d.read(first)[::8, ::8] - mean for d in (released(epsilon=5e3), released(epsilon=1e4))]
    assert abs(np.corrcoef(draws[0].ravel(), draws[1].ravel())[0, 1]) < 0.9
    assert released(epsilon=5e3).recipe([first]) != released(epsilon=1e4).recipe([first])


def test_a_patient_releases_no_more_images_than_agreed() -> None:
    data = released(images_per_patient=1)
    assert not data.table()["patient"].duplicated().any()
    assert released().table()["patient"].duplicated().any()
    assert data.caveats()[-1].endswith("times 1")
    assert "not the image" in released(pixels=16).caveats()[-1]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("dataset.block=7", "dataset.block: must divide dataset.size"),
        ("dataset.pixels=5000", "dataset.pixels: an image has 4096"),
        ("dataset.epsilon=0", "dataset.epsilon: input should be greater than 0"),
    ],
)
def test_a_release_that_makes_no_sense_is_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose(["dataset=released", override])


def test_the_store_holds_only_what_is_released(tmp_path: Path) -> None:
    data = released()
    stored = pixels_of(prepare(data, data.table(), tmp_path, 0, lambda done, total: None).path)
    blocks = stored.reshape(len(stored), 4, 8, 4, 8)
    assert (blocks == blocks[:, :, :1, :, :1]).all()
    assert len(np.unique(blocks)) > 100


def test_a_run_on_released_images_accounts_for_them(
    launch: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """A patient's images add up; labels and presence are another matter, and never mixed in."""
    task = [o.replace("dataset.", "dataset.of.") for o in TINY]
    task += ["dataset=released", "dataset.of.patients=60", "dataset.epsilon=1.5", "rounds=1"]
    spent = launch(*task)["privacy"]
    assert (spent["unit"], spent["delta"], spent["also"]) == ("content", 0.0, [])
    assert (spent["neighbouring"], spent["accountant"]) == ("replace-one", PURE)
    table = pd.read_parquet(tmp_path / "run" / "table.parquet")
    assigned = pd.read_csv(tmp_path / "run" / "partition.csv").query("client >= 0")
    images = table.merge(assigned, on="patient").groupby(["client", "patient"]).size()
    most = images.groupby("client").max()
    assert most.max() > 1
    assert spent["per_client"] == {str(k): pytest.approx(1.5 * n) for k, n in most.items()}
    assert spent["epsilon"] == pytest.approx(1.5 * most.max())
    assert any(
        "with how many images and which labels, is public" in a for a in spent["assumptions"]
    )
    (tmp_path / "run" / "summary.json").unlink()  # as if cut off at the end
    RunDirectory(tmp_path / "run").checkpoint.unlink()
    both = ("privacy=dpsgd", "privacy.noise_multiplier=1", "privacy.secure_noise=true")
    assert launch(*task)["privacy"] == spent
    capped = ("dataset.images_per_patient=1", "dataset.pixels=16", *both)
    mixed = launch(*task, *capped, folder=tmp_path / "mixed")["privacy"]
    assert mixed["unit"] == "patient"
    assert mixed["epsilon"] > 1.5
    (detail,) = mixed["also"]
    assert (detail["unit"], detail["epsilon"]) == ("detail", pytest.approx(1.5))
    assert "a detail is at most 16 pixels of each image; the rest is not hidden" in str(mixed)


def test_images_seen_as_they_are_have_no_epsilon(monkeypatch: pytest.MonkeyPatch) -> None:
    """One client's images are behind noise, another's are not, and one has some of both."""
    data = released(images_per_patient=2)
    table = data.table().assign(image=lambda t: "noisy/" + t["image"])
    plain = table.iloc[:1].assign(image="plain/x", patient="x")
    table = pd.concat([table, plain], ignore_index=True)
    behind = Hidden("content", 3.0, 1)
    monkeypatch.setattr(data, "hidden", lambda image: behind if "noisy" in image else None)
    patients = table["patient"].unique()
    assigned = pd.DataFrame({"patient": patients, "client": np.arange(len(patients)) % 2})
    assigned.loc[assigned["patient"] == "x", "client"] = 1
    zero, one = pixel_releases(data, table, assigned)
    assert epsilon([zero], 0.0) == pytest.approx(6.0)
    assert epsilon([one], 0.0) == math.inf
    assert pixel_releases(data.of, data.of.table(), assigned) == []


def test_label_counts_have_the_noise_of_their_sensitivity() -> None:
    """One patient changes the T + 1 counts of its client by at most 1 each."""
    targets = ("a", "b", "c")
    rng = np.random.default_rng(0)
    patients = np.repeat([f"p{i}" for i in range(600)], 3)  # three images each: counted once
    table = pd.DataFrame(rng.integers(0, 2, (1800, 3)), columns=list(targets)).astype(float)
    table = table.assign(patient=patients)
    assigned = pd.DataFrame({"patient": pd.unique(patients), "client": np.arange(600) % 200})
    exact = patient_counts(table, assigned, targets, 1e6, seed=0)
    assert (exact["patients"] == 3).all()
    assert (exact[list(targets)] <= 3).all(axis=None)
    big = assigned.assign(client=np.arange(600) % 2)  # large counts, of which none is cut at 0
    drawn = [patient_counts(table, big, targets, 2.0, seed) for seed in range(60)]
    truth = patient_counts(table, big, targets, 1e6, seed=0).to_numpy()
    noise = np.stack([frame.to_numpy() - truth for frame in drawn])[:, :, 1:].ravel()
    alpha = math.exp(-2.0 / (len(targets) + 1))
    assert noise.var() == pytest.approx(2 * alpha / (1 - alpha) ** 2, rel=0.25)
    assert np.abs(noise.mean()) < 0.4


def test_the_best_round_has_a_utility_that_one_patient_moves_by_at_most_one() -> None:
    rng = np.random.default_rng(0)
    patients = [f"p{i // 3}" for i in range(90)]  # three images each
    truth = rng.integers(0, 2, (90, 4)).astype(np.float32)
    truth[rng.random(truth.shape) < 0.3] = np.nan
    truth[:3] = np.nan  # nothing is known of p0
    for drawn in (rng.random((90, 4)), np.zeros((90, 4)), np.ones((90, 4)), np.nan_to_num(truth)):
        scores = drawn.astype(np.float32)
        whole = utility(scores, truth, patients)
        for gone in range(30):
            keep = [i for i in range(90) if i // 3 != gone]
            less = utility(scores[keep], truth[keep], [patients[i] for i in keep])
            assert -1e-6 <= whole - less <= 1 + 1e-6
    known = [p for p, row in zip(patients, truth, strict=True) if not np.isnan(row).all()]
    assert utility(np.nan_to_num(truth), truth, patients) == pytest.approx(len(set(known)))
    curve = pd.Series([20.0, 29.0, 25.0], index=[5, 10, 15])
    chosen = [best_round(curve, 5.0, rng) for _ in range(200)]
    assert chosen.count(10) > 195
    weak = [best_round(curve, 0.01, rng) for _ in range(600)]
    assert min(weak.count(r) for r in (5, 10, 15)) > 120


DP = ("privacy=dpsgd", "privacy.noise_multiplier=1", "client.steps=2")


@pytest.mark.parametrize(
    ("how", "round_", "whom"),
    [
        ((), True, "whoever is trained on is promised nothing"),
        (DP, False, "nobody: clients keep their validation scores"),
        ((*DP, "privacy.release_metrics=true"), True, "by the run (unit patient, ε = "),
        (("partition.val_fraction=0",), False, "nobody: no client has patients for validation"),
    ],
)
def test_script_says_of_whom_each_epsilon_is(
    how: tuple[str, ...],
    round_: bool,
    whom: str,
    launch: Callable[..., dict[str, Any]],
    store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "run"
    asked = [*TINY, "rounds=2", "model.network.block_config=[1]", *how]
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump([*asked, f"store={store}"]))
    launch(*asked)

    def script(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["release", str(folder), "--seed", "1", *arguments])
        return int(ended.value.code or 0), *capsys.readouterr()

    code, _, err = script("--epsilon", "0")
    assert (code, err.count("\n")) == (2, 1)
    assert "--epsilon: takes a finite number above 0" in err
    assert not (folder / "label_counts.csv").exists()
    code, out, _ = script("--epsilon", "0.5")
    assert code == 0
    assert "label_counts.csv, with ε = 0.5 for each patient who trains or validates" in out
    assert whom in out
    counts, chosen = json.loads((folder / "release.json").read_text())
    assert (counts["what"], counts["epsilon"]) == ("label counts", 0.5)
    assert chosen["epsilon"] == (0.5 if round_ else None)
    assert (chosen["result"] in (1, 2)) == round_
    assert ("each validation patient" in chosen["whom"]) == round_
