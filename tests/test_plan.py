"""The plan of a run's privacy: what it says is what the ledger holds and what really leaves."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import TINY, metrics
from test_tracking import OFFLINE, records

import fedmed.experiment.run
from fedmed.audit.findings import present
from fedmed.client.context import open_context
from fedmed.config import compose
from fedmed.core.errors import ConfigError, DataError
from fedmed.core.units import UNITS, Unit
from fedmed.data.store import prepare
from fedmed.deployment import node_data
from fedmed.privacy import Event, epsilon
from fedmed.privacy.disclosure import Disclosure
from fedmed.privacy.plan import PrivacyPlan, privacy_plan
from fedmed.report import entry
from fedmed.runs.run import Run

ROUNDS, BATCH, STEPS = 2, 16, 2
SMALL = (*TINY, f"rounds={ROUNDS}", "dataset.patients=60", f"client.steps={STEPS}")
DP = ("privacy=dpsgd", "privacy.noise_multiplier=1.25")
CENTRAL = ("strategy=dp_fedavg", "strategy.noise_multiplier=1.5")
KINDS: dict[str, tuple[str, ...]] = {
    "nothing": (),
    "patient": DP,
    "image": (*DP, "privacy.unit=image"),
    "central": CENTRAL,
    "adaptive": ("strategy=dp_fedavg_adaptive", "strategy.noise_multiplier=1.5"),
    "distributed": (*CENTRAL, "strategy.noise=distributed", "aggregation=fixed"),
    "local": (*CENTRAL, "strategy.noise=local"),
    "patient and central": (*DP, *CENTRAL),
}
Planned = Callable[..., tuple[PrivacyPlan, Path]]


@pytest.fixture
def planned(
    launch: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Planned:
    """Run an experiment; returns the plan that it went by, and its directory."""

    def planned(*overrides: str) -> tuple[PrivacyPlan, Path]:
        made: list[PrivacyPlan] = []

        def kept(*arguments: Any) -> PrivacyPlan:
            made.append(privacy_plan(*arguments))
            return made[-1]

        monkeypatch.setattr(fedmed.experiment.run, "privacy_plan", kept)
        launch(*overrides)
        (plan,) = made
        return plan, tmp_path / "run"

    return planned


def ledger(folder: Path) -> list[Event]:
    path = folder / "ledger.json"
    return [Event(**event) for event in json.loads(path.read_text())["events"]]


def rows(folder: Path) -> pd.DataFrame:
    """Return a row an image that is trained on, with its client."""
    assigned = pd.read_csv(folder / "partition.csv").query("role == 'train'")
    return pd.read_parquet(folder / "table.parquet").merge(assigned, on="patient")


def by_hand(kind: str, folder: Path, round_: int) -> list[Event]:
    """Return what a round releases, from the papers and the files of the run."""
    steps = metrics(folder).query("scope == 'train' and metric == 'steps' and round == @round_")
    cohort = sorted(int(client) for client in steps["client"])
    found: list[Event] = []
    if "central" in kind or kind == "adaptive":
        found.append(Event(round_, "client", 1.5, 0.5))
    if kind == "distributed":
        found += [Event(round_, "client", 1.5, 1.0, client=k) for k in cohort]
    if kind == "local":  # two updates of norm C are up to 2C apart
        apart: dict[str, Any] = {"neighbouring": "replace-one"}
        found += [Event(round_, "client", 1.5 / 2, 1.0, client=k, **apart) for k in cohort]
    if unit := next((name for name in ("patient", "image") if kind.startswith(name)), None):
        sizes = rows(folder).groupby("client")[unit].nunique()
        rates = {k: min(1.0, BATCH / sizes[k]) for k in cohort}
        found += [Event(round_, unit, 1.25, rates[k], client=k, steps=STEPS) for k in cohort]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_plans_events_are_those_of_the_ledger_and_of_the_papers(
    kind: str, planned: Planned
) -> None:
    plan, folder = planned(*SMALL, *KINDS[kind])
    expected = [event for r in range(1, ROUNDS + 1) for event in by_hand(kind, folder, r)]
    assert {event.unit for event in expected} == set(plan.deltas)
    if not expected:
        assert not (folder / "ledger.json").exists()
        assert (plan.training, plan.released, plan.aggregated(1)) == ((), (), [])
        return
    assert ledger(folder) == expected
    of_the_last = plan.aggregated(ROUNDS)  # whose cohort the strategy still knows
    assert of_the_last == [e for e in expected if e.unit == "client" and e.round == ROUNDS]
    trained = {event.client: event for event in expected if event.steps == STEPS}
    for client, event in trained.items():
        assert client is not None
        assert plan.training[client] == Event(**vars(event) | {"round": 0})
    spent = json.loads((folder / "summary.json").read_text())["privacy"]
    assert spent["assumptions"] == list(plan.assumptions)
    assert {one["unit"]: one["delta"] for one in (spent, *spent["also"])} == plan.deltas


def test_pixels_are_released_once_before_the_first_round(planned: Planned) -> None:
    task = [o.replace("dataset.", "dataset.of.") for o in SMALL]
    plan, folder = planned(*task, "dataset=released", "dataset.epsilon=1.5", *DP)
    released = [event for event in ledger(folder) if event.round == 0]
    assert released == list(plan.released)
    assert plan.deltas == {"content": 0.0, "patient": 1e-5}
    own = pd.read_csv(folder / "partition.csv").query("client >= 0")  # the test patients are public
    images = pd.read_parquet(folder / "table.parquet").merge(own, on="patient")
    most = images.groupby(["client", "patient"]).size().groupby("client").max()
    assert [event.client for event in released] == sorted(most.index)
    for event, number in zip(released, most.sort_index(), strict=True):
        assert (event.mechanism, event.neighbouring) == ("laplace", "replace-one")
        assert event.steps / event.noise_multiplier == pytest.approx(1.5 * number)


#: losses, validation scores, counts, cohorts
SHOWN = {
    "nothing": (True, True, True, True),
    "patient": (False, False, False, True),
    "central": (True, True, True, False),
    "local": (True, True, True, True),
    "patient and central": (False, False, False, False),
    "told": (True, True, True, True),
}


@pytest.mark.parametrize("kind", SHOWN)
def test_what_may_be_seen_is_what_leaves(kind: str, planned: Planned) -> None:
    overrides = (*DP, "privacy.release_metrics=true") if kind == "told" else KINDS[kind]
    plan, folder = planned(*SMALL, *OFFLINE, *overrides)
    losses, validation, counts, cohorts = SHOWN[kind]
    assert plan.disclosure == Disclosure(losses, validation, counts, cohorts)
    left = metrics(folder)  # all that the server has been told
    assert bool(len(left.query("scope == 'train' and metric == 'loss'"))) == losses
    assert bool(len(left.query("scope == 'val' and client >= 0"))) == validation
    run = Run(folder)
    assert ("withheld" not in entry.partition(run)) == counts
    cost = entry.entry(run, None)["cost"]
    assert (cost["bytes"] is not None, cost["seconds"] is not None) == (cohorts, cohorts)
    mirrored = {
        "/".join(item.nested_key) or item.key
        for record in records(folder)
        for kind_, items in (("history", "item"), ("summary", "update"))
        if record.WhichOneof("record_type") == kind_
        for item in getattr(getattr(record, kind_), items)
    }
    groups = {key.split("/")[0] for key in mirrored}
    assert {"test", "round"} <= groups
    assert ({"clients", "partition"} <= groups) == counts
    assert bool({"clients", "partition"} & groups) == counts
    assert any(key.startswith("clients/final") for key in mirrored) == (counts and validation)
    assert bool({"train", "cost", "bytes_up", "bytes_down", "time"} & groups) == cohorts
    assert any(key.startswith("train/loss") for key in mirrored) == (losses and cohorts)
    assert any(key.startswith("val/loss") for key in mirrored) == validation


@pytest.fixture
def study() -> Iterator[Unit]:
    """A patient's images of one view as a unit: one entry, in its place in the registry."""
    before = dict(UNITS)
    new = Unit(
        *("study", "a study", "studies", "part", "zero-out-one"),
        rows=lambda table: table["patient"] + table["view"],
    )
    UNITS.clear()
    UNITS.update({"image": before["image"], "study": new, **before})
    yield new
    UNITS.clear()
    UNITS.update(before)


def test_a_unit_is_one_entry(study: Unit, planned: Planned) -> None:
    """It is configured, drawn, counted, accounted, told in words and audited by that alone."""
    plan, folder = planned(*SMALL, *DP, "privacy.unit=study", "privacy.delta=0.05")
    trained = rows(folder)
    sizes = trained.groupby("client")[["patient", "view"]].apply(
        lambda own: len(own.value_counts())
    )
    images = trained.groupby("client").size()
    patients = trained.groupby("client")["patient"].nunique()
    assert (sizes > patients).any()
    assert (sizes < images).any()
    assert plan.sizes == tuple(sizes)
    events = ledger(folder)
    assert {(e.unit, e.client, e.rate) for e in events} == {
        ("study", k, min(1.0, BATCH / n)) for k, n in sizes.items()
    }
    summary = json.loads((folder / "summary.json").read_text())
    spent = summary["privacy"]
    assert (spent["unit"], spent["neighbouring"]) == ("study", "zero-out-one")
    worst = max(plan.training, key=lambda event: event.rate)
    assert spent["epsilon"] == epsilon([worst] * ROUNDS, 0.05)
    assert [one["of"] for one in spent["implied"]] == ["a patient with 10 studies"]
    assert f"no promise to {sizes.sum()} studies" in spent["caveats"][0]
    assert "how many studies each client trains on is public" in str(spent["assumptions"])
    assert present(spent) == study
    with pytest.raises(ConfigError, match="where studies are the unit, leaving one out"):
        compose([*DP, "privacy.unit=study", "privacy.images_per_patient=1"])
    with pytest.raises(ConfigError, match=r"be 'patient', 'study' or 'image', got 'ward'"):
        compose([*DP, "privacy.unit=ward"])


def test_a_hospital_counts_and_groups_by_it(study: Unit, tmp_path: Path) -> None:
    config = compose([*SMALL, *DP, "privacy.unit=study"])
    dataset = config.dataset.build()
    prepared = prepare(dataset, dataset.table(), tmp_path / "store", 0, lambda *_: None)
    assigned = config.partition.build().assign(prepared.table, dataset.targets)
    folder = tmp_path / "hospital"
    client = int(assigned.query("role == 'train'")["client"].value_counts().index[0])  # the largest
    node_data.export(prepared, assigned[assigned["client"] == client], folder)
    mine, told = rows(folder), node_data.describe(folder, (), str)
    studies = mine.groupby(["patient", "view"], sort=False)
    assert told["train_images"] == len(mine) > studies.ngroups == told["train_studies"]
    assert told["train_patients"] == mine["patient"].nunique() < studies.ngroups
    files = (folder / "table.parquet", folder / "partition.csv")
    context = open_context(config, "cpu", folder, *files)
    assert context.units("train", client).tolist() == studies.ngroup().tolist()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (lambda table: table["view"], "one holds images of several patients"),
        (lambda table: table["patient"].where(table["view"] == "PA"), "is not known of"),
    ],
)
def test_a_unit_that_may_lie_in_two_clients_is_none(
    rows: Callable[[pd.DataFrame], Any],
    message: str,
    planned: Planned,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A federation's ε is the largest of the clients': it would be too small."""
    words = ("odd", "an odd one", "odd ones")
    monkeypatch.setitem(UNITS, "odd", Unit(*words, "part", "zero-out-one", rows))
    with pytest.raises(DataError, match=f"^privacy.unit=odd: {message}"):
        planned(*SMALL, *DP, "privacy.unit=odd")
    with pytest.raises(ValueError, match="a group of patients cannot be drawn"):
        Unit(*words, "group", "zero-out-one", rows)


def test_an_unknown_unit_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^unit of privacy: takes image, .*'ward'"):
        Event(1, "ward", 1.0, 0.5)
    with pytest.raises(ConfigError, match=r"^privacy\.unit: input should be 'patient' or 'image'"):
        compose([*DP, "privacy.unit=client"])
