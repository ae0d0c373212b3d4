"""Who follows a run sees all of it, and none but the metrics file can end it."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import TINY, metrics, summary

import fedmed
from fedmed.config import compose
from fedmed.core.errors import FedmedError
from fedmed.core.records import MetricRow
from fedmed.experiment import data
from fedmed.experiment.callbacks import Callback, Callbacks, Outcome
from fedmed.federation.checkpoint import Checkpoint
from fedmed.models import Arrays, arrays_sha256
from fedmed.runs.directory import RunDirectory

SMALL = (*TINY, "dataset.patients=60", "client.steps=1", "rounds=2")


class Diary(Callback):
    """Writes down what it sees, and fails when it is told to."""

    def __init__(self, name: str, seen: list[str], fails: str = "") -> None:
        self.name, self.seen, self.fails = name, seen, fails

    def note(self, what: str) -> None:
        self.seen.append(f"{self.name} {what}")
        if what == self.fails:
            raise FedmedError(f"{self.name} cannot go on")

    def on_start(self, rows: Sequence[MetricRow]) -> None:
        self.note(f"start {len(rows)}")

    def on_update(self, round_: int) -> list[MetricRow]:
        self.note(f"update {round_}")
        return [MetricRow(round_, "cost", -1, self.name, 1.0)]

    def on_round(self, round_: int, rows: Sequence[MetricRow], arrays: Arrays) -> None:
        self.note(f"round {round_}")

    def on_end(self, outcome: Outcome | None) -> None:
        self.note("failed" if outcome is None else "ended")


def test_each_is_told_in_turn_and_adds_its_rows() -> None:
    seen: list[str] = []
    both = Callbacks(Diary("a", seen), Diary("b", seen), say=seen.append)
    with both.following([]):
        assert [row.metric for row in both.on_update(1)] == ["a", "b"]
        both.on_round(1, [], {})
    both.on_end(Outcome({}, pd.DataFrame()))
    what = ("start 0", "update 1", "round 1", "ended")
    assert seen == [f"{name} {one}" for one in what for name in "ab"]
    assert Callback().on_update(1) == []


@pytest.mark.parametrize("fails", ["start 0", "round 1"])
def test_all_are_told_of_an_end_that_came_early(fails: str) -> None:
    seen: list[str] = []
    both = Callbacks(Diary("a", seen, fails), Diary("b", seen), say=seen.append)
    with pytest.raises(FedmedError, match="a cannot go on"), both.following([]):
        both.on_round(1, [], {})
    assert seen[-3:] == [f"a {fails}", "a failed", "b failed"]


def test_one_that_fails_at_the_end_is_told_and_the_others_see_it() -> None:
    seen: list[str] = []
    all_ = Callbacks(Diary("a", seen, "ended"), Diary("b", seen), say=seen.append)
    all_.on_end(Outcome({}, pd.DataFrame()))
    told = "Diary: failed at the end of the run: a cannot go on"
    assert seen == ["a ended", told, "b ended"]


def test_one_that_fails_at_the_end_hides_no_error_of_the_run() -> None:
    seen: list[str] = []
    both = Callbacks(Diary("a", seen, "failed"), Diary("b", seen), say=seen.append)
    with pytest.raises(ValueError, match="the run's own"), both.following([]):
        raise ValueError("the run's own")
    assert seen[-1] == "b failed"


class Keeper(Callback):
    """Keeps what it is given, tries to change it, and fails at the end."""

    def __init__(self) -> None:
        self.kept: dict[int, Arrays] = {}
        self.ended: list[Outcome | None] = []

    def on_round(self, round_: int, rows: Sequence[MetricRow], arrays: Arrays) -> None:
        self.kept[round_] = arrays
        name, array = next(iter(arrays.items()))
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
        with pytest.raises(TypeError):
            arrays[name] = array  # type: ignore[index]
        assert isinstance(rows, tuple)
        assert {row.round for row in rows} == {round_}

    def on_end(self, outcome: Outcome | None) -> None:
        self.ended.append(outcome)
        raise RuntimeError("no more\nof this")


def test_ones_own_see_each_rounds_weights_and_change_nothing(
    launch: Callable[..., dict[str, Any]],
    store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plain = launch(*SMALL, folder=tmp_path / "plain")
    one, other = Keeper(), Keeper()
    asked = (*SMALL, f"store={store}")
    folder = tmp_path / "own"
    run = fedmed.train(*asked, folder=folder, callbacks=[one, other])
    assert run.summary["model_sha256"] == plain["model_sha256"]
    assert run.summary["run_id"] == plain["run_id"]
    for keeper in (one, other):
        assert list(keeper.kept) == [0, 1, 2]
        assert arrays_sha256(keeper.kept[2]) == plain["model_sha256"]
        hashes = {arrays_sha256(arrays) for arrays in keeper.kept.values()}
        assert len(hashes) == 3  # of each round, and still what they were
        (outcome,) = keeper.ended
        assert outcome
        assert outcome.summary["model_sha256"] == plain["model_sha256"]
    said = [line for line in capsys.readouterr().out.splitlines() if "Keeper" in line]
    assert len(said) == 2
    assert "RuntimeError" in (folder / "run.log").read_text()
    again = Keeper()
    fedmed.train(*asked, folder=folder, callbacks=[again])  # recognised
    assert not again.kept
    assert not again.ended


def test_an_error_of_ones_own_ends_the_run_which_goes_on(
    launch: Callable[..., dict[str, Any]], store: Path, tmp_path: Path
) -> None:
    asked, folder = (*SMALL, f"store={store}"), tmp_path / "own"
    seen: list[str] = []
    with pytest.raises(FedmedError, match="a cannot go on"):
        fedmed.train(*asked, folder=folder, callbacks=[Diary("a", seen, "round 1")])
    assert seen[-1] == "a failed"
    assert summary(folder)["status"] == "failed"
    later: list[str] = []
    fedmed.train(*asked, folder=folder, callbacks=[Diary("a", later)])
    assert later[1:] == ["a update 2", "a round 2", "a ended"]
    plain = launch(*SMALL, folder=tmp_path / "plain")
    assert summary(folder)["model_sha256"] == plain["model_sha256"]
    assert (metrics(folder)["metric"] == "a").sum() == 2  # its rows are recorded


def test_a_metrics_file_that_cannot_be_written_ends_the_run(
    launch: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "run" / "metrics.csv" / "in the way").mkdir(parents=True)
    with pytest.raises(FedmedError, match=r"cannot write .*metrics\.csv"):
        launch(*SMALL)
    assert summary(tmp_path / "run")["status"] == "failed"
    shutil.rmtree(tmp_path / "run" / "metrics.csv")
    done = launch(*SMALL)
    assert done["model_sha256"] == launch(*SMALL, folder=tmp_path / "whole")["model_sha256"]
    pd.testing.assert_frame_equal(metrics(tmp_path / "run"), metrics(tmp_path / "whole"))


def test_a_mirror_that_cannot_be_kept_is_told_of_once(
    launch: Callable[..., dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "wandb").write_text("in the way")
    done = launch(*SMALL, "tracking.mode=offline")
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("wandb: ")]
    assert len(said) == 1
    assert said[0].endswith("the run goes on: its directory has all of it")
    assert done["status"] == "finished"
    assert done["model_sha256"] == launch(*SMALL, folder=tmp_path / "w")["model_sha256"]


def test_a_metrics_file_behind_its_checkpoint_is_made_good(
    launch: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """As where a run was killed after its last checkpoint, and before its files."""
    launch(*SMALL, "strategy=dp_fedavg")
    run = RunDirectory(tmp_path / "run")
    whole = metrics(run.path)
    (run.path / "metrics.csv").write_text("round,scope\n")
    (run.path / "summary.json").unlink()
    launch(*SMALL, "strategy=dp_fedavg")
    pd.testing.assert_frame_equal(metrics(run.path), whole)
    kept = Checkpoint.load(run.checkpoint)
    assert kept
    assert len(kept.metrics) == len(whole)
    assert (whole["metric"] == "epsilon").sum() == 2


def test_a_refused_run_leaves_the_directory_as_it_was(
    launch: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    launch(*SMALL)
    run = RunDirectory(tmp_path / "run")
    (run.path / "summary.json").unlink()
    kept = ("table.parquet", "partition.csv", "clients.csv", ".hydra/overrides.yaml")
    before = {name: (run.path / name).read_bytes() for name in kept}
    with pytest.raises(FedmedError, match="checkpoint was made with another"):
        launch(*SMALL, "dataset.seed=7")
    assert {name: (run.path / name).read_bytes() for name in kept} == before


@pytest.fixture
def scans(nih_standin: Path) -> Callable[[str], list[str]]:
    """Damage the images whose patients have a role; returns the overrides of the set."""

    def damage(role: str) -> list[str]:
        asked = [
            *("dataset=nih", f"dataset.root={nih_standin}", "dataset.size=16", "partition=iid"),
            *("partition.clients=2", f"store={nih_standin / role}"),
        ]
        whole = data.prepare(compose(asked), lambda done, total: None, 0)
        table = whole.store.table.merge(whole.assigned, on="patient", suffixes=("", "_"))
        struck = (table["role"] == "test") if role == "test" else (table["client"] == 1)
        for image in table.loc[struck, "image"]:
            (nih_standin / "images" / image).write_bytes(b"no image")
        return asked

    return damage


@pytest.mark.parametrize(
    ("role", "said"),
    [
        ("test", "dataset: no image of the test split could be read; see "),
        ("client", "partition: no image of client 1 could be read; see "),
    ],
)
def test_data_that_cannot_be_used_are_saved_told_and_refused(
    role: str, said: str, scans: Callable[[str], list[str]], tmp_path: Path
) -> None:
    asked = scans(role)
    run_dir, told = RunDirectory(tmp_path / "run"), list[str]()
    run_dir.path.mkdir()
    found = data.prepare(compose(asked), lambda done, total: None, 0)
    assert list(run_dir.path.iterdir()) == []  # to prepare writes nothing here
    data.save(found, run_dir)
    with pytest.raises(FedmedError, match=said):
        data.review(found, run_dir, told.append)
    listed = pd.read_csv(run_dir.path / "unreadable.csv")
    assert f"{len(listed)} images could not be read and are left out" in told[-1]
    assert told[-1].endswith("/unreadable.csv lists them with the reasons")
    assert found.caveats == [line for line in told if "unreadable" not in line]


def test_what_is_found_is_told_in_one_place(
    launch: Callable[..., dict[str, Any]], nih_standin: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = sorted((nih_standin / "images").iterdir())[:2]
    for image in broken:
        image.write_bytes(b"no image")
    same = sorted((nih_standin / "images").iterdir())[3:5]
    same[1].write_bytes(same[0].read_bytes())
    nih = ("dataset=nih", f"dataset.root={nih_standin}", "dataset.size=32", "partition=iid")
    more = ("partition.clients=2", "client.steps=1", "rounds=1", "runner.workers=0")
    done = launch(*nih, *more, "tracking.mode=disabled")
    out = capsys.readouterr().out
    assert out.count("2 images could not be read and are left out") == 1
    assert done["unreadable_images"] == 2
    for caveat in done["caveats"]:
        assert out.count(caveat) == 1
