"""The ledger's ε is right, cumulative, and never shrinks."""

import json
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import dp_accounting
import pytest
from conftest import TINY, metrics
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from opacus.accountants import PRVAccountant
from opacus.accountants import RDPAccountant as OpacusRdp
from opacus.accountants.analysis import rdp as analysis
from scipy import optimize, stats

from fedmed.config import compose
from fedmed.core.errors import ConfigError, FedmedError
from fedmed.privacy import Event, Ledger, epsilon
from fedmed.privacy.accounting import PRV, RENYI, cross_checks, noise_for
from fedmed.privacy.assumptions import caveats
from fedmed.privacy.budget import PrivacyBudget, planned, schedule
from fedmed.runs.console import _guarantee
from fedmed.runs.directory import RunDirectory

DELTA = 1e-5
DP = ("privacy=dpsgd", "client.batch_size=8", "client.steps=2")
#: Two phases of a client: what a run with a changed batch size would leave.
MIXED = [
    *(Event(r, "patient", 1.1, 0.02, client=0, steps=30) for r in range(1, 11)),
    *(Event(r, "patient", 1.5, 0.05, client=0, steps=20) for r in range(11, 16)),
]


def independently(accountant: Any, events: list[Event]) -> float:
    """Compose one event at a time, as the library's own users would."""
    for event in events:
        release = dp_accounting.GaussianDpEvent(event.noise_multiplier)
        sampled = dp_accounting.PoissonSampledDpEvent(event.rate, release)
        accountant.compose(sampled, event.steps)
    return float(accountant.get_epsilon(DELTA))


def test_epsilon_equals_dp_accounting_and_opacus_called_independently() -> None:
    found = epsilon(MIXED, DELTA)
    assert found == pytest.approx(independently(PLDAccountant(), MIXED), rel=1e-3)
    prv = PRVAccountant()
    prv.history = [(1.1, 0.02, 300), (1.5, 0.05, 100)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = prv.get_epsilon(DELTA)
    assert found == pytest.approx(theirs, abs=0.03)  # an upper bound, 0.01 and more above
    assert found <= theirs
    checks = cross_checks(MIXED, DELTA)
    assert checks[PRV] == pytest.approx(theirs, rel=0.02)
    rdp = independently(RdpAccountant(orders=range(2, 65)), MIXED)
    assert checks[RENYI] == pytest.approx(rdp, rel=1e-3)
    assert found < rdp < 1.3 * found


@pytest.mark.parametrize(
    ("z", "epochs", "published"), [(1.12, 60, 2.92), (0.6, 30, 9.74), (1.2, 10, 1.20)]
)
def test_published_epsilons_are_reproduced(z: float, epochs: int, published: float) -> None:
    """TensorFlow Privacy's tutorial on MNIST, its table of parameters: batches of 256 in 60,000.

    They are by Rényi DP with the conversion of Mironov 2017, in which Opacus's code finds them.
    PLD is tighter, by as much as that conversion is loose.
    """
    q, steps = 256 / 60_000, epochs * 60_000 // 256
    orders = [1 + x / 10 for x in range(1, 100)] + list(range(12, 64))
    curve = analysis.compute_rdp(q=q, noise_multiplier=z, steps=steps, orders=orders)
    loose = min(r + math.log(1 / DELTA) / (a - 1) for r, a in zip(curve, orders, strict=True))
    assert loose == pytest.approx(published, rel=0.01)
    ours = epsilon([Event(1, "image", z, q, client=0, steps=steps)], DELTA)
    assert 0.6 * published < ours < published


def test_opacus_published_figures_are_reproduced() -> None:
    """Its accountants' own tests: ε of 90 epochs by Rényi DP, and the noise for an ε of 8."""
    taken = Event(1, "image", 1.5, 0.04, client=0, steps=2250)
    assert cross_checks([taken], DELTA)[RENYI] == pytest.approx(7.32911117143, rel=1e-3)
    assert 0.9 * 7.329 < epsilon([taken], DELTA) < 7.329
    assert 0.9 * 1.4253 < noise_for(replace(taken, noise_multiplier=0.0), 8.0, DELTA) < 1.4253


def test_dp_fedavg_published_figures_are_reproduced() -> None:
    """TensorFlow Federated's tutorial: (2, 1e-5)-DP for its clients takes 120 of 3,383 a round."""

    def rounds(clients: int) -> list[Event]:
        z, rate = 0.01 * clients, clients / 3383
        return [Event(r, "client", z, rate) for r in range(1, 101)]

    fewer, published = (cross_checks(rounds(n), DELTA)[RENYI] for n in (119, 120))
    assert published is not None
    assert fewer is not None
    assert published < 2.0 < fewer
    assert 0.8 * published < epsilon(rounds(120), DELTA) < published


def test_epsilon_of_opacus_rdp_accountant_bounds_ours() -> None:
    accountant = OpacusRdp()
    accountant.history = [(e.noise_multiplier, e.rate, e.steps) for e in MIXED]
    assert epsilon(MIXED, DELTA) < accountant.get_epsilon(DELTA)


def test_pure_mechanisms_add_up() -> None:
    """Laplace and exponential: ε of pure privacy is the sum, and one Laplace has a closed form."""
    one = Event(0, "patient", 2.0, 1.0, mechanism="laplace", client=0)
    assert epsilon([one], 1e-12) == pytest.approx(0.5, rel=1e-3)
    pure = Event(0, "patient", 2.0, 1.0, mechanism="exponential", client=0)
    assert epsilon([pure, pure], 1e-12) == pytest.approx(1.0, rel=1e-3)
    assert epsilon([one, pure, pure], 0.0) == 1.5
    assert epsilon([one, MIXED[0]], 0.0) == math.inf  # a Gaussian has no pure ε
    closed = optimize.brentq(lambda e: 1 - math.exp((e - 0.5) / 2) - 0.01, 0, 0.5)
    assert epsilon([one], 0.01) == pytest.approx(closed, rel=1e-3)


@pytest.mark.parametrize("target", [0.5, 8.0])
def test_noise_found_for_an_epsilon_spends_it_and_no_more(target: float) -> None:
    event = Event(0, "patient", 0.0, 0.1, client=0, steps=150)
    z = noise_for(event, target, DELTA)
    spent = [epsilon([Event(0, "patient", x, 0.1, steps=150)], DELTA) for x in (z, 0.99 * z)]
    assert spent[0] <= target < spent[1]
    assert noise_for(event, math.inf, DELTA) == 0.0
    assert epsilon([event], DELTA) == math.inf


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


def test_gaussian_closed_form_with_steps() -> None:
    """T full-batch steps are one Gaussian with z/√T; theorem 8 of Balle and Wang 2018."""

    def delta(eps: float, sigma: float) -> float:
        a, b = 1 / (2 * sigma), eps * sigma
        return float(stats.norm.cdf(a - b) - math.exp(eps) * stats.norm.cdf(-a - b))

    exact = optimize.brentq(lambda e: delta(e, 3 / math.sqrt(20)) - DELTA, 1e-6, 100)
    event = Event(1, "patient", 3.0, 1.0, client=0, steps=20)
    assert epsilon([event], DELTA) == pytest.approx(exact, rel=1e-3)


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
