"""A sweep's ε: all runs on the same patients together, by dp-accounting, whatever was deleted."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import dp_accounting
import pytest
from conftest import TINY
from dp_accounting.pld import PLDAccountant

from fedmed.cli.main import main
from fedmed.core.errors import FedmedError
from fedmed.experiment.run import run
from fedmed.privacy import Ledger
from fedmed.privacy.together import together
from fedmed.runs.console import Console

PRIVATE = (
    *TINY,
    *("rounds=1", "privacy=dpsgd", "privacy.unit=patient", "client.steps=2", "client=sgd"),
    "privacy.noise_multiplier=2",
)


def launch(folder: Path, *more: str) -> None:
    folder.mkdir(exist_ok=True)
    with Console() as console, Path(os.devnull).open("w") as nowhere:
        console.rich.file = nowhere
        run([*PRIVATE, f"store={folder.parent / 'store'}", *more], folder, console)


def composed(folders: Sequence[Path], delta: float) -> float:
    """Return ε of the dearest client of each run together, by dp-accounting alone."""
    accountant = PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    for folder in folders:
        summary = json.loads((folder / "summary.json").read_text())
        spent = summary["privacy"]["per_client"]
        dearest = int(max(spent, key=lambda client: spent[client]))
        ledger = Ledger.read(folder / "ledger.json", summary["config_sha256"])
        for event in ledger.of_client("patient", dearest):
            gaussian = dp_accounting.GaussianDpEvent(event.noise_multiplier)
            sampled = dp_accounting.PoissonSampledDpEvent(event.rate, gaussian)
            accountant.compose(sampled, event.steps)
    return float(accountant.get_epsilon(delta))


def test_a_sweep_spends_the_sum_of_its_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    folders = [tmp_path / name for name in ("a", "b", "c")]
    sweep = ("seed=0", "dataset.size=24", "dataset.targets=[Effusion]")
    for choice, folder in zip(sweep, folders, strict=True):
        launch(folder, choice)
    (one,) = together(store)
    assert (one.unit, one.runs) == ("patient", 3)
    assert one.epsilon == pytest.approx(composed(folders, one.delta), rel=1e-3)
    assert one.largest < one.epsilon
    shutil.rmtree(folders[0])  # what was spent stays spent
    launch(folders[0], "seed=0")  # the same noise: the same release
    (again,) = together(store)
    assert again == one
    for runs in (4, 5):
        launch(tmp_path / "secret", "privacy.secure_noise=true")
        shutil.rmtree(tmp_path / "secret")
        (more,) = together(store)
        assert more.runs == runs
    assert more.epsilon > one.epsilon
    with pytest.raises(SystemExit) as ended:
        main(["spent", "--store", str(store)])
    assert not ended.value.code
    assert "patient" in capsys.readouterr().out
    next((store / "spent").glob("*/*.json")).write_text("{}")
    with pytest.raises(FedmedError, match="is damaged"):
        list(together(store))
