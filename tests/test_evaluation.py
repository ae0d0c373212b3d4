"""Scores, intervals and tests, against scikit-learn, published examples and slow plain versions."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import TINY
from plain_scores import by_sklearn, messy_predictions, predictions
from scipy.stats import binom, norm
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_auc_score

from fedmed.evaluation.bootstrap import Scored, interval, resamples, score
from fedmed.evaluation.comparison import compare, holm
from fedmed.evaluation.delong import areas
from fedmed.evaluation.predictions import Predictions
from fedmed.evaluation.ranked import Ranked
from fedmed.evaluation.subgroups import LEAST, subgroups
from fedmed.runs.cost import to_reach


def binormal(
    rng: np.random.Generator, patients: int, shifts: Sequence[float], shared: float = 0.7
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw scores of one finding by models of growing skill, alike within a patient, in (0, 1)."""
    whose = np.repeat(np.arange(patients), rng.integers(1, 6, patients))
    ill = rng.random(patients) < 0.4
    labels = (ill[whose] ^ (rng.random(len(whose)) < 0.1)).astype(np.float32)
    own = rng.normal(size=(patients, 1))[whose] * shared**0.5
    noise = own + rng.normal(size=(len(whose), len(shifts))) * (1 - shared) ** 0.5
    return norm.cdf((noise + labels[:, None] * np.array(shifts)) / 3), labels, whose


@pytest.fixture
def messy() -> Predictions:
    """Ties, labels that are not known, a finding of one class, one that nobody knows."""
    return messy_predictions()


def test_scores_are_scikit_learns(messy: Predictions) -> None:
    found = score(messy, replicates=0)
    assert found.findings == ("a", "b")
    slow = []
    for i, finding in enumerate(found.findings):
        known = ~np.isnan(messy.labels[:, i])
        slow.append(by_sklearn(messy.scores[known, i].astype(float), messy.labels[known, i]))
        for metric, value in slow[-1].items():
            assert found.value(metric, finding) == pytest.approx(value, abs=1e-6), metric
    assert found.value("auroc") == pytest.approx(np.mean([s["auroc"] for s in slow]), abs=1e-6)


def test_a_replicate_is_the_images_of_the_drawn_patients(messy: Predictions) -> None:
    found, whose = score(messy, replicates=40), messy.patients
    weights, _ = resamples(int(whose.max()) + 1, 40, seed=0)
    assert (weights.sum(axis=0) == whose.max() + 1).all()
    for draw in (0, 31):
        rows = np.repeat(np.arange(len(whose)), weights[whose, draw].astype(int))
        rows = rows[~np.isnan(messy.labels[rows, 1])]
        slow = by_sklearn(messy.scores[rows, 1].astype(float), messy.labels[rows, 1])
        for metric, value in slow.items():
            assert found.drawn(metric, "b")[draw] == pytest.approx(value, abs=1e-6), metric


def test_reliability_curve(messy: Predictions) -> None:
    known = ~np.isnan(messy.labels[:, 0])
    truth, scores = messy.labels[known, 0], messy.scores[known, 0].astype(float)
    curve = Ranked(messy.scores[:, 0], messy.labels[:, 0], messy.patients, 150).reliability()
    observed, mean = calibration_curve(truth, scores, n_bins=10)
    assert curve["observed"] == pytest.approx(observed)
    assert curve["score"] == pytest.approx(mean)
    assert sum(curve["images"]) == known.sum()


def test_intervals_cover_and_images_would_not() -> None:
    """The true AUROC lies in 95 % of the intervals over patients, in far fewer over images."""
    rng, truth = np.random.default_rng(0), norm.cdf(1 / 2**0.5)
    covered = np.zeros(2, int)
    for _ in range(150):
        scores, labels, whose = binormal(rng, 80, [1.0])
        for way, units in enumerate((whose, np.arange(len(whose)))):
            drawn = score(predictions(scores, labels[:, None], units), 200).drawn("auroc")
            low, high = interval(drawn)
            covered[way] += low <= truth <= high
    assert binom.cdf(covered[0], 150, 0.95) > 1e-3
    assert covered[0] < 150
    assert binom.cdf(covered[1], 150, 0.95) < 1e-6


#: DeLong et al. 1988: albumin, total protein, K-G score and surgery's success of the 43 complete
#: patients, as the SAS/STAT User's Guide prints them (LOGISTIC, "Comparing Receiver Operating
#: Characteristic Curves").
SURGERY = """
3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0
1.6 5.6 5 1   3.8 5.7 5 1  3.7 6.7 6 1  3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1
4.3 7.0 4 1   3.6 6.7 4 0  2.3 4.4 6 1  4.2 7.6 4 0  4.0 6.6 6 0  3.5 5.8 6 1  3.8 6.8 7 1
3.0 4.7 8 0   4.5 7.4 5 1  3.7 7.4 5 1  3.1 6.6 6 1  4.1 8.2 6 1  4.3 7.0 5 1  4.3 6.5 4 1
3.2 5.1 5 1   2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0  3.7 6.1 5 1  3.3 6.3 7 1  4.2 7.7 6 1
3.5 6.2 5 1   2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1  3.3 5.7 6 1  3.7 6.9 5 1
3.6 6.6 5 1
"""


def test_delong_is_the_published_one() -> None:
    data = np.array(SURGERY.split(), float).reshape(-1, 4)
    tests = {"K-G": 10 - data[:, 2], "protein": data[:, 1], "albumin": data[:, 0]}
    labels = data[:, 3:].astype(np.float32)
    models = [predictions(t[:, None], labels, range(len(data))) for t in tests.values()]
    found = areas(models, ["a"])
    errors = np.sqrt(np.diag(found.covariance))
    assert found.auroc[:2, 0].round(4).tolist() == [0.7258, 0.6478]
    assert errors[:2].round(4).tolist() == [0.1028, 0.1000]
    difference, error, p = found.contrast(np.array([[-1.0], [1.0], [0.0]]))
    assert (round(difference, 4), round(error, 4), round(p, 4)) == (-0.0780, 0.1046, 0.4561)
    contrast = np.array([[-1.0, 1.0, 0.0], [-1.0, 0.0, 1.0]])
    apart = contrast @ found.auroc[:, 0]
    chi_square = apart @ np.linalg.solve(contrast @ found.covariance @ contrast.T, apart)
    assert round(float(chi_square), 4) == 2.5340


def obuchowski(scores: np.ndarray, labels: np.ndarray, whose: np.ndarray) -> np.ndarray:
    """Return the covariance of two AUROCs by the sums of Obuchowski 1997, one pair at a time."""
    positive, negative = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    people = np.unique(whose)
    sums = []
    for s in scores.T:
        wins = np.array(
            [[(s[i] > s[j]) + 0.5 * (s[i] == s[j]) for j in negative] for i in positive]
        )
        area = wins.mean()
        v10 = [sum(wins[whose[positive] == k].mean(axis=1) - area) for k in people]
        v01 = [sum(wins[:, whose[negative] == k].mean(axis=0) - area) for k in people]
        sums.append((np.array(v10), np.array(v01)))
    i10, i01, i = len(set(whose[positive])), len(set(whose[negative])), len(people)
    m, n = len(positive), len(negative)
    return np.array(
        [
            [
                i10 / (i10 - 1) * (x10 @ y10) / m**2
                + i01 / (i01 - 1) * (x01 @ y01) / n**2
                + i / (i - 1) * (x10 @ y01 + x01 @ y10) / (m * n)
                for y10, y01 in sums
            ]
            for x10, x01 in sums
        ]
    )


def test_clustered_covariance_is_obuchowskis_summed_slowly() -> None:
    scores, labels, whose = binormal(np.random.default_rng(1), 40, [0.5, 1.0])
    scores = scores.round(1)
    models = [predictions(s[:, None], labels[:, None], whose) for s in scores.T]
    assert areas(models, ["a"]).covariance == pytest.approx(obuchowski(scores, labels, whose))


def test_both_tests_keep_their_level_and_find_what_is_there() -> None:
    rng, better = np.random.default_rng(2), {"bootstrap": 0, "delong": 0}
    wrong = better.copy()
    for _ in range(120):
        scores, labels, whose = binormal(rng, 80, [0.5, 0.5, 1.5])
        models = [score(predictions(s[:, None], labels[:, None], whose), 200) for s in scores.T]
        for test in ("bootstrap", "delong"):
            wrong[test] += compare([models[1]], [models[0]], "auroc", test=test).p < 0.05
            better[test] += compare([models[2]], [models[0]], "auroc", test=test).p < 0.05
    for test, times in wrong.items():
        assert binom.sf(times - 1, 120, 0.05) > 1e-3, test
        assert better[test] > 110


def test_macro_difference_over_seeds_has_the_bootstraps_error() -> None:
    """DeLong's error of a difference of means over findings and seeds is the bootstrap's."""
    rng, runs = np.random.default_rng(3), []
    drawn = [binormal(rng, 300, [0.5, 0.6, 0.9, 1.0]) for _ in range(1)]
    scores, labels, whose = drawn[0]
    other = (labels != (rng.random(len(labels)) < 0.3)).astype(np.float32)
    both = np.stack([labels, other], axis=1)
    for s in scores.T:
        second = norm.cdf(rng.normal(size=len(s)) + other)
        runs.append(score(predictions(np.stack([s, second], axis=1), both, whose), 1000))
    slow = compare(runs[2:], runs[:2], "auroc")
    fast = compare(runs[2:], runs[:2], "auroc", test="delong")
    assert fast.difference == pytest.approx(slow.difference)
    assert fast.high - fast.low == pytest.approx(slow.high - slow.low, rel=0.12)


def test_holm_corrects_step_by_step() -> None:
    assert holm([0.01, 0.04, float("nan"), 0.03]) == pytest.approx(
        [0.03, 0.06, float("nan"), 0.06], nan_ok=True
    )


def test_subgroups_are_compared_on_what_all_of_them_show() -> None:
    rng, n = np.random.default_rng(4), 600
    labels = (rng.random((n, 2)) < 0.4).astype(np.float32)
    sex = np.array(["F", "M"], object)[rng.integers(0, 2, n)]
    noise = np.where(sex == "F", 1.5, 0.3)[:, None] * rng.normal(size=(n, 2))
    labels[:, 1] = np.where(
        sex == "F", 0, labels[:, 1]
    )  # b is unseen in F: it is no part of the gap
    site = np.where(np.arange(n) < LEAST, "small", "large")
    age = np.where(np.arange(n) < 50, np.nan, 50.0 + 20 * (np.arange(n) % 2))
    given = predictions(norm.cdf(labels + noise), labels, range(n), sex=sex, site=site, age=age)
    found = subgroups(given)
    of_sex = found["by"]["sex"]
    assert of_sex["findings"] == ["a"]
    assert of_sex["worst"] == "F"
    women = sex == "F"
    plain = [roc_auc_score(labels[w, 0], given.scores[w, 0]) for w in (women, ~women)]
    assert of_sex["gap"] == pytest.approx(plain[1] - plain[0])
    assert found["by"]["site"]["too_small"] == ["small"]
    assert found["by"]["site"]["gap"] is None
    assert set(found["by"]["age"]["macro_auroc"]) == {"40-59", "60-79"}
    assert "M & 60-79" in found["by"]["sex & age"]["macro_auroc"]
    assert found["worst"]["macro_auroc"] <= plain[0]


def test_a_run_says_how_sure_it_is_and_what_it_took(
    launch: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    summary = launch(*TINY)
    test, folder = summary["test"], tmp_path / "run"
    given = Predictions.read(folder / "predictions.parquet")
    table = pd.read_parquet(folder / "table.parquet").set_index("image")
    for name in ("patient", "site", "view", "sex", "age"):
        mine = table.loc[given.images["image"], name].tolist()
        assert given.images[name].fillna(-1).tolist() == pd.Series(mine).fillna(-1).tolist()
    again: Scored = score(given)
    assert test["macro_auroc"] == again.value("auroc")
    low, high = test["intervals"]["macro_auroc"]
    assert low < test["macro_auroc"] < high
    assert test["intervals"]["patients"] == summary["patients"]["test"]
    rows = pd.read_csv(folder / "metrics.csv")
    curve = rows.query("scope == 'test' and metric == 'macro_auroc'")["value"]
    spent = to_reach(folder, curve.iloc[-1])
    assert spent is not None
    assert spent.rounds == int(np.argmax(curve >= curve.iloc[-1]))
    whole = to_reach(folder, -1) or pytest.fail("reached at the start")
    assert whole.rounds == whole.bytes_up == 0
    assert to_reach(folder, 1.1) is None
    cost = rows.query("scope == 'cost'").groupby("metric")["value"].sum()
    assert cost["bytes_up"] == summary["bytes_up"]
    assert cost["bytes_down"] == summary["bytes_down"]
