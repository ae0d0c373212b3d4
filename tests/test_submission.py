"""Anyone's predictions are scored as a run's are, or refused in one line."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from plain_scores import by_sklearn, messy_predictions

from fedmed.evaluation.predictions import Predictions


@pytest.fixture
def messy() -> Predictions:
    """Ties, labels that are not known, a finding of one class, one that nobody knows."""
    return messy_predictions()


@pytest.fixture
def submission(
    tmp_path: Path, messy: Predictions
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Score files as a user would, changed as a test asks."""

    def submit(
        *options: str, scores: Any = None, truth: Any = None
    ) -> subprocess.CompletedProcess[str]:
        names = list(messy.targets)
        given = pd.DataFrame(messy.scores, columns=names).assign(image=messy.images["image"])
        labels = pd.DataFrame(messy.labels, columns=names).join(messy.images)
        given, labels = (
            change(frame) if change else frame
            for change, frame in ((scores, given.sample(frac=1, random_state=0)), (truth, labels))
        )
        given.to_csv(tmp_path / "scores.csv", index=False)
        labels.to_parquet(tmp_path / "labels.parquet")
        files = ["--predictions", "scores.csv", "--labels", "labels.parquet"]
        command = [sys.executable, "-m", "fedmed.cli", "score", *files, *options]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    return submit


def test_score_is_scikit_learns(
    submission: Callable[..., subprocess.CompletedProcess[str]], messy: Predictions, tmp_path: Path
) -> None:
    done = submission("--out", "scores.csv", "--replicates", "50")
    assert done.returncode == 0, done.stderr
    assert "one class only, not scored: c, d" in done.stdout
    rows = pd.read_csv(tmp_path / "scores.csv").set_index(["finding", "metric"])
    for i, finding in enumerate("ab"):
        known = ~np.isnan(messy.labels[:, i])
        slow = by_sklearn(messy.scores[known, i].astype(float), messy.labels[known, i])
        for metric, value in slow.items():
            assert rows["value"][(finding, metric)] == pytest.approx(value, abs=1e-6)
    assert rows["low"][("macro", "auroc")] < rows["value"][("macro", "auroc")]
    head, first, *_ = done.stdout.splitlines()
    ends = {name: head.index(name) + len(name) for name in head.replace("ts with", "ts").split()}
    for name, metric in (
        ("accuracy", "accuracy"),
        ("Brier", "brier"),
        ("sens@90%", "sensitivity_at_90_specificity"),
    ):
        figure = first[: ends[name]].split()[-1]  # columns are flush right
        assert figure == f"{rows['value'][('a', metric)]:.3f}"


def test_findings_that_nobody_predicts_are_told(
    submission: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """Else a mean without the hard one looks like a mean of all."""
    few = ("--replicates", "9")
    hidden = submission("--out", "s.json", *few, scores=lambda f: f.drop(columns="b"))
    assert "in the labels, predicted by nobody, in no mean: b\n" in hidden.stdout
    assert json.loads((tmp_path / "s.json").read_text())["not_predicted"] == ["b"]
    whole = submission(*few, truth=lambda f: f.assign(note="x", count=7))
    assert "predicted by nobody" not in whole.stdout


def test_bad_submissions_end_in_one_line(tmp_path: Path, messy: Predictions) -> None:
    from fedmed.core.errors import DataError
    from fedmed.evaluation.submission import read

    def refused(scores: str, labels: str, said: str) -> None:
        (tmp_path / "s.csv").write_text(scores)
        (tmp_path / "l.csv").write_text(labels)
        with pytest.raises(DataError) as error:
            read(tmp_path / "s.csv", tmp_path / "l.csv")
        assert said in str(error.value)
        assert "\n" not in str(error.value)

    labels = "image,a\nx,1\ny,0\n"
    refused("image,a\nx,0.5\n", labels, "lacks 1 of the 2 ids in")
    refused("image,a\nx,0.5\ny,0.1\nz,0.2\n", labels, "the first is z")
    refused("image,a\nx,0.5\ny,0.1\nx,0.2\n", labels, "image x stands in more than one row")
    refused("image,b\nx,0.5\ny,0.1\n", labels, "unknown column b; ")
    refused("image,a\nx,0.5\ny,1.2\n", labels, "a of image y is 1.2: probabilities lie in 0…1")
    refused("image,a\nx,0.5\ny,\n", labels, "a of image y is nan: probabilities lie in 0…1")
    refused("image,a\nx,0.5\ny,0\n", "image,a\nx,1\ny,2\n", "a of image y is 2: labels are 0, 1 or")
    refused("image,a\nx,0.5\ny,0\n", "image,a\nx,1\ny,yes\n", "a of image y is yes: labels are")
    refused("file,a\nx,0.5\n", labels, "has no column image; name the column of ids by --id")
    with pytest.raises(DataError, match="there is no such file"):
        read(tmp_path / "none.csv", tmp_path / "l.csv")
    (tmp_path / "s.csv").write_text("image,a\ny,0.5\nx,0.1\n")
    given = read(tmp_path / "s.csv", tmp_path / "l.csv")
    assert given.images["patient"].tolist() == ["x", "y"]
    assert given.scores[:, 0].tolist() == [0.1, 0.5]
