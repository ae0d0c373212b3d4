"""Files that are not as they were written, and disks that do not take them: one line each."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY, summary

from fedmed.config import compose
from fedmed.core.errors import ConfigError, FedmedError
from fedmed.evaluation.predictions import Predictions
from fedmed.federation.checkpoint import Checkpoint
from fedmed.flower import serialization
from fedmed.models import arrays_of, build
from fedmed.runs.directory import RunDirectory
from fedmed.runs.run import Run

SMALL = (*TINY, "dataset.patients=60", "client.steps=1", "rounds=2", "strategy.state=parameters")
STATE = "checkpoint/clients/client-00000-round-00002.safetensors"
Launch = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def finished(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run's directory, not to be written to."""
    from fedmed.experiment.run import run
    from fedmed.runs.console import Console

    folder = tmp_path_factory.mktemp("finished") / "run"
    overrides = (*SMALL, f"store={store}")
    with Console() as console:
        run(overrides, folder, console)
    return folder


@pytest.fixture
def ran(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, to be harmed."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def flip(path: Path, at: float) -> None:
    """Flip one bit at a share of the file's length."""
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("at", [0.2, 0.5, 0.9])
@pytest.mark.parametrize(
    "name",
    ["summary.json", "predictions.parquet", "metrics.csv", "checkpoint/model.safetensors"],
)
def test_a_finished_run_that_is_damaged_is_not_recognised(
    name: str, at: float, ran: Path, launch: Launch
) -> None:
    flip(ran / name, at)
    with pytest.raises(FedmedError, match=rf"{name}: is damaged: .*; put back a copy") as error:
        launch(*SMALL)
    assert "\n" not in str(error.value)
    if at == 0.5 and name != "summary.json":
        assert launch(*SMALL, "force=true")["status"] == "finished"


@pytest.mark.parametrize("name", ["checkpoint/checkpoint.safetensors", STATE])
@pytest.mark.parametrize("harm", ["header", "arrays", "last", "cut", "empty"])
def test_a_damaged_state_is_not_gone_on_from(
    name: str, harm: str, ran: Path, launch: Launch
) -> None:
    """One flipped bit, in what is read as JSON or in a weight, or an end that is not there."""
    (ran / "summary.json").unlink()  # as if cut off
    state = Checkpoint.load(RunDirectory(ran).checkpoint)
    assert state is not None
    before = serialization.load(ran / "checkpoint" / "checkpoint.safetensors")
    serialization.save(before | {"round": 1}, ran / "checkpoint" / "checkpoint.safetensors")
    path = ran / name
    if harm in ("cut", "empty"):
        path.write_bytes(path.read_bytes()[: -100 if harm == "cut" else 0])
    else:
        header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
        size = path.stat().st_size
        flip(path, {"header": header / 2, "arrays": header + 9, "last": size - 1}[harm] / size)
    with pytest.raises(FedmedError, match=r"\.safetensors: is damaged: ") as error:
        launch(*SMALL)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_every_flipped_bit_of_a_small_tree_is_noticed(tmp_path: Path) -> None:
    """In whatever byte, but for those of the header that pad it."""
    path = tmp_path / "tree.safetensors"
    tree = {"weights": np.arange(6, dtype=np.float32), "round": 3, "names": ("a", "b")}
    serialization.save(tree, path)
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        if whole[at] == ord(" ") and str(_loaded(path)) == str(tree):
            continue
        with pytest.raises(FedmedError, match=r"tree\.safetensors: is damaged"):
            serialization.load(path)


def _loaded(path: Path) -> Any:
    with suppress(FedmedError):
        return serialization.load(path)


def test_weights_and_predictions_are_held_against_their_checksums(ran: Path) -> None:
    weights = ran / "checkpoint" / "model.safetensors"
    asked = compose([*SMALL, f"model.weights={weights}"], build=False)
    RunDirectory(ran).write_model(arrays_of(build(compose([*SMALL]).model, seed=0)))
    build(asked.model, seed=0)
    flip(weights, 0.9)
    with pytest.raises(ConfigError, match=r"model\.weights: .* is damaged"):
        build(asked.model, seed=0)
    Run(ran).scored  # noqa: B018
    flip(ran / "predictions.parquet", 0.3)
    with pytest.raises(FedmedError, match=r"predictions\.parquet: is damaged"):
        Run(ran).scored  # noqa: B018
    (ran / "predictions.parquet").write_bytes(b"PAR1")
    with pytest.raises(FedmedError, match="is damaged: it is no table"):
        Predictions.read(ran / "predictions.parquet")
    config = ran / ".hydra" / "config.yaml"
    config.write_text(config.read_text().replace("seed: 0", "seed: 1"))
    with pytest.raises(FedmedError, match=r"config\.yaml: is damaged: it is not the one"):
        Run(ran).summary  # noqa: B018


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Give a real file system a size in KiB; return where it is mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder]).returncode:
        pytest.skip("may not mount a small disk")

    def sized(kib: int) -> Path:
        subprocess.run(["mount", "-o", f"remount,size={kib}k", folder], check=True)
        return folder

    yield sized
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("kib", [4, 40, 100, 160, 240, 320])
def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(
    kib: int, disk: Callable[[int], Path], finished: Path, launch: Launch
) -> None:
    """Wherever the room ends: no file is half there, and the weights are the same."""
    folder = disk(kib) / "run"
    with pytest.raises(FedmedError, match="No space left on device") as error:
        launch(*SMALL, folder=folder)
    assert "\n" not in str(error.value)
    here = RunDirectory(folder)
    assert (here.summary() or {"status": "failed"})["status"] in ("failed", "running")
    Checkpoint.load(here.checkpoint)
    disk(20_000)
    done = launch(*SMALL, folder=folder)
    assert done["model_sha256"] == summary(finished)["model_sha256"]


def test_a_full_disk_on_the_command_line(
    disk: Callable[[int], Path], command: Callable[..., subprocess.Popen[str]]
) -> None:
    """Where not even the log can be made, and where its lines end."""
    for kib in (4, 200):
        process = command(*SMALL, f"hydra.run.dir={disk(kib) / str(kib)}")
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 2, output
        assert "Traceback" not in output
        assert output.splitlines()[-1].startswith("fedmed: ")
        assert "No space left on device" in output.splitlines()[-1]


def test_a_folder_that_cannot_be_written_is_one_line(
    disk: Callable[[int], Path], command: Callable[..., subprocess.Popen[str]]
) -> None:
    folder = disk(20_000)
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    alone = command(*SMALL, f"hydra.run.dir={folder / 'run'}")
    grid = command("-m", *SMALL, "seed=0,1", f"hydra.sweep.dir={folder / 'runs'}")
    for process in (alone, grid):
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 2, output
        assert "Traceback" not in output
        assert "Read-only file system" in output.splitlines()[-1]
