"""Whatever of fedmed's needs a run to be tried keeps its contract; a stranger is found out."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from conftest import TINY
from flwr.app import ArrayRecord, Error, Message, RecordDict
from run_contracts import (
    check_callback,
    check_engine,
    check_evaluation,
    check_protocol,
    outcome_of,
    prepared,
)

from fedmed.client.app import app
from fedmed.config import CONF, compose
from fedmed.core.errors import ConfigError, FedmedError
from fedmed.core.records import MetricRow
from fedmed.engines.local import LocalEngine
from fedmed.engines.ray import RayEngine
from fedmed.evaluations import EVALUATIONS, find
from fedmed.experiment import callbacks
from fedmed.experiment.run import run as train
from fedmed.federation.engine import Engine
from fedmed.federation.messages import RAISED, RunContext, TaskSpec
from fedmed.federation.protocol import Participants, training_rows
from fedmed.flower import process
from fedmed.flower.node_config import simulated
from fedmed.models import Arrays, from_record, to_record
from fedmed.privacy import Event, Ledger
from fedmed.protocols.averaging import Averaging
from fedmed.runs.console import Console
from fedmed.runs.directory import RunDirectory
from fedmed.runs.evaluations import Evaluation, Section
from fedmed.runs.run import Run

SMALL = (*TINY, "dataset.patients=60", "client.steps=1", "rounds=2")


class Twice(Averaging):
    """Has each client of a cohort train twice a round."""

    def train(
        self, round_: int, arrays: ArrayRecord, participants: Participants
    ) -> tuple[list[MetricRow], ArrayRecord]:
        first = participants.train(round_, participants.cohort(round_, arrays))
        list(first)
        return super().train(round_, arrays, participants)


class Restless(Averaging):
    """Remembers in itself how many rounds it has played."""

    rounds = 0

    def train(
        self, round_: int, arrays: ArrayRecord, participants: Participants
    ) -> tuple[list[MetricRow], ArrayRecord]:
        rows, made = super().train(round_, arrays, participants)
        self.rounds += 1
        drift = np.float32(self.rounds)
        return rows, to_record({k: a + drift for k, a in from_record(made).items()})


class Deaf(Averaging):
    """Takes nothing of what its clients have learnt."""

    def train(
        self, round_: int, arrays: ArrayRecord, participants: Participants
    ) -> tuple[list[MetricRow], ArrayRecord]:
        replies = participants.train(round_, participants.cohort(round_, arrays))
        list(replies)
        return training_rows(round_, replies), arrays


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "protocol").glob("*.yaml")))
def test_protocols(name: str, tmp_path: Path) -> None:
    check_protocol([*SMALL, f"protocol={name}"], tmp_path)


@pytest.mark.parametrize(
    ("wrong", "found", "said"),
    [
        (Restless, AssertionError, "remembers what is not checkpointed"),
        (Deaf, AssertionError, "nothing is learnt"),
        (Twice, FedmedError, r"client \d is asked to train without having paid"),
    ],
)
def test_a_wrong_protocol_is_found_out(
    wrong: type, found: type[Exception], said: str, tmp_path: Path
) -> None:
    with pytest.raises(found, match=said):
        check_protocol([*SMALL, f"protocol._target_={__name__}.{wrong.__name__}"], tmp_path)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunContext, dict[str, Any]]:
    raises, late = "{kind:raise,clients:[1],rounds:[2]}", "{kind:slow,clients:[2],rounds:[3]}"
    workers = "runner.workers=2"  # a slow client takes another process
    faults = (f"faults.inject=[{raises},{late}]", "faults.deadline=10")
    return prepared([*SMALL, "rounds=3", workers, *faults], tmp_path_factory.mktemp("engine"))


def local(kind: type[LocalEngine], workers: int) -> AbstractContextManager[Engine]:
    runner: Any = compose([f"runner.workers={workers}", "runner.device=cpu"]).runner
    return kind(runner, [1, 2, 3, 4], print)


def ray() -> AbstractContextManager[Engine]:
    runner: Any = compose(["runner=ray", "runner.workers=2", "runner.device=cpu"]).runner
    return RayEngine(runner, 4, print)


@pytest.mark.parametrize(
    ("opened", "deadline"),
    [(partial(local, LocalEngine, 0), None), (partial(local, LocalEngine, 2), 10.0), (ray, 10.0)],
    ids=["this process", "two workers", "ray"],
)
def test_engines(
    opened: Callable[[], AbstractContextManager[Engine]],
    deadline: float | None,
    task: tuple[RunContext, dict[str, Any]],
) -> None:
    check_engine(opened, *task, deadline)


class OneByOne(Engine):
    """An engine of one's own: calls the client app here, for one client after the other."""

    def __init__(self, clients: int, fast: bool = True) -> None:
        super().__init__(clients)
        process.host()

    def exchange(
        self,
        messages: Sequence[Message],
        tasks: Mapping[int, TaskSpec],
        timeout: float | None = None,
    ) -> Iterator[Message]:
        for message in sorted(messages, key=lambda m: m.metadata.dst_node_id):
            node = message.metadata.dst_node_id
            content = RecordDict({**message.content, **tasks[node].records()})
            asked = Message(content, node, message.metadata.message_type)
            try:
                reply = app(asked, simulated(node))
            except Exception as error:
                yield Message(Error(RAISED, str(error)), reply_to=message)
            else:
                yield Message(reply.content, reply_to=message)


def test_an_engine_of_ones_own_is_named_and_gives_the_same_bits(
    launch: Callable[..., dict[str, Any]],
    task: tuple[RunContext, dict[str, Any]],
    tmp_path: Path,
) -> None:
    check_engine(partial(OneByOne, 4), *task)
    config = [override for override in SMALL if not override.startswith("runner")]
    mine = ("runner=custom", f"runner.engine._target_={__name__}.OneByOne")
    done = launch(*config, *mine, folder=tmp_path / "mine")
    assert done["model_sha256"] == launch(*SMALL, folder=tmp_path / "ours")["model_sha256"]
    for wrong, said in (
        ([*mine, "+runner.engine.fasst=true"], r"runner\.engine\.fasst: unknown key"),
        ([mine[0], "runner.engine._target_=pathlib.Nope"], r"runner\.engine\._target_: "),
        ([mine[0], "runner.engine._target_=fedmed.runs.run.Run"], "is no Engine"),
    ):
        with pytest.raises(ConfigError, match=said):
            launch(*config, *wrong, folder=tmp_path / "wrong")


class Hasty(LocalEngine):
    """Hands out replies as they arrive, of which the last may be the first."""

    def exchange(
        self,
        messages: Sequence[Message],
        tasks: Mapping[int, TaskSpec],
        timeout: float | None = None,
    ) -> Iterator[Message]:
        return reversed(list(super().exchange(messages, tasks, timeout)))


class Silent(LocalEngine):
    """Says nothing of who has failed."""

    def exchange(
        self,
        messages: Sequence[Message],
        tasks: Mapping[int, TaskSpec],
        timeout: float | None = None,
    ) -> Iterator[Message]:
        return (r for r in super().exchange(messages, tasks, timeout) if not r.has_error())


@pytest.mark.parametrize(
    ("wrong", "said"), [(Hasty, "not in the order of the clients"), (Silent, "answered for")]
)
def test_a_wrong_engine_is_found_out(
    wrong: type[LocalEngine], said: str, task: tuple[RunContext, dict[str, Any]]
) -> None:
    with pytest.raises(AssertionError, match=said):
        check_engine(partial(local, wrong, 0), *task)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, which the tests copy."""
    folder = tmp_path_factory.mktemp("trained")
    with Console() as console:
        train([*TINY, "rounds=1", f"store={folder / 'store'}"], folder / "run", console)
    return folder / "run"


@pytest.fixture
def finished(trained: Path, tmp_path: Path) -> Run:
    shutil.copytree(trained, tmp_path / "run")
    return Run(tmp_path / "run")


@pytest.mark.parametrize("name", EVALUATIONS)
def test_evaluations(name: str, finished: Run) -> None:
    check_evaluation(find(name), finished)


class WrongEvaluation(Evaluation):
    """Counts the test images, and is wrong in one way."""

    name: ClassVar[str] = "counted"

    def __init__(self, wrong: str) -> None:
        self.wrong = wrong

    def __call__(self, run: Run) -> dict[str, Any]:
        if self.wrong == "writes":
            (run.folder / "mine.txt").write_text("mine")
        number = np.random.random() if self.wrong == "draws from all" else 1.0
        return {"images": np.int64(3) if self.wrong == "numpy" else number}

    def section(self, result: Mapping[str, Any]) -> Section:
        cells: list[list[str | float]] = [["images", 1.0]]
        cells += [["all"]] * (self.wrong == "ragged")
        return Section("Counted", "Images.", ["what", "number"], cells)


@pytest.mark.parametrize(
    ("wrong", "found", "said"),
    [
        ("writes", AssertionError, "changes the run directory"),
        ("draws from all", AssertionError, "answers differ"),
        ("ragged", AssertionError, "a row of other columns"),
        ("numpy", TypeError, "not JSON serializable"),
    ],
)
def test_a_wrong_evaluation_is_found_out(
    wrong: str, found: type[Exception], said: str, finished: Run
) -> None:
    with pytest.raises(found, match=said):
        check_evaluation(WrongEvaluation(wrong), finished)
    check_evaluation(WrongEvaluation(""), finished)


def privacy_rows(folder: Path) -> callbacks.Callback:
    ledger = Ledger.open(folder / "ledger.json", {"client": 1e-5})
    ledger.record(Event(1, "client", 1.0, 0.5))
    return callbacks.PrivacyRows(ledger)


class Appended(callbacks.Callback):
    """Adds its rounds to a file, and those of an earlier process once more."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "rounds.txt"

    def on_start(self, rows: Sequence[MetricRow]) -> None:
        self.write(row.round for row in rows)

    def on_round(self, round_: int, rows: Sequence[MetricRow], arrays: Arrays) -> None:
        self.write([round_])

    def write(self, rounds: Any) -> None:
        with self.file.open("a") as file:
            file.writelines(f"{round_}\n" for round_ in rounds)


class Drawing(callbacks.Callback):
    """Draws from the generator that a strategy draws from."""

    def on_round(self, round_: int, rows: Sequence[MetricRow], arrays: Arrays) -> None:
        np.random.random()


CALLBACKS: dict[str, Callable[[Path], callbacks.Callback]] = {
    "metrics": lambda folder: callbacks.MetricsFile(RunDirectory(folder)),
    "privacy": privacy_rows,
    "log": lambda folder: callbacks.Log(),
    "terminal": lambda folder: callbacks.Terminal(Console(), 2, [], RunDirectory(folder), 0.0),
}


@pytest.mark.parametrize("name", CALLBACKS)
def test_callbacks(name: str, finished: Run) -> None:
    check_callback(CALLBACKS[name], outcome_of(finished.summary))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [(Appended, "other files after a cut"), (lambda folder: Drawing(), "draws from what others")],
)
def test_a_wrong_callback_is_found_out(
    wrong: Callable[[Path], callbacks.Callback], said: str, finished: Run
) -> None:
    with pytest.raises(AssertionError, match=said):
        check_callback(wrong, outcome_of(finished.summary))
