"""Tables of real runs: every figure is a run directory's, and what is not there is seen."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import TINY, summary, swept
from sklearn.metrics import roc_auc_score

from fedmed.config import CONF
from fedmed.core.errors import FedmedError
from fedmed.evaluation.predictions import Predictions
from fedmed.report.page import page
from fedmed.report.render import latex, markdown, write
from fedmed.report.table import Settings, build
from fedmed.runs.directory import RunDirectory
from fedmed.runs.run import Run, find

SWEEP = (*TINY, "rounds=2", "partition.alpha=1")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """FedAvg and FedProx with seeds 0 and 1; FedProx with seed 1 fails: its data have changed."""
    folder = tmp_path_factory.mktemp("sweep")
    for strategy in ("fedavg", "fedprox"):
        for seed in (0, 1):
            swept(folder, *SWEEP, f"strategy={strategy}", f"seed={seed}")
    (last,) = [r for r in find([folder]) if (r.choices["strategy"], r.seed) == ("fedprox", 1)]
    (last.folder / "summary.json").unlink()
    changed = ("strategy=fedprox", "seed=1", "dataset.patients=130")
    with pytest.raises(FedmedError, match="was made with another data"):
        swept(folder, *SWEEP, *changed, into=last.folder)
    return find([folder])


def settings(**more: object) -> Settings:
    return Settings.model_validate({"rows": ["strategy"]} | more)


def test_cells_hold_what_the_runs_say(runs: list[Run], tmp_path: Path) -> None:
    table = build(runs, settings(columns=["partition.alpha"], baseline={"strategy": "fedavg"}))
    fedavg, fedprox = table.cells
    said = [summary(run.folder)["test"]["macro_auroc"] for run in fedavg.finished]
    mean, error = np.mean(said), abs(said[0] - said[1]) / 2
    assert fedavg.text.startswith(f"{mean:.3f} ± {error:.3f}")
    assert fedprox.text.endswith("(1 of 2 seeds, 1 failed)")
    assert fedprox.interval[0] < fedprox.values["test.macro_auroc"][0] < fedprox.interval[1]
    assert fedprox.comparison is not None
    one, base = (cell.finished[0].folder for cell in (fedprox, fedavg))
    apart = summary(one)["test"]["macro_auroc"] - summary(base)["test"]["macro_auroc"]
    assert fedprox.comparison.difference == pytest.approx(apart)
    assert fedprox.p == fedprox.comparison.p  # of one test
    trace = table.trace()
    assert trace["status"].tolist() == ["finished", "finished", "finished", "failed"]
    assert "another data" in str(trace["error"].iloc[3])
    for line in trace[trace["status"] == "finished"].itertuples():
        kept = summary(Path(str(line.folder)))
        assert (line.run_id, line.model_sha256) == (kept["run_id"], kept["model_sha256"])
        assert line.partition_sha256 == kept["partition_sha256"]
    paths = write(table, tmp_path / "out" / "table")
    assert paths[-1].name == "table.cells.csv"
    assert pd.read_csv(paths[2])["partition.alpha=1"].tolist() == [c.text for c in table.cells]
    assert markdown(table).splitlines()[0] == "| strategy | partition.alpha=1 |"
    assert r"$\pm$" in latex(table)
    assert "Mean ± standard error over 2 seeds" in markdown(table)


def test_what_nobody_ran_and_what_failed_is_seen(runs: list[Run]) -> None:
    asked = settings(rows=["strategy=fedprox,krum"], columns=["seed"], value=["test.auroc.view"])
    table = build(runs, asked)
    assert [cell.text for cell in table.cells][1:] == ["failed", "missing", "missing"]
    (first,) = table.cells[0].finished
    kept = Predictions.read(first.folder / "predictions.parquet")
    at = kept.targets.index("view")
    known = ~np.isnan(kept.labels[:, at])
    score = roc_auc_score(kept.labels[known, at], kept.scores[known, at])
    assert table.cells[0].values["test.auroc.view"][0] == pytest.approx(score, abs=1e-6)


def test_the_selection_rule_is_named_and_an_oracle_is_called_one(runs: list[Run]) -> None:
    done = [run for run in runs if run.status == "finished"]
    tables = {rule: build(done, settings(select=rule)) for rule in ("last", "oracle")}
    best = build(done, settings(select="best-validation"))
    assert "ORACLE" not in " ".join(best.caption + tables["last"].caption)
    assert "ORACLE" in tables["oracle"].caption[0]
    for cell in best.cells:
        values = cell.values["test.macro_auroc"]
        for one, round_, value in zip(cell.finished, cell.rounds, values, strict=True):
            rows = one.metrics.query("metric == 'macro_auroc'")
            val = rows.query("scope == 'val' and round > 0").groupby("round")["value"].mean()
            assert val[round_] == val.max()
            test = rows.query("scope == 'test'").set_index("round")["value"]
            assert value == pytest.approx(test[round_])
    for best_of, last in zip(tables["oracle"].cells, tables["last"].cells, strict=True):
        assert best_of.values["test.macro_auroc"] >= last.values["test.macro_auroc"]


def test_means_over_other_findings_are_told_apart(runs: list[Run], tmp_path: Path) -> None:
    """Whose mean lacks the hard finding would come out first."""
    done = [run for run in runs if run.status == "finished"][:2]
    for run in done:
        whole = RunDirectory(run.folder).summary()
        assert whole is not None
        test = dict(whole["test"])
        if run is done[1]:
            test["auroc"] = dict(list(test["auroc"].items())[1:])
        folder = tmp_path / run.folder.name
        shutil.copytree(run.folder, folder)
        RunDirectory(folder).write_summary({**whole, "test": test})
    two = find([tmp_path])
    (hard,) = set(two[0].summary["test"]["auroc"]) ^ set(two[1].summary["test"]["auroc"])
    told = f"over different findings and cannot be compared: not all of them have {hard}"
    assert told in " ".join(build(two, settings()).caption)
    assert told in page(two, [])
    assert told not in page(runs, [])
    assert "different findings" not in " ".join(build(runs, settings()).caption)
    one = f"test.auroc.{next(iter(two[1].summary['test']['auroc']))}"
    assert "different findings" not in " ".join(build(two, settings(value=[one])).caption)


def test_runs_that_differ_in_more_than_the_seed_are_not_averaged(runs: list[Run]) -> None:
    done = [run for run in runs if run.status == "finished"]
    with pytest.raises(FedmedError, match=r"differ in .*strategy\.\w+.*name it in --rows"):
        build(done, settings(rows=["partition.alpha"]))
    with pytest.raises(FedmedError, match="nonsense: unknown key"):
        build(done, settings(rows=["nonsense"]))


def test_claimed_and_audited_epsilon_share_a_cell(runs: list[Run], tmp_path: Path) -> None:
    """As the ledger and ``fedmed audit`` record them."""
    public = next(run for run in runs if run.status == "finished")
    private = tmp_path / "private"
    shutil.copytree(public.folder, private)
    told = summary(private) | {"privacy": {"unit": "patient", "epsilon": 4.0, "delta": 1e-5}}
    told.pop("sha256")  # of what it said before
    RunDirectory(private).write_summary(told)
    left = {"format": 1, "model_sha256": told["model_sha256"], "access": None, "section": None}
    (private / "evaluations").mkdir()
    written = json.dumps(left | {"result": {"epsilon": 1.37}})
    (private / "evaluations" / "audit.json").write_text(written)
    value = ["privacy.epsilon", "audit.epsilon"]
    assert build([Run(private)], settings(value=value)).cells[0].text == "4.000 / 1.370"
    assert build([public], settings(value=value)).cells[0].text == "– / –"


@pytest.mark.parametrize("path", sorted((CONF / "table").glob("*.yaml")))
def test_committed_settings_are_valid(path: Path) -> None:
    Settings.model_validate(yaml.safe_load(path.read_text()))


def test_command_line(runs: list[Run], tmp_path: Path) -> None:
    folder = runs[0].folder.parent
    script = [sys.executable, "-m", "fedmed.cli", "table", str(folder)]
    named = [*script, "--table", "strategies", "--out", "t/main", "--wandb", "offline"]
    done = subprocess.run(named, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "1 of 2 seeds, 1 failed" in done.stdout
    (file,) = tmp_path.glob("t/wandb/offline-run-*/run-*.wandb")
    assert str(folder).encode() not in file.read_bytes()
    (media,) = tmp_path.glob("t/wandb/offline-run-*/files/media/table/*.json")
    logged = json.loads(media.read_text())
    assert [row[0] for row in logged["data"]] == ["fedavg", "fedprox"]
    wrong = [*script, "--rows", "strategy", "--baseline", "seed=0"]
    done = subprocess.run(wrong, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--baseline: seed is no key of --rows or --columns" in done.stderr
