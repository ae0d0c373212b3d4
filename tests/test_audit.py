"""The audit: its bounds hold and are as tight as the theory says, and it bites."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import summary
from scipy.special import logit, ndtr, ndtri
from scipy.stats import binom, nct, t

from fedmed import config as cfg
from fedmed import models, partition
from fedmed.audit import canaries, findings, membership, one_run, perform, report
from fedmed.audit.finished import Finished
from fedmed.cli.main import main
from fedmed.core.errors import ConfigError, DataError
from fedmed.datasets.phantom import Phantom
from fedmed.privacy import noise

#: Everybody takes part in one step: where an audit is tightest.
TIGHT = ("rounds=1", "client.batch_size=100000", "client.steps=1", "privacy.physical_batch=128")
SMALL = (
    "+experiment=audit_onerun",
    "dataset.patients=40",
    "dataset.targets=[Effusion,view]",
    "dataset.marked=600",
    "dataset.flipped=0",
    "model.network.block_config=[1]",
    "runner.workers=0",
    "tracking.mode=disabled",
)


@pytest.fixture
def ran(launch: Callable[..., dict[str, Any]], store: Path, tmp_path: Path) -> Callable[..., Path]:
    """Make a run as the command line would; returns its run directory."""

    def ran(name: str, *overrides: str) -> Path:
        folder = tmp_path / name
        (folder / ".hydra").mkdir(parents=True)
        (folder / ".hydra" / "overrides.yaml").write_text(
            yaml.safe_dump([*overrides, f"store={store}"])
        )
        launch(*overrides, folder=folder)
        return folder

    return ran


@pytest.mark.parametrize(
    ("given", "published"),
    [((1000, 100, 75, 1e-4), 0.673), ((100_000, 1510, 1439, 1e-5), 2.675)],
)
def test_bound_is_the_published_one(given: tuple[int, int, int, float], published: float) -> None:
    """Steinke et al. 2023, v1: appendix D; section 7 and figure 11, which cut off a digit."""
    m, made, correct, delta = given
    assert one_run.epsilon_bound(m, made, correct, delta, 0.05) == pytest.approx(
        published, abs=1e-3
    )


@pytest.mark.parametrize("made", [1, 20, 1000])
def test_bound_has_its_closed_form_when_every_guess_is_right(made: int) -> None:
    closed = max(0.0, logit(0.05 ** (1 / made)))
    assert one_run.epsilon_bound(made, made, made, 0.0, 0.05) == pytest.approx(closed, abs=1e-5)


def test_delta_term_is_theorem_5_2_summed_slowly() -> None:
    m, made, correct, epsilon, delta = 50, 30, 24, 0.7, 1e-3
    chance = math.exp(epsilon) / (1 + math.exp(epsilon))

    def f(v: int) -> float:
        return float(sum(binom.pmf(k, made, chance) for k in range(max(v, 0), made + 1)))

    slopes = [(f(correct - i) - f(correct)) / i for i in range(1, m + 1)]
    slow = f(correct) + 2 * m * delta * max(slopes)
    assert one_run.p_value(m, made, correct, epsilon, delta) == pytest.approx(slow, rel=1e-9)


@pytest.mark.parametrize("epsilon", [0.5, 2.0, 4.0])
def test_bound_holds_and_is_tight_on_randomised_response(epsilon: float) -> None:
    """Whose ε is known: the bound fails in at most 5 % of runs and closes in with many canaries."""
    rng = np.random.default_rng(0)

    def bound(m: int) -> one_run.Bound:
        members = rng.random(m) < 0.5
        lies = rng.random(m) > 1 / (1 + math.exp(-epsilon))
        scores = (members ^ lies) + 1e-3 * rng.random(m)
        return one_run.audit(scores, members, delta=0.0)

    failures = sum(bound(300).epsilon > epsilon for _ in range(60))
    assert binom.sf(failures - 1, 60, 0.05) > 1e-3
    large = np.median([bound(6000).epsilon for _ in range(3)])
    assert 0.85 * epsilon < large <= epsilon


@pytest.mark.parametrize("mu", [0.3, 1.0, 2.0])
def test_bounds_hold_on_the_gaussian_mechanism(mu: float) -> None:
    """Each of the three fails in at most 5 % of runs, and what assumes more is tighter."""
    rng, delta, m = np.random.default_rng(1), 1e-5, 1000
    epsilon = one_run.gaussian_epsilon(mu, delta)
    found = []
    for _ in range(40):
        members = rng.random(m) < 0.5
        bound = one_run.audit(rng.normal(size=m) + mu * members, members, delta)
        found.append((bound.epsilon, bound.gaussian, bound.independent))
    failures = (np.array(found) > epsilon).sum(axis=0)
    assert (binom.sf(failures - 1, 40, 0.05) > 1e-3).all()
    strict, gaussian, independent = np.mean(found, axis=0)
    assert 0 < strict < gaussian < independent
    assert independent > 0.75 * epsilon or mu < 1


def test_offline_lira_has_its_closed_form() -> None:
    """N(μ, 1) without a patient, N(μ + d, 1) with: the TPR is a tail of the t or the normal."""
    rng, shift, n, shadows, fpr = np.random.default_rng(0), 1.5, 40_000, 8, 0.01
    hard = 3 * rng.normal(size=n)
    members = rng.random(n) < 0.5
    target = hard + rng.normal(size=n) + shift * members
    without = np.arange(2 * shadows)[:, None] % 2 == np.arange(n) % 2
    models = hard + rng.normal(size=(2 * shadows, n)) + 5 * ~without
    widened = math.sqrt(1 + 1 / shadows)
    own = membership.attack(membership.offline_lira(target, models, without), members)
    closed = nct.sf(t.isf(fpr, shadows - 1), shadows - 1, shift / widened)
    assert own.tpr[fpr] == pytest.approx(closed, abs=0.015)
    one = membership.attack(membership.offline_lira(target, models, without, True), members)
    assert one.tpr[fpr] == pytest.approx(ndtr(shift / widened + ndtri(fpr)), abs=0.015)
    assert one.auc == pytest.approx(ndtr(shift / widened / math.sqrt(2)), abs=0.01)
    with pytest.raises(DataError, match="was left out by 0 shadow models only; LiRA needs 2"):
        membership.offline_lira(target, models, np.zeros_like(without))


def test_a_patient_is_attacked_with_all_images_and_known_labels() -> None:
    scores = np.array([[0.9, 0.2], [0.6, 0.5], [0.3, 0.5]], np.float32)
    labels = np.array([[1, 0], [1, np.nan], [np.nan, np.nan]], np.float32)
    found = membership.confidences(scores, labels, ["b", "b", "a"])
    assert found.to_dict() == {"b": pytest.approx((logit(0.9) + logit(0.8) + logit(0.6)) / 3)}
    lost = membership.losses(scores, labels, ["b", "b", "a"])
    assert lost["b"] == pytest.approx(-np.log([0.9, 0.8, 0.6]).mean())


def test_a_marked_canary_moves_its_own_weight_and_no_other() -> None:
    """Its gradient is one-hot and beyond any clipping norm, whatever the weight."""
    config = cfg.compose([*SMALL, "dataset.marked=5", "dataset.flipped=0.25"])
    dataset = config.dataset.build()
    table = dataset.table()
    assert table["patient"].str.startswith(canaries.MARKED).sum() == 5
    flipped = table.loc[table["patient"].str.startswith(canaries.FLIPPED), "patient"].unique()
    assert len(flipped) == round(0.25 * (table.query("split == 'train'")["patient"].nunique() - 5))
    network: Any = models.build(config.model, 0, "group")
    torch.nn.init.normal_(network.canaries.weight)
    for image in (f"{canaries.MARKED}3/0", table["image"][0]):
        pixels = torch.from_numpy(dataset.read(image)).float()[None, None] / 127.5 - 1
        network.zero_grad()
        network(pixels).mean().backward()
        mine = network.canaries.weight.grad[0]
        others = sum(p.grad.abs().sum() for p in network.network.parameters())
        if image.startswith(canaries.MARKED):
            assert mine.tolist() == [0, 0, 0, pytest.approx(canaries.STEEP), 0]
            assert others == 0
        else:
            assert not mine.any()
            assert others > 0


def test_coins_are_fair_and_decide_nothing_else() -> None:
    """Half of the canaries are out, with no client; every other patient stays where it was."""
    alike = ["dataset.marked=1000", "partition.clients=3"]
    config = cfg.compose([*SMALL, *alike])
    table, targets = config.dataset.build().table(), ("Effusion", "view")
    rule = config.partition.build()
    tossed, plain = rule.assign(table, targets), rule.rule.assign(table, targets)
    out = tossed["role"] == canaries.OUT
    assert (tossed.loc[out, "client"] == -1).all()
    assert tossed.loc[out, "patient"].str.startswith(canaries.PREFIX).all()
    assert tossed[~out].equals(plain[~out])
    assert 440 < out.sum() < 560
    again = cfg.compose([*SMALL, *alike, "partition.toss=7"]).partition.build()
    assert 0.4 < ((again.assign(table, targets)["role"] == canaries.OUT) & out).sum() / 500 < 0.6
    small = cfg.compose([*SMALL, "dataset.marked=0", "partition.who=all", "partition.clients=25"])
    with pytest.raises(ConfigError, match="the coins left client"):
        small.partition.build().assign(small.dataset.build().table(), targets)


def partitions(table: pd.DataFrame) -> dict[str, partition.Partition]:
    """Return partitions of all kinds; the first two leave patients over."""
    sites = sorted(table["site"].unique())
    return {
        "sized": partition.Sized(dict.fromkeys(sites[:-2], 1), 0.2, 0),
        "few": partition.Sized({site: [9, 6] for site in sites}, 0.0, 0),
        "site": partition.Natural("site", 0.2, 0),
        "dirichlet": partition.Dirichlet(3, 0.5, 1, 0.2, 0),
        "iid": partition.IID(3, 0.0, 0),
    }


@pytest.mark.parametrize("name", ["sized", "few", "site", "dirichlet", "iid"])
def test_only_who_a_coin_decided_is_taken_for_tossed(name: str, tmp_path: Path) -> None:
    """Whatever the partition: without coins nobody, with them the train and the tossed out."""
    table, targets = Phantom(["Effusion"], 64, patients=300, sites=4).table(), ("Effusion",)
    rule = partitions(table)[name]
    plain = rule.assign(table, targets)
    partition.save(plain, tmp_path / "partition.csv")  # as an auditor reads it
    read = partition.read(tmp_path / "partition.csv")
    config: Any = None  # which is not asked for
    assert Finished(tmp_path, (), config, {}, {}, read).tossed().empty
    tossed = canaries.Tossed("fedmed.partition.IID", "all", 0, clients=1, val_fraction=0, seed=0)
    tossed.rule = rule
    assigned = tossed.assign(table, targets)
    found = Finished(tmp_path, (), config, {}, {}, assigned).tossed()
    assert set(found.index) == set(plain.loc[plain["role"] == "train", "patient"])
    assert 0.35 < found.mean() < 0.65
    site = table.drop_duplicates("patient").set_index("patient")["site"][found.index]
    for mine in site.unique():  # what a scanner's name tells of the coins is nothing
        scores = (site == mine).to_numpy(float)
        assert one_run.audit(scores, found.to_numpy(), 1e-5).epsilon == 0


@pytest.mark.parametrize("members", [np.ones(40, bool), np.zeros(40, bool)])
def test_canaries_that_were_not_tossed_prove_nothing(members: np.ndarray) -> None:
    with pytest.raises(DataError, match="no coin was tossed"):
        one_run.audit(np.arange(40.0), members, 1e-5)


def found_with(claimed: dict[str, Any], *epsilons: float) -> findings.Audit:
    """Return an audit with one-run bounds of that size."""
    bounds = {
        str(k): one_run.Bound(e, e, e, 1e-5, 0.95, 100, one_run.Guesses(2, 1, 2), 9.0)
        for k, e in enumerate(epsilons)
    }
    return findings.Audit(claimed, bounds, {}, {}, {}, ())


def test_a_clients_claim_is_held_against_which_data_it_has() -> None:
    """A patient out changes the update within its clipping norm: twice as far as none at all."""
    data = [{"of": "which data a client has", "epsilon": 3.0}]
    claim = {"unit": "client", "epsilon": 1.0, "delta": 1e-5, "neighbouring": "zero-out-one"}
    assert not findings.refuted(found_with(claim | {"implied": data}, 2.0))
    assert findings.refuted(found_with(claim | {"implied": data}, 3.1))
    assert "3.00 of which data" in report.statement(found_with(claim | {"implied": data}, 2.0))
    assert findings.refuted(found_with(claim | {"neighbouring": "replace-one", "implied": []}, 2.0))
    patient = claim | {"unit": "patient", "implied": []}
    assert findings.refuted(found_with(patient, 0.2, 1.1))
    assert not findings.refuted(found_with(patient, 0.9))


def test_two_accesses_share_the_error_probability(ran: Callable[..., Path]) -> None:
    """Bonferroni: that any of two bounds lies above the truth is as unlikely as that one does."""
    both = [*SMALL, *TIGHT, "dataset.flipped=0.5", "dataset.marked=100", "privacy.epsilon=4"]
    run = Finished.open(ran("run", *both))
    found = perform.audit(run)
    assert set(found.bounds) == {findings.UPDATES, findings.BLACK_BOX}
    for access, bound in found.bounds.items():
        assert bound.confidence == pytest.approx(0.975)
        scored = found.canaries[access]
        alone = one_run.audit(scored.scores, scored.members, bound.delta, 0.975)
        assert bound == alone


@pytest.mark.parametrize(
    ("epsilon", "noisy"), [(1, False), (4, False), (1, True), (4, True), (8, True)]
)
def test_audit_has_teeth(
    epsilon: int, noisy: bool, ran: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise that the ledger believes in and nobody added is found; with it the claim stands."""
    if not noisy:
        monkeypatch.setattr(noise.Seeded, "normal", lambda self, n: torch.zeros(n))
    run = Finished.open(ran("run", *SMALL, *TIGHT, f"privacy.epsilon={epsilon}"))
    found = perform.audit(run)
    assert found.claimed["unit"] == "patient"
    assert found.claimed["epsilon"] == pytest.approx(epsilon, rel=0.01)
    bound = found.bounds[findings.UPDATES]
    assert findings.refuted(found) == (not noisy)
    assert ("REFUTED" in report.statement(found)) == (not noisy)
    if noisy:
        sure = perform.audit(run, confidence=0.999).bounds[
            findings.UPDATES
        ]  # 95 % may be above, once in 20
        assert max(sure.epsilon, sure.gaussian, sure.independent) <= epsilon
        assert bound.independent > 0.4 * epsilon or epsilon == 1
    else:
        assert bound.epsilon == pytest.approx(bound.ceiling, abs=0.1)


def test_an_images_epsilon_is_not_its_patients(ran: Callable[..., Path]) -> None:
    """Eight images a patient, each clipped for itself: the patient's ε is beyond the image's."""
    image = ("privacy.unit=image", "privacy.epsilon=1", "dataset.images=8", "dataset.marked=300")
    found = perform.audit(Finished.open(ran("run", *SMALL, *TIGHT, *image)))
    assert found.claimed["unit"] == "image"
    assert found.bounds[findings.UPDATES].epsilon > 1
    assert "less than an image's" in report.statement(found)


def test_script_audits_a_run_and_its_shadows(
    ran: Callable[..., Path],
    launch: Callable[..., dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lira = ["+experiment=audit_lira", "dataset.patients=40", "rounds=1", "runner.workers=0"]
    lira += ["model.network.block_config=[1]", "tracking.mode=disabled", "client.epochs=1"]
    lira += ["partition.clients=2", "dataset.targets=[Effusion,view]"]
    runs = [ran(f"toss{toss}", *lira, f"partition.toss={toss}") for toss in range(10)]

    def script(*arguments: Path | str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["audit", *map(str, arguments)])
        return int(str(ended.value.code)), *capsys.readouterr()

    code, out, _ = script(runs[0], "--shadows", *runs)
    assert code == 0
    assert "no ε claimed / audited ε ≥" in out
    written = json.loads((runs[0] / "evaluations" / "audit.json").read_text())["result"]
    assert set(written["membership"]) == {perform.LOSS, perform.LIRA, perform.LIRA_FIXED}
    assert written["one_run"][findings.BLACK_BOX]["canaries"] == len(
        Finished.open(runs[0]).tossed()
    )
    assert (runs[0] / "audit.png").stat().st_size > 10_000
    audited = summary(runs[0])["privacy"]["audited"]
    assert audited["refuted"] is False
    strict, gaussian, independent = audited["bounds"]
    assert {b["access"] for b in audited["bounds"]} == {findings.BLACK_BOX}
    assert strict["epsilon"] == written["one_run"][findings.BLACK_BOX]["epsilon"]
    assert strict["rests_on"] == "nothing else"
    assert (gaussian["method"], independent["method"]) == ("f-DP", "independent")
    again = launch(*lira, "partition.toss=0", folder=runs[0])  # recognised: the audit stays
    assert again["privacy"]["audited"] == audited
    assert "audited  ε ≥" in capsys.readouterr().out
    assert (
        "audited" not in launch(*lira, "partition.toss=0", "force=true", folder=runs[0])["privacy"]
    )
    assert not (runs[0] / "evaluations").exists()
    other = ran("other", *lira, "partition.toss=12", "seed=1")
    bad = {
        (tmp_path / "nowhere",): "is no run directory of fedmed",
        (runs[0], "--shadows", other): "is no shadow run of",
        (runs[0], "--shadows", runs[1]): "LiRA needs 2, so run more of them",
        (runs[0], "--confidence", "2"): "--confidence: at least 0.5, below 1; got 2.0",
    }
    for arguments, message in bad.items():
        code, _, err = script(*arguments)
        assert code == 2
        assert message in err
        assert err.count("\n") == 1
