"""``import fedmed``: a dozen names, a run from Python, and private training of one's own model."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, TINY, tiny_network
from scipy.stats import kstest
from torch import Tensor, nn

import fedmed
from fedmed.core.errors import FedmedError
from fedmed.data import store as stores
from fedmed.data.store import pixels_of
from fedmed.data.table import validate

SMALL = (*TINY, "rounds=1", "model.network.block_config=[1]")
N = 12  # images of private training, of four patients
PATIENTS = ["a", "b", "a", "c", "c", "c", "d", "d", "a", "b", "d", "c"]
Step = dict[str, Any]


def python(code: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        input=code,
        cwd=folder,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )


def test_importing_it_imports_nothing(tmp_path: Path) -> None:
    code = (
        "import sys\nbefore = set(sys.modules)\nimport fedmed\ndir(fedmed)\n"
        "print([name for name in sorted(set(sys.modules) - before)"
        " if name.partition('.')[0] not in sys.stdlib_module_names])"
    )
    assert python(code, tmp_path, "-").stdout.strip() == "['fedmed']"


def test_every_public_name_is_where_types_say() -> None:
    """What mypy and an editor read is what ``__getattr__`` gives."""
    tree = ast.parse((ROOT / "fedmed" / "__init__.py").read_text())
    (typed,) = (node for node in tree.body if isinstance(node, ast.If))
    told = {
        alias.name: node.module
        for node in typed.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert {*told, "__version__"} == set(fedmed.__all__)
    for name in fedmed.__all__:
        assert getattr(fedmed, name) is not None
    assert {name: f"fedmed.{home}" for name, home in fedmed._HOMES.items()} == told
    assert set(fedmed.__all__) <= set(dir(fedmed))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = fedmed.nothing


def test_run_stays_the_module(tmp_path: Path) -> None:
    import fedmed.run

    assert isinstance(fedmed.run, ModuleType)
    assert "run" not in fedmed.__all__


@pytest.fixture
def trained(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., "fedmed.Run"]:
    """Train in an empty folder; the overrides follow those of a small run."""
    monkeypatch.chdir(tmp_path)

    def train(*overrides: str, **keys: Any) -> fedmed.Run:
        return fedmed.train(*SMALL, f"store={store}", *overrides, **keys)

    return train


@pytest.mark.parametrize(
    "how",
    [(), ("strategy=dp_fedavg", "strategy.noise_multiplier=0.1"), ("privacy=dpsgd", "seed=3")],
)
def test_a_run_from_python(how: tuple[str, ...], trained: Callable[..., "fedmed.Run"]) -> None:
    """Where and what the command would leave; its model predicts what was recorded."""
    private = [*how, "privacy.noise_multiplier=1"] if how[:1] == ("privacy=dpsgd",) else [*how]
    run = trained(*private)
    assert run.folder == Path("runs") / run.summary["run_id"]
    assert run.summary["status"] == "finished"
    assert (run.folder / "run.log").read_text().count("round 1") >= 1
    assert set(run.metrics["round"]) >= {1}
    config = fedmed.compose(run.overrides)
    dataset = config.dataset.build()
    table = validate(dataset.table(), dataset)
    prepared = stores.prepare(dataset, table, config.store, 0, lambda done, total: None)
    at = {image: row for row, image in enumerate(prepared.table["image"])}
    pixels = pixels_of(prepared.path)[[at[image] for image in run.predictions.images["image"]]]
    with torch.no_grad():
        logits = run.model()(torch.from_numpy(pixels)[:, None].float() / 127.5 - 1)
    np.testing.assert_allclose(torch.sigmoid(logits), run.predictions.scores, atol=1e-5)
    assert not run.model().training
    if not how:
        assert run.ledger is None
        return
    told = run.summary["privacy"]
    assert run.ledger is not None
    assert run.ledger.epsilon(told["unit"]) == pytest.approx(float(told["epsilon"]))
    assert run.ledger.events == [
        fedmed.Event(**e) for e in json.loads((run.folder / "ledger.json").read_text())["events"]
    ]


def test_keys_are_overrides_and_a_finished_run_is_recognised(
    trained: Callable[..., "fedmed.Run"], capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(seed=2, strategy="fedprox", force=False)
    assert (run.seed, run.choices["strategy"]) == (2, "fedprox")
    again = trained(seed=2, strategy="fedprox")
    assert again.summary == run.summary
    assert "is finished; force=true runs it again" in capsys.readouterr().out
    other = trained(seed=1, folder="here")
    assert other.folder == Path("here")
    found = fedmed.compare([other.scored], [run.scored], "auroc")
    ours, theirs = (one.summary["test"]["macro_auroc"] for one in (other, run))
    assert found.difference == pytest.approx(ours - theirs)


def test_what_is_wrong_is_an_error_in_one_line(trained: Callable[..., "fedmed.Run"]) -> None:
    with pytest.raises(FedmedError, match=r"lr: unknown key; did you mean client\.lr\?"):
        trained(lr=1)
    with pytest.raises(FedmedError, match="the run is unfinished; finish it first"):
        fedmed.Run(Path("nowhere")).model()


@pytest.mark.parametrize("arguments", [("script.py",), ("-",)])
def test_a_script_and_a_notebook_start_no_second_one(
    arguments: tuple[str, ...], store: Path, tmp_path: Path
) -> None:
    """Worker processes do not run the script again that started them, though it asks nothing."""
    small = [override for override in SMALL if override != "runner.workers=0"]
    code = (
        "import fedmed\nprint('begun')\n"
        f"run = fedmed.train(*{small!r}, 'store={store}', 'runner.workers=1')\n"
        "print(run.summary['status'], 'at last')\n"
    )
    (tmp_path / "script.py").write_text(code)
    done = python(code, tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    assert (done.stdout.count("begun"), done.stdout.count("finished at last")) == (1, 1)


def images(seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (N, 2), generator=rng).float()
    return torch.randn(N, 1, 8, 8, generator=rng), labels


def several(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(outputs, labels, reduction="none").mean(1)


def stepped(network: nn.Module, lr: float = 0.5, **changed: Any) -> tuple[Tensor, "fedmed.Event"]:
    """Return how far one step takes the weights, over −lr: the noisy mean gradient."""
    before = nn.utils.parameters_to_vector(network.parameters()).detach().clone()
    how: Step = {"delta": 1e-3, "clip_norm": 0.7, "batch_size": 4, "steps": 1} | changed
    data = list(zip(*images(how.pop("data", 0)), strict=True))
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    spent = fedmed.train_privately(network, data, PATIENTS, optimizer, **how)
    after = nn.utils.parameters_to_vector(network.parameters()).detach()
    return (before - after) / lr, spent.event


def slowly(network: nn.Module, clip_norm: float) -> Tensor:
    """Return the mean of the patients' clipped gradients, one patient after the other."""
    pixels, labels = images()
    total = torch.zeros(sum(p.numel() for p in network.parameters()), dtype=torch.float64)
    for patient in sorted(set(PATIENTS)):
        theirs = [i for i, whose in enumerate(PATIENTS) if whose == patient]
        loss = several(network(pixels[theirs]), labels[theirs]).sum()
        found = torch.autograd.grad(loss, list(network.parameters()))
        gradient = torch.cat([g.flatten() for g in found]).double()
        total += gradient * min(1.0, clip_norm / float(gradient.norm()))
    return total / len(set(PATIENTS))


@pytest.mark.parametrize("physical_batch", [64, 2])
@pytest.mark.parametrize("clip_norm", [0.01, 0.7, 100.0])
def test_a_private_step_is_that_of_a_plain_loop(clip_norm: float, physical_batch: int) -> None:
    expected = slowly(tiny_network(), clip_norm)
    how: Step = {"noise_multiplier": 0.0, "clip_norm": clip_norm, "physical_batch": physical_batch}
    for given in ({}, {"loss": several}):
        moved, event = stepped(tiny_network(), **(how | given))
        assert float((moved.double() - expected).norm() / expected.norm()) < 1e-3
        assert (event.rate, event.steps, event.unit) == (1.0, 1, "patient")


@pytest.mark.parametrize("seed", [None, 5])
def test_its_noise_is_gaussian_of_the_deviation_that_is_accounted(seed: int | None) -> None:
    z, clip_norm = 3.0, 0.7
    still = slowly(tiny_network(), clip_norm)
    moved, event = stepped(tiny_network(), noise_multiplier=z, clip_norm=clip_norm, seed=seed)
    noise = (moved.double() - still) / (z * clip_norm / 4)  # over the expected number of patients
    assert kstest(noise.numpy(), "norm").pvalue > 1e-3
    assert event.noise_multiplier == z


def test_noise_repeats_with_seed_and_data_alone() -> None:
    def noisy(**changed: Any) -> Tensor:
        return stepped(tiny_network(), noise_multiplier=3.0, **changed)[0]

    first = noisy(seed=5)
    assert torch.equal(first, noisy(seed=5))
    still = stepped(tiny_network(), noise_multiplier=0.0)[0]
    for other in (noisy(seed=6), noisy(), noisy(), noisy(seed=5, data=1)):
        apart = np.corrcoef(first - still, other - still)[0, 1]
        assert abs(apart) < 0.2


def test_a_private_training_spends_what_it_says() -> None:
    """Of several labels a class index too; and more steps at the same ε ask for more noise."""
    pixels, labels = images()
    data = list(zip(pixels, labels[:, 0].long(), strict=True))
    spent = []
    for steps in (1, 20):
        network = tiny_network()
        spent.append(
            fedmed.train_privately(
                network,
                data,
                PATIENTS,
                torch.optim.SGD(network.parameters(), lr=0.1),
                loss=partial(F.cross_entropy, reduction="none"),
                epsilon=2.0,
                delta=1e-3,
                clip_norm=1.0,
                batch_size=2,
                steps=steps,
            )
        )
    assert all(1.9 < one.epsilon <= 2.0 for one in spent)
    assert all(one.caveats == () for one in spent)
    assert spent[0].event.noise_multiplier < spent[1].event.noise_multiplier
    assert spent[1].epsilon == fedmed.epsilon([spent[1].event], 1e-3)
    assert spent[1].event == fedmed.Event(
        0, "patient", spent[1].event.noise_multiplier, 0.5, steps=20
    )


def test_a_delta_that_promises_nothing_is_told() -> None:
    network, data = tiny_network(), list(zip(*images(), strict=True))
    optimizer = torch.optim.SGD(network.parameters())
    how: Step = {"clip_norm": 1.0, "batch_size": 4, "steps": 1, "noise_multiplier": 1.0}
    spent = fedmed.train_privately(network, data, PATIENTS, optimizer, delta=0.25, **how)
    (caveat,) = spent.caveats
    assert "δ" in caveat


def frozen() -> nn.Module:
    network = tiny_network()
    next(network.parameters()).requires_grad_(False)
    return network


def mixing() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 2))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "epsilon: give it or noise_multiplier"),
        ({"epsilon": 1.0, "noise_multiplier": 1.0}, "epsilon: give it or noise_multiplier"),
        ({"epsilon": float("nan")}, "epsilon: above 0, got nan"),
        ({"noise_multiplier": -1.0}, "noise_multiplier: at least 0 and finite"),
        ({"noise_multiplier": 1.0, "delta": 1.0}, "delta: in"),
        ({"noise_multiplier": 1.0, "clip_norm": float("inf")}, "clip_norm: above 0 and finite"),
        ({"noise_multiplier": 1.0, "steps": 0}, "steps: above 0"),
        ({"noise_multiplier": 1.0, "loss": F.mse_loss}, "loss: gives"),
    ],
)
def test_what_gives_no_guarantee_is_refused(changed: Step, said: str) -> None:
    with pytest.raises(FedmedError, match=said):
        stepped(tiny_network(), **changed)


@pytest.mark.parametrize(
    ("build", "said"),
    [(frozen, "0.weight is not to be trained"), (mixing, "BatchNorm")],
)
def test_a_model_that_is_not_for_it_is_refused(build: Callable[[], nn.Module], said: str) -> None:
    with pytest.raises(FedmedError, match=said):
        stepped(build(), noise_multiplier=1.0)


@pytest.mark.parametrize(
    ("patients", "said"),
    [
        (PATIENTS[:-1], "11 are told for 12 images"),
        ([None, *PATIENTS[1:]], "one is None or NaN"),
        (["7", "007", *PATIENTS[2:]], "'7' and '007' differ only by"),
    ],
)
def test_patients_that_are_not_told_apart_are_refused(patients: list[Any], said: str) -> None:
    network, data = tiny_network(), list(zip(*images(), strict=True))
    optimizer = torch.optim.SGD(network.parameters())
    how: Step = {"delta": 0.1, "clip_norm": 1.0, "batch_size": 4, "steps": 1}
    with pytest.raises(FedmedError, match=said):
        fedmed.train_privately(network, data, patients, optimizer, noise_multiplier=1.0, **how)
    stray = torch.optim.SGD([nn.Parameter(torch.zeros(1))])
    with pytest.raises(FedmedError, match="optimizer: takes all of the model's parameters"):
        fedmed.train_privately(network, data, PATIENTS, stray, noise_multiplier=1.0, **how)


def test_the_example_of_private_training(tmp_path: Path) -> None:
    done = python("", tmp_path, str(ROOT / "examples" / "private_training.py"))
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("ε = 3.00 at δ = 0.0001 for each patient")
    assert float(second.split()[2]) > 0.65


def test_the_notebook(tmp_path: Path) -> None:
    """Its code as it stands, without a script that could be imported, as in a kernel."""
    cells = json.loads((ROOT / "examples" / "quickstart.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] for cell in cells if cell["cell_type"] == "code")
    done = python("\n".join(code), tmp_path, "-")
    assert done.returncode == 0, done.stderr
    assert len(pd.read_csv(next((tmp_path / "runs").glob("*/metrics.csv")))) > 10
