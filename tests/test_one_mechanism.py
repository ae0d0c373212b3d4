"""DP-FedAvg's mechanism is said once: server, clients, ledger and disclosure have the same one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY
from flwr.app import ConfigRecord
from flwr.serverapp.strategy import FedAvg, Strategy
from test_tracking import OFFLINE, records

from fedmed.config import compose
from fedmed.core.errors import ConfigError, FedmedError
from fedmed.experiment.assembly import built
from fedmed.federation.update_steps import UpdateStep, local_of
from fedmed.privacy import Event
from fedmed.privacy.disclosure import Disclosure
from fedmed.report import entry
from fedmed.runs.run import Run
from fedmed.strategies.noisy_update import ClippedSum, Mechanism, NoisyUpdate

SMALL = (*TINY, "dataset.patients=60", "client.steps=1", "rounds=1")
STEP = "_target_: fedmed.strategies.noisy_update.NoisyUpdate"
FIVE = {
    "noise": ("local", "distributed"),
    "noise_multiplier": (1.5, 0.0),
    "quantile": (0.3, 0.9),
    "count_noise": (1.5, 2.5),
    "secure_noise": (True, False),
}
#: Such that each of the five has an effect.
BASE = ("strategy=dp_fedavg", "strategy.quantile=0.5", "strategy.clip_lr=0.1")
Launch = Callable[..., dict[str, Any]]


def mechanisms(*overrides: str) -> tuple[Mechanism, Mechanism]:
    """Return the mechanism of the server and that of its clients, as each builds it."""
    config = compose([*BASE, *overrides])
    server = config.strategy.server.build()
    if server.sums:
        part = server.summand(ConfigRecord({"clip-norm": 1.0}), 3)
        assert isinstance(part, ClippedSum)
        assert local_of(config.strategy)[1] == []
        return server.mechanism, part.mechanism
    _, (step,) = local_of(config.strategy)
    assert isinstance(step, NoisyUpdate)
    return server.mechanism, step.mechanism


@pytest.mark.parametrize("key", FIVE)
def test_each_argument_reaches_server_and_clients_alike(key: str) -> None:
    for value in FIVE[key]:
        server, client = mechanisms(f"strategy.{key}={value}")
        assert server == client
        assert getattr(server, key) == value


@pytest.mark.parametrize("key", FIVE)
@pytest.mark.parametrize("build", [True, False])
def test_no_argument_can_be_said_twice(key: str, build: bool) -> None:
    """Neither to the server alone, nor to a client, where an override of either once went."""
    value = FIVE[key][0]
    for spelling, message in (
        (f"strategy.server.{key}={value}", rf"^strategy\.{key}: unknown key, which nothing refers"),
        (f"strategy.local.{key}={value}", r"strategy\.local"),
        (f"+strategy.local.{key}={value}", r"strategy\.local"),
        (f"+strategy.local={{{STEP},{key}:{value}}}", r"^strategy\.local\.\w+: unknown"),
        (f"strategy.local=[{{{STEP},{key}:{value}}}]", r"^strategy\.local\[0\]\.\w+: unknown"),
    ):
        with pytest.raises(ConfigError, match=message) as error:
            compose([*BASE, spelling], build)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("strategy", ["fedavg", "dp_fedavg", "dp_fedavg_local"])
@pytest.mark.parametrize(
    "local",
    [
        f"{{{STEP}}}",
        f"[{{{STEP}}}]",
        f"{{{STEP},mechanism:null}}",
        f"{{{STEP},mechanism:{{noise:local,noise_multiplier:0,quantile:null,count_noise:1}}}}",
    ],
)
def test_no_configuration_makes_the_step(strategy: str, local: str) -> None:
    """Beside DP-FedAvg's own it would clip twice; without, nothing adds up what it decodes to."""
    with pytest.raises(ConfigError, match=r"^strategy\.local") as error:
        compose([f"strategy={strategy}", f"strategy.local={local}"])
    assert "\n" not in str(error.value)


class Other(UpdateStep):
    """Another step."""


OTHER = "{_target_: test_one_mechanism.Other}"


@pytest.mark.parametrize("noise", ["central", "local"])
@pytest.mark.parametrize("local", [OTHER, f"[{OTHER}]"])
def test_other_steps_come_after_the_noise_and_are_undone_before(noise: str, local: str) -> None:
    config = compose(["strategy=dp_fedavg", f"strategy.noise={noise}", f"strategy.local={local}"])
    _, steps = local_of(config.strategy)
    assert [type(step) for step in steps] == [NoisyUpdate, Other]


def test_shares_of_noise_are_changed_by_no_other_step(launch: Launch) -> None:
    distributed = ("strategy=dp_fedavg", "strategy.noise=distributed")
    for aggregation in ("fixed", "secagg"):
        with pytest.raises(ConfigError, match=r"^strategy\.local: takes no UpdateStep with"):
            launch(*SMALL, *distributed, f"aggregation={aggregation}", f"strategy.local={OTHER}")
    with pytest.raises(ConfigError, match=r"^aggregation: DPFedAvg relies on a server that has"):
        launch(*SMALL, *distributed)
    for noise in ("central", "local"):
        with pytest.raises(ConfigError, match=r"^strategy\.noise: takes distributed where"):
            launch(*SMALL, "strategy=dp_fedavg", f"strategy.noise={noise}", "aggregation=fixed")


class Own(FedAvg):
    """A private strategy of one's own, without a key ``noise``."""

    delta, secure_noise, assumptions = 1e-3, False, ("it is a test",)

    def __init__(self, hides: bool, **fedavg: Any) -> None:
        super().__init__(**fedavg)
        self.secret_cohort = hides

    def privacy_events(self, server_round: int) -> list[Event]:
        return [Event(server_round, "client", 5.0, 1.0)]


class Silent(Own):
    """One that does not say whether its cohort is secret."""

    def __init__(self, hides: bool, **fedavg: Any) -> None:
        super().__init__(hides, **fedavg)
        del self.secret_cohort


def made(hides: bool, weighted_by_key: str) -> Strategy:
    """Return a private strategy, which its name does not show."""
    return Own(hides, weighted_by_key=weighted_by_key)


def server(name: str, **more: Any) -> tuple[str, ...]:
    content = {"_target_": f"test_one_mechanism.{name}", "weighted_by_key": "weight", **more}
    return ("strategy.server=" + json.dumps(content).replace('"', ""),)


@pytest.mark.parametrize("hides", [True, False])
def test_a_private_strategy_says_itself_whether_its_cohort_is_secret(
    hides: bool, launch: Launch, tmp_path: Path
) -> None:
    own = ("~strategy.server", *(f"+{s}" for s in server("Own", hides=hides)))
    said = launch(*SMALL, *OFFLINE, *own)
    config = compose([*SMALL, *own])
    assert Disclosure.of(config) == Disclosure(True, True, True, not hides)
    run = Run(tmp_path / "run")
    assert Disclosure.recorded(run.summary) == Disclosure.of(config)
    assert said["privacy"]["unit"] == "client"
    cost = entry.entry(run, None)["cost"]
    assert (cost["seconds"] is None, cost["bytes"] is None) == (hides, hides)
    mirrored = str(records(tmp_path / "run"))
    assert ("bytes_up" in mirrored) != hides
    secret = "what tells how many clients joined a round stays with the server"
    assert any(secret in line for line in said["privacy"]["assumptions"]) == hides


@pytest.mark.parametrize("noise", ["central", "distributed", "local"])
def test_what_says_whether_it_is_secret_is_what_adds_the_noise(noise: str) -> None:
    config = compose(["strategy=dp_fedavg", f"strategy.noise={noise}"])
    assert Disclosure.of(config).cohorts == (noise != "central")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Silent", r"^strategy\.server: Silent has privacy_events and no secret_cohort"),
        ("made", r"^strategy\.server: what test_one_mechanism\.made makes has privacy_events"),
    ],
)
def test_a_strategy_that_does_not_say_it_is_refused(name: str, message: str) -> None:
    own = (f"+{s}" for s in server(name, hides=True))
    config = compose([*SMALL, "strategy.weighting=uniform", "~strategy.server", *own])
    with pytest.raises(ConfigError, match=message) as error:
        built(config)
    assert "\n" not in str(error.value)


def test_noise_that_does_not_repeat_counts_again_wherever_it_is_said(
    launch: Launch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of a strategy of one's own too, which has no key of that name."""
    monkeypatch.setattr(Own, "secure_noise", True)
    launch(*SMALL, "~strategy.server", *(f"+{s}" for s in server("Own", hides=False)))
    kept = json.loads((tmp_path / "run" / "ledger.json").read_text())
    assert kept["repeatable"] is False


def test_a_summary_that_does_not_say_shows_nothing() -> None:
    assert Disclosure.recorded({}) == Disclosure(False, False, False, False)


@pytest.mark.parametrize("noise", ["central", "local"])
def test_clients_are_told_how_many_join_only_where_it_is_no_secret(noise: str) -> None:
    from test_dp_fedavg import SMALL as ARRAYS
    from test_dp_fedavg import grid, strategy

    from fedmed.flower import process
    from fedmed.models import to_record

    process.host()
    dp = strategy(1.0, noise=noise)
    sent = list(dp.configure_train(1, to_record(ARRAYS), ConfigRecord(), grid(4)))
    told = [set(message.content.config_records["config"]) for message in sent]
    assert all(("cohort" in names) == (noise == "local") for names in told)


def test_the_fault_that_was_found(launch: Launch) -> None:
    """Clients without noise under a ledger that claims ε: composed, and run, until it was found."""
    with pytest.raises(FedmedError, match=r"strategy\.local"):
        launch(*SMALL, "strategy=dp_fedavg_local", "strategy.local.noise_multiplier=0")
