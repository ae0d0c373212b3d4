"""A file of a newer format, or of none, is refused by whoever reads it: in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from fedmed.cli.main import main
from fedmed.core import formats
from fedmed.core.errors import FedmedError
from fedmed.flower import serialization
from fedmed.runs.run import Run
from fedmed.sweep.grid import Grid

PUBLIC = (*TINY, "dataset.patients=60", "client.steps=1", "rounds=1")
WITH_LEDGER = (*PUBLIC, "privacy=dpsgd", "privacy.noise_multiplier=1", "client.batch_size=8")
WITH_STATES = (*PUBLIC, "rounds=2", "strategy.state=parameters")
CHECKPOINT = "checkpoint/checkpoint.safetensors"
STATE = "checkpoint/clients/client-00000-round-00002.safetensors"
NEWER = "is of format 2, and this fedmed knows none above 1: upgrade fedmed"
NONE = "is damaged or an earlier version's: its format is"
Launch = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def grid(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a grid of one finished run, which was evaluated; not to be written to."""
    from fedmed.experiment.run import run
    from fedmed.runs.console import Console

    folder = tmp_path_factory.mktemp("grid") / "runs"
    of = Grid.of([*PUBLIC, f"store={store}", f"hydra.sweep.dir={folder}"])
    of.save()
    with Console() as console:
        run(of.cells[0].overrides, of.cells[0].folder, console)
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "subgroups", str(of.cells[0].folder)])
    assert not ended.value.code
    return folder


@pytest.fixture
def runs(grid: Path, tmp_path: Path) -> Path:
    """A copy of it, to be doctored."""
    return Path(shutil.copytree(grid, tmp_path / "runs"))


def doctor(path: Path, number: object) -> None:
    """Put another number of the format into a file; None takes it away."""
    if path.suffix == ".json":
        path.write_text(json.dumps(_with(number, json.loads(path.read_text()))))
        return
    with safe_open(path, framework="numpy") as file:
        texts = _with(None if number is None else str(number), file.metadata())
    save_file(load_file(path), path, texts)


def _with(number: object, content: dict[str, Any]) -> dict[str, Any]:
    assert content["format"] in (1, "1")
    rest = {key: value for key, value in content.items() if key != "format"}
    return rest if number is None else {"format": number, **rest}


@pytest.mark.parametrize("found", [None, "1", True, 0, -1, 1.0, [1], {}, "a\nb"])
def test_a_format_is_a_number(found: object, tmp_path: Path) -> None:
    with pytest.raises(FedmedError, match="where a number from 1 to 3 belongs") as error:
        formats.check(tmp_path / "file", found, 3)
    assert str(error.value).startswith(f"{tmp_path / 'file'}: {NONE}")
    assert "\n" not in str(error.value)


def test_what_is_not_newer_is_read(tmp_path: Path) -> None:
    for known in (1, 2, 3):
        formats.check(tmp_path, known, 3)
    with pytest.raises(FedmedError, match="is of format 4, and this fedmed knows none above 3"):
        formats.check(tmp_path, 4, 3)


@pytest.mark.parametrize("number", [2, None])
@pytest.mark.parametrize(
    ("file", "command"),
    [
        ("*/summary.json", "table {runs} --rows strategy"),
        ("*/summary.json", "report {runs} --out {runs}/report.html"),
        ("*/summary.json", "evaluate subgroups {run}"),
        ("*/summary.json", "audit {run}"),
        ("*/summary.json", "release {run} --epsilon 1 --seed 0"),
        ("*/summary.json", "sweep status {runs}"),
        ("*/summary.json", "privacy-utility {runs} --name default"),
        ("*/evaluations/*.json", "table {runs} --rows strategy --value subgroups.deals"),
        ("*/evaluations/*.json", "report {runs} --out {runs}/report.html"),
        ("grids/*.json", "sweep status {runs}"),
        ("grids/*.json", "report {runs} --out {runs}/report.html"),
    ],
)
def test_every_command_refuses_it(
    file: str,
    command: str,
    number: object,
    runs: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (path,) = runs.glob(file)
    (folder,) = (each.parent for each in runs.glob("*/summary.json"))
    doctor(path, number)
    asked = [word.format(runs=runs, run=folder) for word in command.split()]
    with pytest.raises(SystemExit) as ended:
        main(asked)
    assert ended.value.code == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith(f"fedmed: {path}: {NONE if number is None else NEWER}")


@pytest.mark.parametrize("number", [2, None, "x"])
@pytest.mark.parametrize(
    ("asked", "name"),
    [
        (WITH_LEDGER, "summary.json"),
        (WITH_LEDGER, "ledger.json"),
        (WITH_STATES, CHECKPOINT),
        (WITH_STATES, STATE),
    ],
)
def test_no_run_goes_on_from_it(
    asked: tuple[str, ...], name: str, number: object, launch: Launch, tmp_path: Path
) -> None:
    launch(*asked)
    path = tmp_path / "run" / name
    if name in (CHECKPOINT, STATE):  # as if cut off after the first round
        (tmp_path / "run" / "summary.json").unlink()
        before = serialization.load(tmp_path / "run" / CHECKPOINT)
        serialization.save(before | {"round": 1}, tmp_path / "run" / CHECKPOINT)
    doctor(path, number)
    doctored = path.read_bytes()
    with pytest.raises(FedmedError) as error:
        launch(*asked)
    assert f"{path}: {NEWER if number == 2 else NONE}" in str(error.value)
    assert "\n" not in str(error.value)
    assert path.read_bytes() == doctored
    if name == "ledger.json":  # what was spent is not forgotten, whoever can read it
        with pytest.raises(FedmedError, match="format"):
            launch(*asked, "force=true")
        with pytest.raises(FedmedError, match="format"):
            _ = Run(path.parent).ledger
        assert path.read_bytes() == doctored
