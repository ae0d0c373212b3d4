"""The ledger's ε is right, cumulative, and never shrinks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, metrics

from fedmed.config import compose
from fedmed.core.errors import ConfigError, FedmedError
from fedmed.privacy import Event, Ledger, epsilon
from fedmed.privacy.assumptions import caveats
from fedmed.privacy.budget import PrivacyBudget, planned, schedule
from fedmed.runs.console import _guarantee
from fedmed.runs.directory import RunDirectory

DELTA = 1e-5
DP = ("privacy=dpsgd", "client.batch_size=8", "client.steps=2")


def test_ledger_counts_a_repeated_round_once_and_secure_noise_again(tmp_path: Path) -> None:
    event = Event(1, "patient", 1.0, 0.1, client=0, steps=5)
    for repeatable, counted in ((True, 1), (False, 2)):
        path = tmp_path / f"{repeatable}.json"
        Ledger.open(path, {"patient": DELTA}, repeatable=repeatable).record(event)
        ledger = Ledger.open(path, {"patient": DELTA}, repeatable=repeatable)  # after a crash
        ledger.record(event)
        again = Ledger.open(path, {"patient": DELTA}, repeatable=repeatable)
        assert len(again.events) == counted
        assert again.epsilon("patient") == epsilon([event] * counted, DELTA)


def test_patients_are_disjoint_and_units_do_not_mix(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "ledger.json", {"client": 1e-3, "patient": DELTA}, ("a",))
    small, large = (Event(1, "patient", z, 0.1, client=c, steps=5) for c, z in ((0, 2), (1, 1)))
    about_clients = Event(1, "client", 1.0, 0.5)
    ledger.record(small, large, about_clients)
    stated = ledger.statement()
    assert stated["unit"] == "patient"
    assert stated["epsilon"] == epsilon([large], DELTA)  # the maximum, not the sum
    assert stated["per_client"]["0"] == epsilon([small], DELTA)
    (other,) = stated["also"]
    assert (other["unit"], other["delta"]) == ("client", 1e-3)
    assert other["epsilon"] == epsilon([about_clients], 1e-3)
    assert stated["assumptions"] == ["a"]


@pytest.mark.parametrize(
    ("unit", "of", "far"),
    [
        ("image", "a patient with 10 images", {"group": 10}),
        ("client", "which data a client has", {"replaced": True}),
    ],
)
def test_what_a_claim_is_too_easily_taken_for_stands_beside_it(
    unit: str, of: str, far: dict[str, Any], tmp_path: Path
) -> None:
    ledger = Ledger.open(tmp_path / "ledger.json", {unit: DELTA})
    event = Event(1, unit, 4.0, 0.2, steps=5)
    ledger.record(event)
    stated = ledger.statement()
    (implied,) = stated["implied"]
    assert implied["of"] == of
    assert implied["epsilon"] == epsilon([event], DELTA, **far) > stated["epsilon"]
    assert stated["neighbouring"] == "zero-out-one"
    assert f"; of {of} {implied['epsilon']:.2f}" in _guarantee(stated)


def test_local_noise_hides_which_data_and_nothing_else_is_implied(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "ledger.json", {"client": DELTA})
    ledger.record(Event(1, "client", 2.0, 1.0, neighbouring="replace-one", client=0))
    assert ledger.statement()["implied"] == []


@pytest.mark.parametrize(
    ("delta", "n", "said"),
    [(0.5, 90, True), (1 / 90, 90, True), (1e-5, 90, False), (0.0, 9, False)],
)
def test_a_delta_that_is_not_small_is_told(delta: float, n: int, said: bool) -> None:
    """Publishing one of n at random is (0, 1/n)-private, whatever ε is."""
    told = caveats({"patient": delta}, {"patient": n})
    assert bool(told) == said
    assert caveats({"patient": delta}, {}) == ()  # of how many is not known


def test_a_large_delta_is_told_wherever_epsilon_stands(
    launch: Callable[..., dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    large = ("privacy.noise_multiplier=1", "privacy.delta=0.5", "rounds=1")
    summary = launch(*TINY, *DP, *large, "strategy=dp_fedavg", "strategy.delta=0.3")
    patients = summary["patients"]["train"]
    for unit, n in (("patient", patients), ("client", 4)):
        (told,) = (c for c in summary["privacy"]["caveats"] if f"{n} {unit}s" in c)
        assert "is no promise" in told
    assert json.loads((tmp_path / "run" / "ledger.json").read_text())["caveats"] == [
        *summary["privacy"]["caveats"]
    ]
    assert capsys.readouterr().out.count("is no promise to") == 4  # before the rounds, and after
    small = launch(*TINY, *DP, "privacy.noise_multiplier=1", "rounds=1", folder=tmp_path / "small")
    assert small["privacy"]["caveats"] == []


def test_schedule_and_plan() -> None:
    config = compose(["privacy=dpsgd", "privacy.epsilon=2", "client.batch_size=30", "rounds=5"])
    assert schedule(config.client, 100) == (0.3, 4)
    assert schedule(config.client, 20) == (1.0, 1)
    few, many = planned(config, [100, 900])
    assert many.steps == 30
    assert many.rate == pytest.approx(1 / 30)
    assert many.noise_multiplier < few.noise_multiplier
    whole = [Event(r, "patient", few.noise_multiplier, 0.3, steps=4) for r in range(5)]
    assert 0.97 * 2 < epsilon(whole, DELTA) <= 2


def test_a_client_stops_before_it_would_pass_its_budget(tmp_path: Path) -> None:
    config = compose([*TINY, *DP, "privacy.noise_multiplier=1", "privacy.epsilon=4"])
    ledger = Ledger.open(tmp_path / "ledger.json", {"patient": DELTA})
    budget = PrivacyBudget(planned(config, [40, 400]), 4.0, ledger)
    authorised = [budget.authorise(round_, [0, 1]) for round_ in range(1, 30)]
    assert authorised[0] == [0, 1]
    assert authorised[-1] == [1]
    stop = ledger.stopped[0]
    assert authorised[stop - 2 : stop] == [[0, 1], [1]]
    assert ledger.per_client("patient")[0] <= 4
    one_more = [*ledger.of_client("patient", 0), ledger.of_client("patient", 0)[0]]
    assert epsilon(one_more, DELTA) > 4
    assert budget.authorise(1, [0, 1]) == [0, 1]  # run again after a crash: it is paid for


def test_epsilon_accumulates_over_the_rounds_by_the_steps_taken(
    launch: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    summary = launch(*TINY, *DP, "privacy.noise_multiplier=1", "client.steps=null")
    rows = metrics(tmp_path / "run")
    curve = rows.query("scope == 'privacy'").pivot_table(
        index="round", columns="client", values="value"
    )
    assert (curve.diff().dropna() > 0).all(axis=None)
    taken = rows.query("metric == 'steps'").groupby("client")["value"].sum()
    ledger = json.loads((tmp_path / "run" / "ledger.json").read_text())
    for client, steps in zip(map(str, taken.index.astype(int)), taken, strict=True):
        mine = [Event(**e) for e in ledger["events"] if str(e["client"]) == client]
        assert sum(event.steps for event in mine) == steps
        assert summary["privacy"]["per_client"][client] == epsilon(mine, DELTA)
    assert summary["privacy"]["epsilon"] == max(summary["privacy"]["per_client"].values())


def test_run_goes_on_without_the_spent_and_ends_when_none_is_left(
    launch: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    budget = ("privacy.noise_multiplier=1", "privacy.epsilon=6", "rounds=30", "evaluate_every=30")
    summary = launch(*TINY, *DP, *budget)
    assert summary["status"] == "finished"
    assert 1 < summary["rounds_done"] < 30
    assert summary["privacy"]["epsilon"] <= 6
    assert len(summary["privacy"]["stopped"]) > 0
    assert summary["test"]["macro_auroc"] is not None


def test_secure_noise_is_not_repeatable_and_counts_again_after_a_crash(
    launch: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    config = (*TINY, *DP, "privacy.noise_multiplier=1", "privacy.secure_noise=true", "rounds=1")
    first = launch(*config)
    assert first["privacy"]["repeatable"] is False
    assert any("cannot be repeated" in line for line in first["privacy"]["assumptions"])
    run = RunDirectory(tmp_path / "run")
    (run.path / "summary.json").unlink()
    run.checkpoint.unlink()  # as if cut off between ledger and checkpoint
    again = launch(*config)
    assert again["model_sha256"] != first["model_sha256"]
    assert again["privacy"]["releases"] == 2 * first["privacy"]["releases"]
    assert again["privacy"]["epsilon"] > first["privacy"]["epsilon"]


def test_patients_and_clients_are_both_protected_and_stated_apart(
    launch: Callable[..., dict[str, Any]],
) -> None:
    both = ("strategy=dp_fedavg", "strategy.fraction=1.0", "privacy.noise_multiplier=1")
    spent = launch(*TINY, *DP, *both, "rounds=1")["privacy"]
    assert spent["unit"] == "patient"
    assert [other["unit"] for other in spent["also"]] == ["client"]


SEEDED = (*TINY, *DP, "privacy.noise_multiplier=1", "rounds=1", "dataset.patients=60")
SECURE = (*SEEDED, "privacy.secure_noise=true")


@pytest.mark.parametrize(
    ("config", "times"), [(SEEDED, 1), (SECURE, 2)], ids=["seeded", "from the system"]
)
def test_force_does_not_give_back_what_was_spent(
    config: tuple[str, ...], times: int, launch: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """Run anew, the same release counts once, and another one is added to the first."""
    first = launch(*config)["privacy"]
    again = launch(*config, "force=true")["privacy"]
    assert again["releases"] == times * first["releases"]
    for client, spent in again["per_client"].items():
        kept = json.loads((tmp_path / "run" / "ledger.json").read_text())["events"]
        mine = [Event(**e) for e in kept if e["client"] == int(client)]
        assert spent == epsilon(mine, DELTA)
        assert (spent > first["per_client"][client]) == (times > 1)


def test_what_is_not_the_same_release_counts_again(tmp_path: Path) -> None:
    """Round 1 from other code or on another machine; round 2 for the first time; pixels once."""
    path, deltas = tmp_path / "ledger.json", {"patient": DELTA, "content": 0.0}
    one, two = (Event(r, "patient", 1.0, 1.0, client=0) for r in (1, 2))
    pixels = Event(0, "content", 1.0, 1.0, mechanism="laplace", client=0)
    counted: list[int] = []
    for basis, events in (("a", [one]), ("a", [one]), ("b", [one, two]), ("a", [one, two])):
        ledger = Ledger.open(path, deltas, config_sha256="c", basis=basis)
        assert ledger.holds(one) == (bool(counted) and basis == "a")
        ledger.record_lasting("d", pixels)
        ledger.record(*events)
        counted.append(len(ledger.of_client("patient", 0)))
        assert len(ledger.of_client("content", 0)) == 1
    assert counted == [1, 1, 3, 4]


def test_a_budget_that_earlier_attempts_spent_is_spent(
    launch: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    config = (*SECURE, "privacy.epsilon=3", "privacy.noise_multiplier=null")
    first = launch(*config)["privacy"]["epsilon"]
    with pytest.raises(ConfigError, match="earlier attempts at this run have spent"):
        launch(*config, "force=true")
    events = json.loads((tmp_path / "run" / "ledger.json").read_text())["events"]
    spent = [epsilon([Event(**e) for e in events if e["client"] == c], DELTA) for c in range(4)]
    assert max(spent) == first


@pytest.mark.parametrize("harm", ["flipped", "cut", "gone", "another's"])
def test_a_ledger_that_cannot_be_believed_ends_the_run(
    harm: str, launch: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """Nor does force=true get past it; moved with its directory, the ledger is the run's."""
    launch(*SEEDED)
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    ledger = moved / "ledger.json"
    text = ledger.read_text()
    assert launch(*SEEDED, folder=moved)["status"] == "finished"
    if harm == "another's":
        with pytest.raises(FedmedError, match="a run of another configuration has spent"):
            launch(*SEEDED, "client.lr=0.01", "force=true", folder=moved)
        assert ledger.read_text() == text
        return
    if harm == "gone":
        ledger.unlink()
    else:
        at = text.index("noise_multiplier") + len('noise_multiplier": ')
        ledger.write_text(text[:at] + "9" + text[at + 1 :] if harm == "flipped" else text[:at])
    told = f"ledger.json: is {'gone' if harm == 'gone' else 'damaged'}"
    with pytest.raises(FedmedError, match=told):
        launch(*SEEDED, folder=moved)
    (moved / "summary.json").unlink()  # as if cut off before its end
    with pytest.raises(FedmedError, match=told):
        launch(*SEEDED, folder=moved)
    if harm != "gone":
        with pytest.raises(FedmedError, match="is damaged"):
            launch(*SEEDED, "force=true", folder=moved)
        assert (moved / "checkpoint").exists()
