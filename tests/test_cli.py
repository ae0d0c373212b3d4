"""``fedmed``: every command is there, light until it works, and runs from anywhere."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import pytest
import yaml
from conftest import ROOT, TINY, swept
from hydra.utils import get_object

from fedmed.cli import score
from fedmed.cli.main import COMMANDS
from fedmed.cli.table import SELECT, TESTS
from fedmed.config import CONF
from fedmed.data.card import Card, cards
from fedmed.evaluation.bootstrap import REPLICATES
from fedmed.evaluation.comparison import Test
from fedmed.evaluation.predictions import Predictions
from fedmed.runs.run import Run
from fedmed.runs.selection import Rule

HEAVY = ("torch", "monai", "flwr", "pandas")
Done = subprocess.CompletedProcess[str]
Command = Callable[..., Done]


def call(*arguments: object, folder: Path, **environment: str) -> Done:
    return subprocess.run(
        [*map(str, arguments)],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def fedmed(tmp_path: Path, store: Path) -> Command:
    """The command, in an empty folder outside of the checkout."""

    def run(*arguments: object, **environment: str) -> Done:
        command = [sys.executable, "-m", "fedmed.cli", *arguments]
        wide = {"COLUMNS": "300", "FEDMED_STORE": str(store)}
        return call(*command, folder=tmp_path, **wide | environment)

    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two runs, which differ by their seed."""
    folder = tmp_path_factory.mktemp("runs")
    small = [*TINY, "dataset.targets=[Cardiomegaly,Effusion]", "rounds=1"]
    for seed in (0, 1):
        swept(folder, *small, "model.network.block_config=[1]", f"seed={seed}")
    return folder / "runs"


@pytest.mark.parametrize(
    "asked", [[], ["--help"], ["--version"], ["datasets"], ["datasets", "show", "nih"], ["tabel"]]
)
def test_what_needs_no_training_imports_nothing_of_it(asked: list[str], tmp_path: Path) -> None:
    code = (
        "import sys\nfrom fedmed.cli.main import main\n"
        f"try:\n    main({asked!r})\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    assert call(sys.executable, "-c", code, folder=tmp_path).stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_each_tells_what_it_takes_at_once(name: str, tmp_path: Path) -> None:
    code = (
        "import atexit, sys\nfrom fedmed.cli.main import main\n"
        f"atexit.register(lambda: print([name for name in {HEAVY!r} if name in sys.modules]))\n"
        f"main([{name!r}, '--help'])"
    )
    done = call(sys.executable, "-c", code, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"fedmed {name}" in done.stdout.splitlines()[0]
    assert done.stdout.splitlines()[-1] == "[]"


def test_overview_names_every_command_there_is(fedmed: Command) -> None:
    done = fedmed()
    assert done.returncode == 0
    assert done.stdout == fedmed("--help").stdout == fedmed("help").stdout
    files = {path.stem for path in (ROOT / "fedmed" / "cli").glob("*.py")}
    assert files - {"__init__", "__main__", "arguments", "help", "main"} == {
        name.replace("-", "_") for name in COMMANDS
    }
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ("tabel", "tabel: unknown command; did you mean table?"),
        ("xyzzy", "xyzzy: unknown command; there are run, sweep, table"),
        ("run --help strategyy", "--help strategyy: unknown group; did you mean strategy?"),
        ("datasets show nobody", "there is no dataset nobody; there are brax"),
        ("table nowhere", "nowhere: no run directory in it"),
        ("score --predictions p --labels l --out x.doc", "--out: its name ends in .json, .csv"),
    ],
)
def test_bad_input_ends_in_one_line(asked: str, line: str, fedmed: Command) -> None:
    done = fedmed(*asked.split())
    assert done.returncode == 2
    assert done.stderr.startswith(f"fedmed: {line}")
    assert (done.stderr.count("\n"), done.stdout) == (1, "")


@pytest.mark.parametrize("script", sorted(p.name for p in (ROOT / "scripts").glob("*.py")))
def test_scripts_that_became_commands_still_work(script: str, tmp_path: Path) -> None:
    if "fedmed.cli" not in (ROOT / "scripts" / script).read_text():
        return
    done = call(sys.executable, ROOT / "scripts" / script, "--help", folder=tmp_path)
    assert done.stdout.startswith("usage: fedmed "), done.stderr


def test_help_of_one_group_tells_its_keys_defaults_and_choices(fedmed: Command) -> None:
    done = fedmed("run", "--help", "strategy")
    assert done.returncode == 0
    assert done.stdout == fedmed("help", "strategy").stdout
    told = [line.split() for line in done.stdout.splitlines()]
    choices = {path.stem for path in (CONF / "strategy").glob("*.yaml")}
    assert choices == {words[0] for words in told[1:] if words[0] in choices}
    assert ["strategy.mu", "=", "0.01"] in [words[:3] for words in told]
    assert "client.lr" not in done.stdout


def test_choices_are_those_of_the_table() -> None:
    assert get_args(Rule) == SELECT
    assert get_args(Test) == TESTS
    asked = ["--predictions", "p", "--labels", "l"]
    assert score.parser().parse_args(asked).replicates == REPLICATES


def test_every_published_dataset_has_its_card() -> None:
    """As the class has it, for what takes no class; and no card is left over."""
    found = {}
    for path in (CONF / "dataset").glob("*.yaml"):
        target = get_object(yaml.safe_load(path.read_text())["_target_"])
        if isinstance(card := getattr(target, "card", None), Card):
            found[path.stem] = card
    assert found == cards()


def complete(script: str, line: str, folder: Path) -> list[str]:
    """Return what a real bash would offer for a line that is typed as far as its end."""
    typed = f'{script}\nCOMP_LINE="{line}" COMP_POINT=${{#COMP_LINE}}\n'
    ask = 'COMP_POINT=${#COMP_LINE}; _fedmed 2> /dev/null; printf "%s\\n" "${COMPREPLY[@]}"'
    return call("bash", "-c", typed + ask, folder=folder).stdout.split()


def test_bash_completes(fedmed: Command, tmp_path: Path) -> None:
    script = fedmed("completion", "bash").stdout
    assert set(complete(script, "fedmed ", tmp_path)) == set(COMMANDS)
    assert complete(script, "fedmed da", tmp_path) == ["datasets"]
    assert complete(script, "fedmed table --ro", tmp_path) == ["--rows"]
    assert complete(script, "fedmed sweep wandb strategy=fedm", tmp_path) == ["fedmedian"]
    assert complete(script, "fedmed run +experiment=qui", tmp_path) == ["quickstart"]
    assert complete(script, "fedmed run seed=1 client.l", tmp_path) == ["client.lr="]
    choices = {path.stem for path in (CONF / "privacy").glob("*.yaml")}
    assert set(complete(script, "fedmed run privacy=", tmp_path)) == choices


@pytest.mark.optional
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_of_the_shell(shell: str, fedmed: Command, tmp_path: Path) -> None:
    (tmp_path / "script").write_text(script := fedmed("completion", shell).stdout)
    assert "quickstart" in script
    try:
        done = call(shell, "-n", "script", folder=tmp_path)
    except FileNotFoundError:
        pytest.skip(f"no {shell} here")
    assert (done.returncode, done.stderr) == (0, "")


def test_run(fedmed: Command, tmp_path: Path) -> None:
    """By the command and by the module it is one run."""
    small = [*TINY, "rounds=1", "model.network.block_config=[1]", "hydra.run.dir=here"]
    done = fedmed("run", *small)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "here" / "summary.json").exists()
    again = call(sys.executable, "-m", "fedmed.run", *small, "name=other", folder=tmp_path)
    assert "here is finished; force=true runs it again" in again.stdout
    idle = "tracking.mode=disabled runner.workers=0 name=other"
    assert f"not looked at, since they decide no result: {idle}" in again.stdout.replace("\n", " ")
    refused = fedmed("run", "client.lr=-1")
    assert refused.stderr == "fedmed: client.lr: input should be greater than 0, got -1\n"
    assert refused.returncode == 2


def test_commands_about_runs(runs: Path, fedmed: Command, tmp_path: Path) -> None:
    asked: dict[str, list[Any]] = {
        "| fedavg | 0.": ["table", runs, "--rows", "strategy"],
        "wrote report.html: 2 runs": ["report", runs],
        "AUC": ["audit", next(runs.iterdir())],
        "label_counts.csv": ["release", next(runs.iterdir()), "--seed", "1"],
        "JS divergence": ["partition", "dataset.patients=80", "partition=iid"],
        "images of": ["hospital", "server", "own", *TINY],
        "program: fedmed.run": ["sweep", "wandb", "seed=0,1"],
    }
    for said, arguments in asked.items():
        done = fedmed(*arguments)
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_score(runs: Path, fedmed: Command, tmp_path: Path) -> None:
    """A run's own predictions, given as anyone's, have the run's scores."""
    run = Run(next(runs.iterdir()))
    whole = Predictions.read(run.folder / "predictions.parquet")
    names = list(whole.targets)
    scores = pd.DataFrame(whole.scores, columns=names).assign(image=whole.images["image"])
    scores.to_csv(tmp_path / "scores.csv", index=False)
    pd.DataFrame(whole.labels, columns=names).join(whole.images).to_csv(tmp_path / "labels.csv")
    files = ["--predictions", "scores.csv", "--labels", "labels.csv", "--out", "found.json"]
    done = fedmed("score", *files, "--replicates", "20")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["macro_auroc"] == pytest.approx(run.summary["test"]["macro_auroc"], abs=1e-9)


def test_privacy_utility(fedmed: Command, tmp_path: Path) -> None:
    private = ["privacy=dpsgd", "privacy.noise_multiplier=1", "name=privacy_utility"]
    small = [*TINY, "rounds=1", "model.network.block_config=[1]"]
    folder = swept(tmp_path, *small, *private)
    done = fedmed("privacy-utility", "runs")
    assert done.returncode == 0, done.stderr
    (row,) = pd.read_csv(tmp_path / "privacy_utility.csv").to_dict("records")
    found = Run(folder).summary
    assert row["epsilon"] == pytest.approx(float(found["privacy"]["epsilon"]))
    assert row["macro_auroc"] == pytest.approx(found["test"]["macro_auroc"])
    assert (tmp_path / "privacy_utility.png").stat().st_size > 5_000
    assert fedmed("privacy-utility", "nowhere").returncode == 2
