"""Recorded runs and the tables that were made of them.

``python tests/golden.py`` makes the tables anew, to be looked at as a diff and committed.
``python tests/golden.py runs`` trains the runs anew before: after a change of what a run leaves.

The runs are of drawn phantoms, so that no patient is in them, and are kept as text: the predictions
are CSV here, and what tells of this machine or of other files (``_LEFT_OUT``) is not there.
"""

import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import chdir
from pathlib import Path

import pandas as pd
from omegaconf import OmegaConf

from fedmed import config as cfg
from fedmed.cli import table
from fedmed.evaluation.predictions import Predictions
from fedmed.experiment.run import run
from fedmed.runs.console import Console
from fedmed.runs.directory import RunDirectory
from fedmed.runs.evaluations import Attack, evaluate
from fedmed.runs.run import Run

RECORDED = Path(__file__).parent / "recorded"
ENDS = (".md", ".tex", ".csv", ".cells.csv")
PUBLIC = ["--where", "privacy=none"]
#: By their names, what ``fedmed table`` is asked for.
TABLES = {
    "strategies": [
        *("--rows", "strategy=fedavg,fedprox,fedadam", "--columns", "partition"),
        *("--baseline", "strategy=fedavg", *PUBLIC),
    ],
    "privacy": ["--table", "privacy", "--where", "strategy=fedavg"],
    "cost": [
        *("--rows", "privacy=none,dpsgd", "--value", "test.auroc.view", "privacy.epsilon"),
        *("--where", "strategy=fedavg", "--baseline", "privacy=none"),
    ],
    "figures": [
        *("--rows", "strategy", "dataset.targets", "--value", "test.auroc.view", "bytes_up"),
        *("--baseline", "strategy=fedavg", "--test", "delong", *PUBLIC),
    ],
    "best": ["--rows", "strategy", "--select", "best-validation", *PUBLIC],
}
SMALL = (
    *("dataset.patients=200", "dataset.sites=3", "dataset.size=32", "rounds=3"),
    *("dataset.targets=[Effusion,view]", "partition=iid", "partition.clients=3"),
    *("client.batch_size=16", "tracking.mode=disabled", "runner.workers=0", "runner.device=cpu"),
)
_RUNS = {
    "fedavg-0": ("strategy=fedavg", "seed=0"),
    "fedavg-1": ("strategy=fedavg", "seed=1"),
    "fedprox-0": ("strategy=fedprox", "seed=0"),
    "fedavg-private": ("strategy=fedavg", "privacy=dpsgd", "privacy.noise_multiplier=0.8"),
}
_FAILED = {"fedprox-1": ("strategy=fedprox", "seed=1")}
_LEFT_OUT = ("files", "time", "versions", "workers")


def restore(into: Path) -> None:
    """Put the recorded runs where a table can be made of them: a folder that is not there yet."""
    shutil.copytree(RECORDED / "runs", into)
    for path in into.glob("*/predictions.csv"):
        pd.read_csv(path).to_parquet(path.with_suffix(".parquet"), index=False)


def make(names: Sequence[str]) -> None:
    """Make tables of the runs in ``runs``, here."""
    for name in names:
        table.main(["runs", *TABLES[name], "--out", name])


class Audited(Attack):
    """What an audit leaves, at a known bound."""

    name = "audit"
    access = "nothing: this bound is made up"

    def __call__(self, run: Run) -> dict[str, float]:
        """Return the bound."""
        return {"epsilon": 1.37}


def _train(name: str, overrides: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as scratch, Console() as console:
        folder = Path(scratch) / "run"
        run([*SMALL, *overrides, f"store={scratch}/store"], folder, console)
        here = _begin(name, overrides)
        predictions = Predictions.read(folder / "predictions.parquet")
        predictions.frame().to_csv(here.path / "predictions.csv", index=False)
        shutil.copy(folder / "metrics.csv", here.path)
        summary = RunDirectory(folder).summary() or {}
        here.write_summary({k: v for k, v in summary.items() if k not in _LEFT_OUT})
    if "privacy=dpsgd" in overrides:
        evaluate(Audited(), Run(here.path))
        (here.path / ".lock").unlink()


def _fail(name: str, overrides: Sequence[str]) -> None:
    config = cfg.compose([*SMALL, *overrides])
    which = {"run_id": config.sha256[:16], "name": config.name, "config_sha256": config.sha256}
    error = {"status": "failed", "error": "ClientFailure: client 1 & 2 returned 100 % NaN | _ *"}
    _begin(name, overrides).write_summary(which | error)


def _begin(name: str, overrides: Sequence[str]) -> RunDirectory:
    """Return a new recorded directory, with its configuration and no more of Hydra's than read."""
    here = RunDirectory(RECORDED / "runs" / name)
    here.path.mkdir(parents=True)
    files = cfg.record([*SMALL, *overrides, "store=store"])
    choices = files["hydra.yaml"].hydra.runtime.choices
    kept = OmegaConf.create({"hydra": {"runtime": {"choices": choices}}})
    here.write_configuration(files | {"hydra.yaml": kept})
    return here


if __name__ == "__main__":
    if sys.argv[1:] == ["runs"]:
        shutil.rmtree(RECORDED / "runs", ignore_errors=True)
        for name, overrides in _RUNS.items():
            _train(name, overrides)
        for name, overrides in _FAILED.items():
            _fail(name, overrides)
    with tempfile.TemporaryDirectory() as scratch:
        restore(Path(scratch) / "runs")
        with chdir(scratch):
            make(list(TABLES))
        for name in TABLES:
            for end in ENDS:
                shutil.copy(Path(scratch) / (name + end), RECORDED)
