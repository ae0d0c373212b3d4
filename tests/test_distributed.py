"""Distributed noise in whole runs: what is on the opened sum is what the ledger says, or more."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY
from flwr.app import ConfigRecord, MetricRecord, RecordDict
from safetensors.numpy import load_file
from scipy import optimize, stats
from secagg_round import hospital_keys

from fedmed.aggregation.base import Party, Session
from fedmed.aggregation.codec import Codec
from fedmed.aggregation.encrypted import PaillierSum
from fedmed.config import compose
from fedmed.core.errors import ConfigError, FedmedError
from fedmed.federation.messages import ARRAYS, CONFIG
from fedmed.federation.summands import Plan, plan_of
from fedmed.models import to_record
from fedmed.privacy.discrete import LEAST
from fedmed.privacy.mechanisms import gaussian_delta
from fedmed.runs.directory import RunDirectory
from fedmed.strategies.noisy_update import ClippedSum, Mechanism

Launch = Callable[..., dict[str, Any]]
CLIENTS, LEAST_LEFT, Z, NORM = 8, 6, 1.5, 2.0  # more than two thirds must survive
TASK = (
    *(override for override in TINY if not override.startswith("partition")),
    "dataset.patients=160",
    "partition=iid",
    f"partition.clients={CLIENTS}",
    "strategy=dp_fedavg",
    "strategy.noise=distributed",
    "strategy.fraction=1",
    f"strategy.clip_norm={NORM}",
    "client.steps=1",
    "rounds=1",
    "faults.on_failure=exclude",
)


def lost(*clients: int) -> str:
    return f"faults.inject=[{{kind: dropout, rate: 1.0, clients: {list(clients)}}}]"


def saved(folder: Path) -> Path:
    return RunDirectory(folder).checkpoint.parent / "model.safetensors"


def weights(folder: Path) -> np.ndarray:
    arrays = load_file(saved(folder))
    return np.concatenate([arrays[name].ravel() for name in sorted(arrays)]).astype(np.float64)


@pytest.mark.parametrize("gone", [(), (3,), (2, 5)])
def test_the_noise_on_the_sum_is_the_ledgers_for_as_few_as_must_survive(
    gone: tuple[int, ...], launch: Launch, tmp_path: Path
) -> None:
    """Of n survivors, where t must survive, z·C·√(n/t): measured on the sum that is opened."""
    task = (*TASK, *([lost(*gone)] if gone else []))
    quiet = launch(*task, "aggregation=fixed", "strategy.noise_multiplier=0", folder=tmp_path / "0")
    noisy = [f"strategy.noise_multiplier={Z}"]
    said = launch(*task, "aggregation=fixed", *noisy, folder=tmp_path / "fixed")
    hidden = launch(*task, "aggregation=secagg", *noisy, folder=tmp_path / "secagg")
    assert quiet["privacy"]["epsilon"] == "inf"
    assert said["model_sha256"] == hidden["model_sha256"] != quiet["model_sha256"]

    left = CLIENTS - len(gone)
    noise = (weights(tmp_path / "secagg") - weights(tmp_path / "0")) * left
    assert noise.size > 10_000
    expected = Z * NORM * math.sqrt(left / LEAST_LEFT)
    low, high = stats.chi2.ppf([1e-4, 1 - 1e-4], noise.size)
    assert low < np.square(noise / expected).sum() < high
    assert high / low < 1.09  # it would tell 8 survivors from 7, and 7 from 6
    assert stats.kstest(noise / expected, "norm").pvalue > 1e-4

    events = json.loads((tmp_path / "secagg" / "ledger.json").read_text())["events"]
    assert {(e["noise_multiplier"], e["rate"], e["unit"]) for e in events} == {(Z, 1.0, "client")}
    assert expected * (1 + 1e-12) >= Z * NORM
    delta = hidden["privacy"]["delta"]
    exact = optimize.brentq(lambda e: gaussian_delta(e, Z) - delta, 0.01, 50)
    assert hidden["privacy"]["epsilon"] == pytest.approx(exact, rel=1e-3)
    assumed = "\n".join(hidden["privacy"]["assumptions"])
    for stated in ("as few survive as must", "discrete Gaussian", "by secure aggregation"):
        assert stated in assumed
    assert "SIMULATION" in "\n".join(said["privacy"]["assumptions"])
    assert "SIMULATION" not in assumed


def test_where_all_must_survive_the_noise_is_that_of_a_central_server(
    launch: Launch, tmp_path: Path
) -> None:
    """At the same ε; elsewhere the same up to the grid, so that utility is the same too."""
    ways = {
        "central": ("strategy.noise=central",),
        "distributed": ("aggregation=secagg", "aggregation.threshold=0.9"),
    }
    spent, deviations = [], []
    for way, overrides in ways.items():
        quiet, noisy = (
            launch(
                *TASK, *overrides, f"strategy.noise_multiplier={z}", folder=tmp_path / f"{way}{z}"
            )
            for z in (0, Z)
        )
        spent.append(noisy["privacy"]["epsilon"])
        assert quiet["test"] != noisy["test"]
        noise = weights(tmp_path / f"{way}{Z}") - weights(tmp_path / f"{way}0")
        deviations.append(float(noise.std()))
    apart = weights(tmp_path / "central0") - weights(tmp_path / "distributed0")
    assert np.abs(apart).max() < NORM * 2.0**-15
    assert spent[0] == spent[1]
    assert deviations == pytest.approx([Z * NORM / CLIENTS] * 2, rel=0.03)


def test_a_round_that_lost_more_than_may_be_lost_releases_nothing(
    launch: Launch, tmp_path: Path
) -> None:
    for kind in ("fixed", "secagg"):
        with pytest.raises(FedmedError, match=r"^round 1: aggregation: 5 of 8 clients") as error:
            launch(*TASK, lost(0, 1, 2), f"aggregation={kind}", folder=tmp_path / kind)
        assert "\n" not in str(error.value)
        assert not saved(tmp_path / kind).exists()


def sent() -> RecordDict:
    start = {"a": np.zeros((20, 10), np.float32), "b": np.zeros(7, np.float32)}
    return RecordDict({ARRAYS: to_record(start), CONFIG: ConfigRecord({"clip-norm": NORM})})


def test_a_grid_too_coarse_for_the_shares_is_refused() -> None:
    def plan(bits: int, z: float, members: int = CLIENTS, *more: str) -> Plan:
        overrides = [f"strategy.noise_multiplier={z}", f"aggregation.bits={bits}", *more]
        task = compose([*TASK, "aggregation=fixed", *overrides])
        return plan_of(task, task.aggregation.build(), sent(), members)

    assert plan(17, 0.01).codec.bits == 17
    for bits, z, members in ((8, 0.5, 8), (4, 1.5, 8), (9, 1.0, 400)):
        with pytest.raises(ConfigError, match=r"^aggregation\.bits: .*_multiplier.*more bits$"):
            plan(bits, z, members)
    with pytest.raises(ConfigError, match=r"^aggregation\.bits: "):  # the votes' noise counts too
        plan(12, 1.0, 8, "strategy.quantile=0.5", "strategy.count_noise=0.51", "aggregation.bits=5")
    assert plan(4, 0.0).codec.bits == 4  # without noise no grid is too coarse for it
    step = plan(17, 1.0).codec.blocks[0].step(17)
    at_edge = LEAST * step * math.sqrt(LEAST_LEFT) / NORM
    plan(17, at_edge * (1 + 1e-12))
    with pytest.raises(ConfigError):
        plan(17, at_edge * (1 - 1e-12))


@pytest.mark.parametrize("weight", [0.5, math.nextafter(1.0, 2.0), 8.0])
def test_no_client_lets_itself_be_weighed_beyond_its_bound(weight: float) -> None:
    part = ClippedSum(Mechanism("distributed", 1.0, None, 1.0), NORM, 3)
    shapes = {"a": (20, 10), "b": (7,)}
    plan = Plan(part, Codec(tuple(part.blocks(shapes)), 17, True), 20)
    trained = to_record({name: np.ones(shape, np.float32) for name, shape in shapes.items()})
    content = RecordDict({ARRAYS: trained, "metrics": MetricRecord({"loss": 1.0})})
    with pytest.raises(FedmedError, match="is told as the weight of a bounded update"):
        plan.encode(sent(), content, weight, 0)


PAILLIER = PaillierSum(
    bits=17,
    range=1.0,
    statistics_range=1.0,
    threshold=0.6667,
    holder=0,
    key_bits=2048,
    blinding="djn",
)


def session(members: int = CLIENTS) -> Session:
    return Session("0" * 64, 1, b"a" * 16, tuple(range(members)))


class Kept:
    """A vault in memory."""

    secret = b""

    def store(self, secret: bytes) -> None:
        self.secret = secret

    def load(self) -> bytes:
        return self.secret

    def clear(self) -> None:
        self.secret = b""


@pytest.mark.parametrize("clients", [3, 5, 9])
def test_a_holder_reads_no_sum_with_less_noise_than_was_counted_on(clients: int) -> None:
    """Shares are for six of eight: of a sum of three the noise would be half of what is stated."""
    own = Party(0, Kept())
    PAILLIER.answer(session(), "generate", {}, own)
    told = {"size": 4, "width": 20, "clients": clients, "total": np.zeros(8, np.uint8)}
    with pytest.raises(FedmedError, match=f"asked to read a sum of {clients} clients"):
        PAILLIER.answer(session(), "read", told, own)


def test_a_holder_reads_for_the_members_that_it_made_a_key_for() -> None:
    """Else clients could be told of forty members, whose shares are small, and it of eight."""
    own = Party(0, Kept())
    PAILLIER.answer(session(40), "generate", {}, own)
    told = {"size": 4, "width": 20, "clients": 6, "total": np.zeros(8, np.uint8)}
    with pytest.raises(FedmedError, match="a sum of another attempt or cohort"):
        PAILLIER.answer(session(), "read", told, own)


def test_a_client_takes_no_part_in_a_sum_whose_members_are_unknown_or_not_the_holders(
    tmp_path: Path,
) -> None:
    signers = hospital_keys(tmp_path)
    peers = {number: signer.public for number, signer in signers.items()}
    holder = Party(0, Kept(), signers[0], peers)
    key = PAILLIER.answer(session(), "generate", {}, holder)
    vector, own = np.zeros(4, np.int32), Party(1, Kept(), signers[1], peers)
    assert PAILLIER.protect(session(), vector, 20, key, own).dtype == np.uint8
    with pytest.raises(FedmedError, match=r"of clients that this hospital's policy does not know"):
        PAILLIER.protect(session(40), vector, 20, key, own)
    with pytest.raises(FedmedError, match="bears no signature of the hospital that holds the key"):
        PAILLIER.protect(session(6), vector, 20, key, own)  # known ones, and not all
