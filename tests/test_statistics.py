"""Intervals cover what they claim and tests keep their level: small simulations, known truths."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, TINY
from scipy.stats import beta, binom, t
from sklearn.metrics import roc_auc_score

from fedmed.data.table import labels as table_labels
from fedmed.evaluation.bootstrap import DEBIASED, score
from fedmed.evaluation.comparison import Test, _crossed, compare, holm
from fedmed.evaluation.intervals import (
    LEAST,
    calibration,
    effective_patients,
    proportion,
    variance_of_mean,
)
from fedmed.evaluation.metrics import accuracy_by_group, by_group, compared
from fedmed.evaluation.subgroups import subgroups


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    """The script that writes the tables of docs/statistics.md."""
    spec = importlib.util.spec_from_file_location("intervals", ROOT / "scripts" / "intervals.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["intervals"] = module  # where dataclasses look their types up
    path = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = path
    return module


def enough(share: float, datasets: float, level: float = 0.93) -> bool:
    """Say whether a share covered is compatible with a coverage of at least ``level``."""
    return bool(binom.cdf(round(share * datasets), round(datasets), level) > 1e-3)


@pytest.mark.parametrize("shift", [0.5, 2.3])
def test_intervals_cover_with_few_positive_patients(simulation: ModuleType, shift: float) -> None:
    rows = simulation.coverage(simulation.World(150, [14], shift), 60)
    assert 0.5 < rows["given"].min() < 1  # none below ten patients
    for metric, row in rows.iterrows():
        assert enough(row["covered"], 60 * row["given"]), metric


@pytest.mark.parametrize("off", [0.0, 0.03, 0.1])
def test_calibration_error_is_covered_and_not_too_large(simulation: ModuleType, off: float) -> None:
    rows = simulation.coverage(simulation.World(200, [60], 1.2, off), 50)
    row, plain = rows.loc[DEBIASED], rows.loc["ece"]
    assert enough(row["covered"], 50)
    assert abs(row["value"] - row["truth"]) < 0.015
    if off < 0.1:
        assert plain["value"] - row["truth"] > abs(row["value"] - row["truth"])


def test_macro_of_rare_findings_is_covered(simulation: ModuleType) -> None:
    rows = simulation.coverage(simulation.World(150, [5, 6, 40], 1.2), 60)
    assert enough(rows.loc["auroc", "covered"], 60 * rows.loc["auroc", "given"])


def test_no_interval_below_the_stated_number_of_patients() -> None:
    from plain_scores import predictions

    rng = np.random.default_rng(0)
    for positives in (LEAST - 1, LEAST):
        labels = np.zeros((100, 1), np.float32)
        labels[:positives] = 1
        labels = np.repeat(labels, 2, axis=0)  # images do not make patients
        given = predictions(rng.random((200, 1)), labels, np.repeat(np.arange(100), 2))
        found = score(given, 200)
        assert found.patients == ((positives, 100 - positives),)
        for metric in ("auroc", "brier", DEBIASED):
            assert np.isnan(found.interval(metric, "a")[0]) == (positives < LEAST)


def test_an_interval_is_the_exact_binomial_one_of_independent_trials() -> None:
    """A share of independent patients has Clopper & Pearson's interval."""
    n, hits = 400, 130
    low, high = proportion(hits / n, hits * (n - hits) / n**3)
    assert low == pytest.approx(beta.ppf(0.025, hits, n - hits + 1))
    assert high == pytest.approx(beta.ppf(0.975, hits + 1, n - hits))
    sure = proportion(1.0, 0.0, patients=12)
    trials = 12 * (1.959964 / t.ppf(0.975, 11)) ** 2
    assert sure == pytest.approx((0.025 ** (1 / trials), 1.0), rel=1e-4)


def test_a_mean_is_known_from_as_many_patients_as_weigh_in_it() -> None:
    assert effective_patients([1.0], [10]) == pytest.approx(10)
    assert effective_patients([1.0, 1.0], [10, 10]) == pytest.approx(19)
    assert effective_patients([1.0, 0.0], [10, 500]) == pytest.approx(10)


def test_a_rare_finding_that_happens_to_be_easy_is_not_exactly_known() -> None:
    """By hand: ten patients, all above the rest, beside a hundred whose AUROC varies."""
    drawn = np.array([[1.0, 1.0, 1.0, 1.0], [0.8, 0.9, 0.7, 0.8]])
    common = np.var(drawn[1], ddof=1) * 100 / 99
    rare = (0 * 10 + common * 100) / 2 / 10  # as patients of both vary on average
    variance, patients = variance_of_mean(drawn, np.array([10, 100]), "auroc")
    assert variance == pytest.approx((common + rare) / 4)
    assert patients == pytest.approx(1 + (common + rare) ** 2 / (rare**2 / 9 + common**2 / 99))
    over_all, _ = variance_of_mean(drawn, np.array([10, 100]), "brier")
    assert over_all == pytest.approx(common / 4)


def test_an_average_precision_is_taken_back_by_what_few_positives_add() -> None:
    from plain_scores import predictions

    rng = np.random.default_rng(0)
    labels = (np.arange(200) < 20).astype(np.float32)[:, None]
    shown = predictions(rng.random((200, 1)) * 0.5 + 0.3 * labels, labels, np.arange(200))
    found = score(shown, 200)
    drawn, value = found.drawn("auprc"), found.value("auprc")
    assert drawn.mean() > value
    expected = proportion(2 * value - drawn.mean(), float(np.var(drawn, ddof=1)) * 20 / 19, 20)
    assert found.interval("auprc") == pytest.approx(expected)


def test_calibration_without_noise_is_what_was_seen() -> None:
    errors = np.array([[0.01, -0.02, 0.0]])
    found = calibration(errors, np.repeat(errors[:, :, None], 10, axis=2))
    assert found == pytest.approx((0.03, 0.03, 0.03))


def test_patients_and_seeds_are_crossed() -> None:
    """By hand: Obuchowski & Rockette's variance and Hillis's degrees of freedom."""
    d, covariance = np.array([0.01, 0.04, 0.07]), np.full((3, 3), 1e-4) + np.eye(3) * 2e-5
    values = np.stack([0.8 + d, np.full(3, 0.8)], axis=1)
    found = _crossed(values, covariance, float("inf"))
    apart = np.var(d, ddof=1) / 3
    variance = apart + 1e-4
    freedom = variance**2 / (apart**2 / 2)
    assert found.difference == pytest.approx(0.04)
    assert found.p == pytest.approx(2 * t.sf(0.04 / variance**0.5, freedom))
    assert found.high - 0.04 == pytest.approx(t.ppf(0.975, freedom) * variance**0.5)
    one = _crossed(np.array([[0.84, 0.8]]), np.array([[1e-4]]), 31)
    assert one.p == pytest.approx(2 * t.sf(4, 30))
    assert one.seeds == 1
    still = _crossed(np.array([[0.84, 0.8]] * 2), covariance[:2, :2], 31)  # patients' remains
    assert still.p == pytest.approx(2 * t.sf(0.04 / covariance[:2, :2].mean() ** 0.5, 30))
    lucky = np.array([[0.84, 0.8], [0.94, 0.9]])  # the differences agree, the seeds do not
    assert _crossed(lucky, covariance[:2, :2], 31).p > 0.3


def test_a_star_is_not_for_a_lucky_seed(simulation: ModuleType) -> None:
    """Two equal methods whose seeds differ much: a test of patients alone finds them different."""
    found = simulation.rejections(seeds=3, spread=0.7, better=0, datasets=30)
    for share in found.values():
        assert binom.sf(round(share * 30) - 1, 30, 0.05) > 1e-3
    rng, blind = np.random.default_rng(0), 0
    for _ in range(30):
        ours, theirs = simulation.pairs_of_runs(rng, 3, 0.7, 0)
        drawn = np.mean(
            [a.drawn("auroc") - b.drawn("auroc") for a, b in zip(ours, theirs, strict=True)], axis=0
        )
        blind += abs(drawn.mean()) > 1.96 * drawn.std()
    assert binom.sf(blind - 1, 30, 0.05) < 1e-3


@pytest.mark.parametrize("test", ["bootstrap", "delong"])
def test_a_clear_difference_is_starred_in_any_family(simulation: ModuleType, test: Test) -> None:
    ours, theirs = simulation.pairs_of_runs(np.random.default_rng(0), 2, 0.05, 3, patients=400)
    found = compare(ours, theirs, "auroc", test=test)
    assert found.seeds == 2
    assert holm([found.p] * 100)[0] < 0.05
    assert found.low < found.difference < found.high


@pytest.fixture
def scored_files(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Run ``fedmed score`` on made-up files with a finding whose name is not ASCII."""
    rng, folder = np.random.default_rng(0), tmp_path
    head, ids = "image,Erguß\n", [f"i{i}" for i in range(60)]
    for name, values in (("p", rng.random(60)), ("l", rng.integers(0, 2, 60))):
        lines = "".join(f"{i},{v}\n" for i, v in zip(ids, values, strict=True))
        (folder / f"{name}.csv").write_text(head + lines, encoding="utf-8")

    def run(after: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
        files = "--predictions p.csv --labels l.csv --replicates 20 --out out.md"
        command = f"{sys.executable} -m fedmed.cli score {files} {after}"
        given = os.environ | environment
        return subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=str(folder),
            env=given,
            capture_output=True,
            check=False,
        )

    return run


def test_output_that_cannot_be_shown_or_is_not_read_ends_nothing(
    scored_files: Callable[..., subprocess.CompletedProcess[bytes]], tmp_path: Path
) -> None:
    done = scored_files("", PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C")
    assert done.returncode == 0, done.stderr
    assert b"Ergu?" in done.stdout
    for after in ("| head -c 1", "2>&1 | true"):
        done = scored_files(after)
        assert (done.returncode, done.stderr) == (0, b"")
        written = (tmp_path / "out.md").read_text(encoding="utf-8")
        assert "| Erguß |" in written
        (tmp_path / "out.md").unlink()


def test_sites_are_compared_over_what_they_share() -> None:
    """The oracle is scikit-learn's AUROC of each site and finding, put together by hand."""
    rng, n = np.random.default_rng(0), 300
    site = np.array(["A", "B", "C"])[np.arange(n) % 3]
    labels = (rng.random((n, 3)) < 0.3).astype(np.float32)
    labels[site == "B", 1] = 0  # the hard one is not there
    labels[(site == "C") & (np.arange(n) < 150), 2] = np.nan
    scores = (rng.random((n, 3)) + 0.3 * np.nan_to_num(labels)).clip(0, 1).astype(np.float32)
    whose = pd.Series(np.arange(n) // 6)
    found = by_group(scores, labels, ("a", "b", "c"), pd.Series(site), whose)
    assert found.findings == ("a", "c")
    assert found.left_out == []
    for name in "ABC":
        rows = site == name
        each = []
        for i in (0, 2):
            known = rows & ~np.isnan(labels[:, i])
            each.append(roc_auc_score(labels[known, i], scores[known, i]))
        assert found.macro[name] == pytest.approx(np.mean(each))
        ill = [len(set(whose[rows & (labels[:, i] == 1)])) for i in (0, 2)]
        assert found.positives[name] == min(ill)


def test_who_shares_nothing_is_left_out_or_nothing_is_compared() -> None:
    large, small = {"a": 0.8, "b": 0.6}, {"c": 0.9}
    many, few = {"a": 30, "b": 20, "c": 0}, {"a": 0, "b": 0, "c": 2}
    auroc = {"0": large, "1": large, "2": small, "3": {}}
    found = compared(auroc, {"0": many, "1": many, "2": few, "3": few})
    assert found.findings == ("a", "b")
    assert found.left_out == ["2", "3"]
    assert found.macro["0"] == pytest.approx(0.7)
    assert np.isnan(found.macro["2"])
    nothing = compared({"0": large, "1": small}, {"0": many, "1": {"c": 30}})
    assert (nothing.findings, nothing.positives) == ((), {})
    assert np.isnan(list(nothing.macro.values())).all()
    assert compared({}, {}).findings == ()


def test_accuracy_is_over_the_findings_that_every_site_knows() -> None:
    labels = np.array([[1, 1], [0, 0], [1, np.nan], [0, np.nan]], np.float32)
    scores = np.array([[0.9, 0.1], [0.1, 0.9], [0.9, 0.5], [0.9, 0.5]], np.float32)
    found = accuracy_by_group(scores, labels, pd.Series(["A", "A", "B", "B"]))
    assert found == {"A": 1.0, "B": 0.5}


def test_clients_are_compared_over_what_they_share(
    launch: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """What each client's reply is made of is worked out anew from the final model's row in CSV."""
    summary = launch(*TINY, "dataset.patients=240", "partition.val_fraction=0.4", "rounds=1")
    rows = pd.read_csv(tmp_path / "run" / "metrics.csv").query("scope == 'val' and round == 1")
    table = rows.pivot(index="client", columns="metric", values="value")
    auroc = table.filter(regex="^auroc/").dropna(how="all")
    shared = auroc.dropna(axis=1)
    assert 0 < shared.shape[1] < 3 or not auroc.isna().to_numpy().any()
    kept = table["macro_auroc"].dropna()
    assert kept.to_dict() == pytest.approx(shared.mean(axis=1).to_dict())
    val, clients = summary["val"], pd.read_csv(tmp_path / "run" / "clients.csv")
    assert (val["findings"], val["clients"]) == (shared.shape[1], len(kept))
    assert val["worst"] == pytest.approx(kept.min())
    assert clients["val_macro_auroc"].dropna().tolist() == pytest.approx(kept.tolist())
    patients = pd.read_parquet(tmp_path / "run" / "table.parquet").merge(
        pd.read_csv(tmp_path / "run" / "partition.csv", dtype={"patient": str}), on="patient"
    )
    own = patients[patients["role"] == "val"]
    names = [str(name).removeprefix("auroc/") for name in shared]
    for client, positives in clients["val_positives"].dropna().items():
        mine = own[own["client"] == client]
        known = table_labels(mine, names)
        assert positives == min(
            mine.loc[known[:, i] == 1, "patient"].nunique() for i in range(len(names))
        )


def dealt(labels: np.ndarray, scores: np.ndarray, sex: np.ndarray, deals: int) -> np.ndarray:
    """Deal the sex anew among patients with one image, with the finding and without, slowly."""
    rng, gaps = np.random.default_rng(5), []
    for _ in range(deals):
        new = sex.copy()
        for kind in (0, 1):
            new[labels == kind] = rng.permutation(sex[labels == kind])
        women, men = (roc_auc_score(labels[new == s], scores[new == s]) for s in "FM")
        gaps.append(abs(women - men))
    return np.array(gaps)


@pytest.mark.parametrize("harm", [0.0, 2.0])
def test_a_gap_stands_beside_what_chance_makes_of_it(harm: float) -> None:
    from plain_scores import predictions

    rng, n = np.random.default_rng(6), 300
    labels = (rng.random(n) < 0.3).astype(np.float32)
    sex = np.where(rng.random(n) < 0.5, "F", "M")
    score_ = rng.normal(size=n) * (1 + harm * (sex == "F")) + 1.5 * labels
    given = predictions(1 / (1 + np.exp(-score_[:, None])), labels[:, None], range(n), sex=sex)
    found, slow = subgroups(given), dealt(labels, given.scores[:, 0], sex, 400)
    assert found["gap"]["chance"] == pytest.approx(np.median(slow), abs=0.012)
    p = (1 + (slow >= found["gap"]["macro_auroc"]).sum()) / 401
    assert found["gap"]["p"] == pytest.approx(p, abs=0.08)
    assert (found["gap"]["p"] < 0.05) == (harm > 0)
    assert found["by"]["sex"]["chance"] == found["gap"]["chance"]  # the only attribute


def test_chance_gaps_are_not_called_gaps_where_a_finding_is_rare_in_one_group() -> None:
    """Attributes of many, some of them the patient's and some the image's; none matters."""
    from plain_scores import predictions

    rng, p = np.random.default_rng(7), []
    for _ in range(40):
        whose = np.repeat(np.arange(160), rng.integers(1, 4, 160))
        sex = rng.random(160) < 0.5
        ill = rng.random((160, 2)) < np.where(sex, 0.5, 0.15)[:, None]
        labels = ill[whose].astype(np.float32)
        noise = rng.normal(size=(160, 2))[whose] + rng.normal(size=(len(whose), 2))
        view = np.where(rng.random(len(whose)) < 0.4, "AP", "PA")
        more = {"sex": np.where(sex, "F", "M")[whose], "view": view}
        given = predictions(1 / (1 + np.exp(-noise - labels)), labels, whose, **more)
        p.append(subgroups(given, deals=60)["gap"]["p"])
    assert binom.sf(sum(value <= 0.05 for value in p) - 1, 40, 0.05) > 1e-3
    assert 0.3 < np.mean(p) < 0.7
