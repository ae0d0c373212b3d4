"""Protocols: each against its rounds written out by hand, with the clients' own training."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY
from flwr.app import RecordDict

from fedmed import models
from fedmed.client.context import open_context
from fedmed.config import compose
from fedmed.core.errors import ConfigError, FedmedError
from fedmed.core.seeding import seed_of
from fedmed.experiment.data import prepare
from fedmed.models import Arrays
from fedmed.training import sgd
from fedmed.training.hooks import LocalHooks

CYCLIC = (*TINY, "protocol=cyclic", "client=sgd", "rounds=2")
RAISES = "faults.inject=[{kind:raise,clients:[1]}]"
PRIVATE = (
    "privacy=dpsgd",
    "privacy.noise_multiplier=1",
    "client.steps=2",
    "client=sgd",
    "rounds=2",
)
Launch = Callable[..., dict[str, Any]]


def visited(folder: Path, store: Path, overrides: Sequence[str], absent: int = -1) -> Arrays:
    """Return the weights that have been at every client in turn, in each round."""
    config = compose([*overrides, f"store={store}"])
    pixels = prepare(config, lambda *_: None, 0).store.path
    own = open_context(config, "cpu", pixels, folder / "table.parquet", folder / "partition.csv")
    arrays: Arrays = dict(own.initial)
    for round_ in range(1, config.rounds + 1):
        for client in (k for k in range(4) if k != absent):
            models.load(own.network, arrays)
            seed = seed_of(config.seed, "train", round_, client)
            examples = own.examples("train", client)
            sgd.train(own.network, examples, config.client, LocalHooks(), RecordDict(), seed)
            arrays = {name: array.copy() for name, array in models.arrays_of(own.network).items()}
    return arrays


@pytest.mark.parametrize("runner", ["runner.workers=0", "runner=ray"])
def test_cyclic_weight_transfer_trains_at_one_hospital_after_the_other(
    launch: Launch, store: Path, tmp_path: Path, runner: str
) -> None:
    tiny = [o for o in CYCLIC if runner != "runner=ray" or not o.startswith("runner")]
    summary = launch(*tiny, runner)
    expected = visited(tmp_path / "run", store, CYCLIC)
    assert summary["model_sha256"] == models.arrays_sha256(expected)


def test_a_client_that_fails_is_passed_over(launch: Launch, store: Path, tmp_path: Path) -> None:
    summary = launch(*CYCLIC, "faults.on_failure=exclude", RAISES)
    expected = visited(tmp_path / "run", store, CYCLIC, absent=1)
    assert summary["model_sha256"] == models.arrays_sha256(expected)
    assert summary["faults"]["by_client"] == {"1": 2}
    with pytest.raises(FedmedError, match="client 1 failed"):
        launch(*CYCLIC, RAISES, folder=tmp_path / "stopped")


def test_patients_pay_the_same_for_either_protocol(launch: Launch, tmp_path: Path) -> None:
    spent = [
        launch(*TINY, *PRIVATE, f"protocol={name}", folder=tmp_path / name)["privacy"]["epsilon"]
        for name in ("averaging", "cyclic")
    ]
    assert spent[0] == spent[1] > 0


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ("strategy=fedadam", "FedAdam has no effect"),
        ("strategy=dp_fedavg", "DPFedAvg has no effect"),
        ("strategy.weighting=uniform", "has no effect with protocol=cyclic"),
    ],
)
def test_what_means_nothing_where_nothing_is_averaged_is_refused(
    launch: Launch, choice: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        launch(*CYCLIC, choice)
