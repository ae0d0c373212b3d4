"""Robust rules withstand what they say, by hand, and refuse what they cannot."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY
from flwr.app import Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import (
    Bulyan,
    FedAvg,
    FedMedian,
    FedTrimmedAvg,
    Krum,
    MultiKrum,
    Strategy,
)
from numpy.typing import NDArray
from safetensors.numpy import load_file
from scipy.stats import trim_mean

from fedmed.core.errors import ConfigError, FedmedError
from fedmed.federation.robust import check, needed
from fedmed.flower import process
from fedmed.models import from_record, to_record
from fedmed.strategies.dp_fedavg import DPFedAvg


def aggregate(strategy: Strategy, vectors: NDArray[np.float32]) -> NDArray[np.float32] | None:
    process.host()
    replies = []
    for node, vector in enumerate(vectors, 1):
        values = MetricRecord({"num-examples": 1})
        content = RecordDict({"arrays": to_record({"w": vector}), "metrics": values})
        replies.append(Message(content, dst_node_id=node, message_type="train"))
    arrays, _ = strategy.aggregate_train(1, replies)
    return None if arrays is None else from_record(arrays)["w"]


def crowd(n: int, bad: int) -> NDArray[np.float32]:
    """n vectors near 1, of which some lie far away, all on one side."""
    vectors = np.random.default_rng(n).normal(1, 0.1, (n, 5)).astype(np.float32)
    vectors[:bad] = 1000
    return vectors


@pytest.mark.parametrize("f", [1, 2, 3])
@pytest.mark.parametrize(
    ("rule", "least"),
    [
        (lambda f: Krum(num_malicious_nodes=f), lambda f: 2 * f + 3),
        (lambda f: MultiKrum(num_malicious_nodes=f, num_nodes_to_select=2), lambda f: 2 * f + 3),
        (lambda f: MultiKrum(num_malicious_nodes=f, num_nodes_to_select=9), lambda f: f + 11),
        (lambda f: Bulyan(num_malicious_nodes=f), lambda f: 4 * f + 3),
    ],
)
def test_of_as_many_as_it_takes_a_rule_withstands_f(
    rule: Callable[[int], Strategy], least: Callable[[int], int], f: int
) -> None:
    strategy, n = rule(f), least(f)
    assert needed(strategy).clients == n
    check(strategy, n, 1)
    found = aggregate(strategy, crowd(n, f))
    assert found is not None
    np.testing.assert_allclose(found, 1, atol=0.5)
    with pytest.raises(ConfigError, match=f"round 7: strategy: .* there are {n - 1}; "):
        check(strategy, n - 1, 7)


@pytest.mark.parametrize("share", [0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 0.29, 0.3, 1 / 3, 0.4, 0.49])
def test_a_trimmed_mean_trims_at_least_one_at_each_end(share: float) -> None:
    """The least number of clients is that from which on SciPy's trimmed mean is not the mean."""
    strategy = FedTrimmedAvg(beta=share)
    least = next(n for n in range(1, 300) if trim_mean([1.0] + [0.0] * (n - 1), share) != 1 / n)
    assert needed(strategy).clients == least
    check(strategy, least, 1)
    with pytest.raises(ConfigError, match="trims nobody"):
        check(strategy, least - 1, 1)
    found = aggregate(FedTrimmedAvg(beta=share), crowd(least, 1))
    assert found is not None
    np.testing.assert_allclose(found, 1, atol=0.5)


def test_a_trimmed_mean_of_no_share_and_a_median_of_two_are_means() -> None:
    with pytest.raises(ConfigError, match="trims nobody and is the mean"):
        check(FedTrimmedAvg(beta=0.0), 10**6, 1)
    with pytest.raises(ConfigError, match="FedMedian is the mean of fewer than 3"):
        check(FedMedian(), 2, 1)
    check(FedMedian(), 3, 1)
    found = aggregate(FedMedian(), crowd(3, 1))
    assert found is not None
    np.testing.assert_allclose(found, 1, atol=0.5)


def test_other_rules_take_any_cohort() -> None:
    check(FedAvg(), 1, 1)
    check(DPFedAvg(0.5, 1.0, 1.0, 1e-5, 0), 0, 1)  # whose cohort may be empty


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["strategy=krum", "strategy.malicious=1"],
            r"against 1 malicious takes at least 2 \* 1 \+ 3",
        ),
        (["strategy=fedtrimmedavg"], "a share of 0.2 trims nobody of fewer than 5; there are 4"),
        (["faults.inject=[{kind:raise,clients:[4]}]"], "faults.inject: client 4, of 0 to 3"),
        (
            ["strategy.server.min_available_nodes=5"],
            r"strategy\.server\.min_available_nodes: 5, of 4 clients: the run would wait for ever",
        ),
        (["strategy=fedmedian", "strategy.fraction=0.5"], "FedMedian is the mean of fewer than 3"),
    ],
)
def test_a_run_of_too_few_is_refused_before_it_trains(
    overrides: list[str], said: str, launch: Callable[..., dict[str, Any]]
) -> None:
    rule = "strategy.local={_target_: test_faults.Raises}"  # a client that trains would say so
    with pytest.raises(ConfigError, match=said):
        launch(*TINY, "rounds=1", rule, *overrides)


@pytest.mark.parametrize("name", ["krum", "fedtrimmedavg"])
def test_a_round_that_loses_too_many_is_refused(
    name: str, launch: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """Five clients suffice in the first round; in the second one drops out."""
    inject = "faults.inject=[{kind:dropout,clients:[2],rounds:[2]}]"
    config = (*TINY, "partition.clients=5", f"strategy={name}", "faults.on_failure=exclude")
    with pytest.raises(FedmedError, match=r"round 2: strategy: .* there are 4"):
        launch(*config, inject)
    assert (tmp_path / "run" / "checkpoint" / "checkpoint.safetensors").exists()


def test_the_trimmed_mean_of_a_run_is_its_clients(
    launch: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """Each client's own weights, as a run of it alone leaves them, trimmed by SciPy."""
    config = (*TINY, "partition.clients=5", "rounds=1", "strategy.weighting=uniform")
    launch(*config, "strategy=fedtrimmedavg", folder=tmp_path / "all")
    alone = []
    for k in range(5):
        others = [other for other in range(5) if other != k]
        gone = f"faults.inject=[{{kind:dropout,clients:{others}}}]".replace(" ", "")
        launch(*config, "faults.on_failure=exclude", gone, folder=tmp_path / str(k))
        alone.append(load_file(tmp_path / str(k) / "checkpoint" / "model.safetensors"))
    found = load_file(tmp_path / "all" / "checkpoint" / "model.safetensors")
    for name, values in found.items():
        by_hand = trim_mean(np.stack([weights[name] for weights in alone]), 0.2)
        np.testing.assert_allclose(values, by_hand, rtol=1e-5, atol=1e-7)


def test_the_command_line_says_it_in_a_line(
    command: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = command(*TINY, "strategy=krum", f"hydra.run.dir={tmp_path / 'run'}")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 2
    assert output.strip().splitlines()[-1].startswith("fedmed: round 1: strategy: Krum against 1")
    assert "Traceback" not in output
