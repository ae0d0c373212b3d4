"""Bad input ends in one clear line that names the key and what it takes."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import TINY, tiny_network
from safetensors.torch import load_file

from fedmed.config import compose
from fedmed.core.errors import FedmedError

DIRICHLET = ("partition=dirichlet",)
NIH = ("+experiment=nih",)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("import not_there", "No module named 'not_there'"),
        ("class Mine", r"expected ':' \(mine_.*\.py, line 1\)"),
        ("{}['a']", "KeyError: 'a'"),
        ("from fedmed.data.card import Card; Card.load('mine')", r".*mine\.yaml: is no card"),
    ],
)
def test_a_module_of_ones_own_that_fails_says_why(
    written: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    name = f"mine_{abs(hash(written))}"
    (tmp_path / f"{name}.py").write_text(written)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(FedmedError, match=rf"^dataset\._target_: cannot import {name}\.X: {said}"):
        compose([f"dataset._target_={name}.X"])
    assert caplog.records == []


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["client.lrr=1"], "client.lrr: unknown key; client takes optimizer, lr,"),
        (["client.lrr=1"], "; did you mean client.lr?"),
        (["+client.lrr=1"], "client.lrr: unknown key; did you mean client.lr?"),
        (["lr=0.1"], "lr: unknown key; did you mean client.lr?"),
        (["workers=2"], "workers: unknown key; did you mean runner.workers?"),
        (["alpha=1"], "alpha is a key of partition=dirichlet"),
        (["stratgy=fedavg"], "stratgy: unknown key; did you mean strategy?"),
        (["strategy=fedavgg"], "; did you mean strategy=fedavg"),
        (["+dataset.pateints=9"], "; did you mean dataset.patients?"),
        (["+dataset.lrr=1"], "dataset.lrr: unknown key; dataset takes"),
        (["aggregation.bits=4"], "aggregation takes no key; bits is a key of aggregation=fixed"),
        (["strategy=foo"], "strategy=foo: unknown; strategy takes dp_fedavg, dp_fedavg_adaptive"),
        (["experiment=quickstart"], "experiment: is added with a +, as in +experiment="),
        (["+experiment=foo"], "experiment=foo: unknown; experiment takes"),
        (["client.lr=fast"], "client.lr: input should be a valid number"),
        (["client.lr=-1"], "client.lr: input should be greater than 0, got -1"),
        (["rounds=0"], "rounds: input should be greater than or equal to 1"),
        (["client.optimizer=lion"], "client.optimizer: input should be 'sgd', 'adam' or 'adamw'"),
        (["runner.workers=many"], "runner.workers: input should be 'auto' or "),
        (["strategy.fraction=2"], "strategy.fraction: input should be less than or equal to 1"),
        ([*DIRICHLET, "partition.alpha=0"], "partition.alpha: input should be greater than 0"),
        ([*DIRICHLET, "partition.clients=2.5"], "partition.clients: input should be a valid int"),
        (["strategy.noise_multiplier=1"], "noise_multiplier is a key of strategy=dp_fedavg"),
        (["strategy=dp_fedavg", "strategy.noise_multiplier=-1"], "strategy.noise_multiplier: "),
        (["strategy=fedprox", "strategy.mu=-1"], "strategy.mu: input should be greater than or"),
        (["strategy=fedadam", "strategy.server_lr=x"], "strategy.server_lr: input should be a"),
        ([*NIH], "dataset.root: is missing; give it as dataset.root=VALUE"),
        (["client.lr=["], "client.lr=[: is not KEY=VALUE"),
        (["dataset.targets=[Measles]"], "dataset.targets: fedmed phantom has no Measles; it has"),
        (["dataset.size=1"], "dataset.size: takes 2 pixels or more, got 1"),
        (["dataset.targets=[]"], "dataset.targets: name at least one target"),
        ([*NIH, "dataset.root=absent"], "dataset.root: there is no folder absent"),
        (["model.weights=absent.pt"], "model.weights: there is no file absent.pt"),
        (["dataset._target_=no.such"], "dataset._target_: cannot import no.such: No module named"),
        (["strategy=fedtrimmedavg", "strategy.trim=0.7"], "strategy.server: `beta` must be in"),
    ],
)
def test_configuration_is_refused_in_one_line(overrides: list[str], said: str) -> None:
    with pytest.raises(FedmedError) as error:
        compose(overrides)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["partition.clients=500"], "partition.clients: at most one a patient; "),
        (
            ["partition.clients=90", "partition.min_patients=1", "partition.alpha=0.01"],
            "raise alph",
        ),
        (["model=vit", "dataset.size=30"], "dataset.size: must be a multiple of 8"),
        (["runner.device=cuda"], "runner.device: cuda was asked for and PyTorch sees no GPU"),
    ],
)
def test_experiment_is_refused_before_pixels_are_prepared(
    overrides: list[str], said: str, tmp_path: Path, launch: Callable[..., dict[str, Any]]
) -> None:
    if "cuda" in overrides[0] and __import__("torch").cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(FedmedError) as error:
        launch(*TINY, *overrides)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_command_line_prints_the_line_and_nothing_else(
    command: Callable[..., subprocess.Popen[str]],
) -> None:
    for overrides, line in {
        ("client.lr=-1",): "fedmed: client.lr: input should be greater than 0, got -1\n",
        ("+experiment=nih", "dataset.root=absent"): (
            "fedmed: dataset.root: there is no folder absent\n"
        ),
    }.items():
        process = command(*overrides)
        output, _ = process.communicate(timeout=120)
        assert output.endswith(line)
        assert "Traceback" not in output
        assert process.returncode == 2


def test_label_file_without_a_column(
    nih_standin: Path, launch: Callable[..., dict[str, Any]]
) -> None:
    labels = nih_standin / "Data_Entry_2017_v2020.csv"
    pd.read_csv(labels).drop(columns="Patient ID").to_csv(labels, index=False)
    with pytest.raises(FedmedError, match="the column 'Patient ID' is missing"):
        launch(*NIH, f"dataset.root={nih_standin}", "runner.workers=0")


def test_list_that_is_missing_or_incomplete(
    nih_standin: Path, launch: Callable[..., dict[str, Any]]
) -> None:
    lists = nih_standin / "test_list.txt"
    lists.write_text("\n".join(lists.read_text().split()[1:]))
    with pytest.raises(FedmedError, match=r"00000001_000\.png, are in none of train_val_list"):
        launch(*NIH, f"dataset.root={nih_standin}", "runner.workers=0")
    lists.unlink()
    with pytest.raises(FedmedError, match=r"test_list\.txt is missing"):
        launch(*NIH, f"dataset.root={nih_standin}", "runner.workers=0")


def test_unreadable_images_are_listed_and_survived(
    nih_standin: Path, tmp_path: Path, launch: Callable[..., dict[str, Any]]
) -> None:
    images = sorted((nih_standin / "images").iterdir())
    images[0].write_bytes(images[0].read_bytes()[:200])  # truncated
    images[1].unlink()  # listed but absent
    images[2].write_text("not an image")
    summary = launch(
        *NIH,
        f"dataset.root={nih_standin}",
        "dataset.size=32",
        "partition.clients=2",
        "rounds=1",
        "runner.workers=0",
        "tracking.mode=disabled",
    )
    listed = pd.read_csv(tmp_path / "run" / "unreadable.csv").set_index("image")["reason"]
    assert set(listed.index) == {path.name for path in images[:3]}
    assert "truncated" in listed[images[0].name]
    assert listed[images[1].name] == "absent"
    assert "cannot identify" in listed[images[2].name]
    assert summary["unreadable_images"] == 3
    assert sum(summary["images"].values()) == 117


def test_weights_of_another_format_come_with_what_converts_them(tmp_path: Path) -> None:
    """The command that the refusal names makes a file that is read."""
    network = tiny_network()
    torch.save(network.state_dict(), tmp_path / "model.pt")
    with pytest.raises(FedmedError, match=r"model\.pt is not a \.safetensors file") as error:
        compose([f"model.weights={tmp_path / 'model.pt'}"])
    code = str(error.value).split('python -c "')[1].removesuffix('"')
    subprocess.run([sys.executable, "-c", code], check=True)
    made = load_file(tmp_path / "model.safetensors")
    assert {name: value.tolist() for name, value in made.items()} == {
        name: value.tolist() for name, value in network.state_dict().items()
    }


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("+experiment=nih dataset.root=absent", "dataset.root: there is no folder absent"),
        ("model.weights=absent.pt", "model.weights: there is no file absent.pt"),
        (
            "dataset=folder dataset.root=. dataset.findings={Effusion: fluid}",
            "the column 'fluid' is missing; has it been edited? It has 'image', 'patient', 'eff'",
        ),
    ],
)
def test_what_is_cheap_to_check_waits_for_no_import(asked: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("image,patient,eff\na.png,1,0\n")
    overrides = re.split(r" (?=[+\w.]+=)", asked)
    code = (
        "import atexit, sys\nfrom fedmed.cli.main import main\n"
        "slow = ('torch', 'monai', 'flwr')\n"
        "atexit.register(lambda: print([name for name in slow if name in sys.modules]))\n"
        f"main(['run', *{overrides!r}])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert said in done.stderr
    assert (done.returncode, done.stderr.count("\n"), done.stdout) == (2, 1, "[]\n")
