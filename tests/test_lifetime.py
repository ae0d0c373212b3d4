"""A hospital's own ledger: never less than the truth, whatever crashes, nor more than promised."""

import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import dp_accounting
import pytest
from dp_accounting.pld import PLDAccountant

from fedmed.core.errors import FedmedError
from fedmed.deployment.lifetime import Lifetime
from fedmed.deployment.policy import Promise, Refused
from fedmed.privacy.events import Event

SECRET = bytes(range(32))
DELTA = 1e-5
ALICE, BOB, CAROL = "alice", "bob", "carol"


def promise(epsilon: float, lifetime: float) -> Promise:
    return Promise(
        mechanism="dpsgd",
        unit="patient",
        epsilon=epsilon,
        lifetime=lifetime,
        delta=DELTA,
        noise_multiplier=0.1,
        secret_noise=True,
    )


def event(z: float = 1.0, rate: float = 0.2, steps: int = 4) -> Event:
    return Event(1, "patient", z, rate, steps=steps)


def composed(*events: Event) -> float:
    """Return ε by dp-accounting alone."""
    accountant = PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    for one in events:
        gaussian = dp_accounting.GaussianDpEvent(one.noise_multiplier)
        sampled = dp_accounting.PoissonSampledDpEvent(one.rate, gaussian)
        accountant.compose(sampled, one.steps)
    return float(accountant.get_epsilon(DELTA))


def ledger(folder: Path) -> Lifetime:
    return Lifetime(folder / "lifetime.jsonl", SECRET)


@pytest.fixture(autouse=True)
def _begun(tmp_path: Path) -> None:
    ledger(tmp_path).begin()


def test_three_runs_by_two_servers_with_a_crash_in_each(tmp_path: Path) -> None:
    """A training that is done again after a crash is another release: it counts."""
    everyone, loose = [ALICE, BOB], promise(100.0, 100.0)
    made: list[Event] = []
    for run, z in (("server a, 1", 1.0), ("server b", 2.0), ("server a, 2", 0.8)):
        for round_ in (1, 2, 2, 3):  # the second is cut off, and done again
            made.append(event(z))
            ledger(tmp_path).authorise(run, round_, everyone, made[-1], loose)
    truth = composed(*made)
    assert ledger(tmp_path).epsilon(DELTA) == pytest.approx(truth, rel=1e-3)
    runs = ledger(tmp_path).runs(DELTA)
    assert [one.trainings for one in runs.values()] == [4, 4, 4]
    assert runs["server b"].epsilon == pytest.approx(composed(*made[4:8]), rel=1e-3)
    before = (tmp_path / "lifetime.jsonl").read_bytes()
    with pytest.raises(Refused, match=r"privacy\.lifetime"):
        ledger(tmp_path).authorise("a fourth", 1, everyone, event(), promise(5.0, truth + 1e-3))
    again = promise(runs["server b"].epsilon + 1e-3, 100.0)
    with pytest.raises(Refused, match=r"privacy\.epsilon"):
        ledger(tmp_path).authorise("server b", 4, everyone, event(2.0), again)
    assert (tmp_path / "lifetime.jsonl").read_bytes() == before


def test_a_patient_pays_for_every_data_set_that_holds_her(tmp_path: Path) -> None:
    """Bob is in both; Alice and Carol are in one each."""
    ledger(tmp_path).authorise("one", 1, [ALICE, BOB], event(1.0), promise(9.0, 9.0))
    ledger(tmp_path).authorise("two", 1, [BOB, CAROL], event(0.7), promise(9.0, 9.0))
    assert ledger(tmp_path).epsilon(DELTA) == pytest.approx(
        composed(event(1.0), event(0.7)), rel=1e-3
    )
    bob = composed(event(1.0), event(0.7), event(0.7))
    tight = promise(9.0, bob - 1e-2)
    ledger(tmp_path).authorise("three", 1, [ALICE, CAROL], event(0.7), tight)  # without Bob
    with pytest.raises(Refused, match="lifetime"):
        ledger(tmp_path).authorise("three", 2, [BOB], event(0.7), tight)


def test_training_without_noise_is_written_and_is_without_bound(tmp_path: Path) -> None:
    ledger(tmp_path).authorise("plain", 1, [ALICE], None, None)
    assert ledger(tmp_path).epsilon(DELTA) == float("inf")
    with pytest.raises(Refused):
        ledger(tmp_path).authorise("private", 1, [ALICE], event(), promise(9.0, 1e6))
    ledger(tmp_path).authorise("private", 1, [BOB], event(), promise(9.0, 9.0))


def test_what_is_not_as_it_was_written_stops_all_training(tmp_path: Path) -> None:
    for round_ in range(1, 6):
        ledger(tmp_path).authorise("run", round_, [ALICE, BOB], event(), promise(50.0, 50.0))
    path = tmp_path / "lifetime.jsonl"
    whole, rng = path.read_bytes(), random.Random(0)
    lines = whole.splitlines(keepends=True)
    for _ in range(300):
        kind = rng.randrange(4)
        if kind == 0:  # a byte changed
            at = rng.randrange(len(whole))
            broken = whole[:at] + bytes([whole[at] ^ (1 << rng.randrange(8))]) + whole[at + 1 :]
        elif kind == 1:  # a line taken out, but for the last: see below
            gone = rng.randrange(len(lines) - 1)
            broken = b"".join(lines[:gone] + lines[gone + 1 :])
        elif kind == 2:  # two lines that change places
            one, other = rng.sample(range(len(lines)), 2)
            swapped = list(lines)
            swapped[one], swapped[other] = lines[other], lines[one]
            broken = b"".join(swapped)
        else:  # a line twice
            twice = rng.randrange(len(lines))
            broken = b"".join(lines[: twice + 1] + lines[twice:])
        path.write_bytes(broken)
        with pytest.raises(FedmedError, match=r"lifetime.jsonl: "):
            ledger(tmp_path).epsilon(DELTA)
    path.write_bytes(whole)
    assert len(ledger(tmp_path).runs(DELTA)) == 1


def test_a_ledger_that_is_gone_is_no_empty_one(tmp_path: Path) -> None:
    ledger(tmp_path).authorise("run", 1, [ALICE], event(), promise(9.0, 9.0))
    (tmp_path / "lifetime.jsonl").unlink()
    with pytest.raises(FedmedError, match="is gone, and with it what was spent"):
        ledger(tmp_path).authorise("run", 1, [ALICE], event(), promise(9.0, 9.0))
    with pytest.raises(FedmedError, match="is gone"):
        ledger(tmp_path).epsilon(DELTA)
    assert not (tmp_path / "lifetime.jsonl").exists()


def test_a_patient_is_one_however_a_spreadsheet_has_written_her(tmp_path: Path) -> None:
    """The data were prepared anew, from a table in which zeros, case and blanks had changed."""
    for name in ("folder:MRN 0071", "folder:mrn0071", "folder:MRN 71"):
        ledger(tmp_path).authorise("run", 1, [name], event(), promise(50.0, 50.0))
    assert ledger(tmp_path).epsilon(DELTA) == pytest.approx(composed(*[event()] * 3), rel=1e-3)


def _hospital(folder: Path, told: Path) -> None:
    """Train and train again: what is released is told after it was paid for."""
    os.setpgrp()
    for round_ in range(1, 10_000):
        ledger(folder).authorise("run", round_, [ALICE], event(steps=1), None)
        with told.open("ab", buffering=0) as file:
            file.write(b"released\n")


def test_killed_at_any_moment_it_is_never_less_than_the_truth(tmp_path: Path) -> None:
    """The line is there before the release; at most one training too many is counted."""
    rng, told = random.Random(1), tmp_path / "told"
    told.touch()
    for moment in range(50):
        process = multiprocessing.get_context("fork").Process(
            target=_hospital, args=(tmp_path, told)
        )
        before = told.stat().st_size
        process.start()
        while told.stat().st_size == before:  # it trains, however slow the machine is
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.02))
        assert process.pid
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        released = told.read_bytes().count(b"\n")
        own = ledger(tmp_path)
        own.authorise("run", 1, [ALICE], event(steps=1), None)  # a torn line is mended first
        trainings = own.runs(DELTA)["run"].trainings - (moment + 1)
        assert released <= trainings <= released + moment + 1
    assert released >= 50


def _at_once(folder: Path, run: str) -> None:
    for round_ in range(1, 9):
        ledger(folder).authorise(run, round_, [ALICE], event(), promise(50.0, 50.0))


def test_two_servers_at_once_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    names: Sequence[str] = ("a", "b", "c")
    processes = [context.Process(target=_at_once, args=(tmp_path, name)) for name in names]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert {name: one.trainings for name, one in ledger(tmp_path).runs(DELTA).items()} == {
        "a": 8,
        "b": 8,
        "c": 8,
    }
    entries = [json.loads(line) for line in (tmp_path / "lifetime.jsonl").open()]
    assert sum(bool(entry["members"]) for entry in entries) == 1  # named once, by hashes
    assert ALICE not in (tmp_path / "lifetime.jsonl").read_text()
