"""The contracts of the doors that only a run can try; see ``contracts.py``."""

import json
import pickle
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from contracts import plain, shuffle_globals
from flwr.app import ConfigRecord, Message, RecordDict
from safetensors.numpy import load_file

from fedmed import models
from fedmed.client.app import app
from fedmed.config import compose
from fedmed.core.errors import FedmedError
from fedmed.core.records import MetricRow
from fedmed.experiment.assembly import built, run_context
from fedmed.experiment.callbacks import Callback, Callbacks, Outcome
from fedmed.experiment.data import prepare, save
from fedmed.experiment.run import run
from fedmed.federation.engine import Engine
from fedmed.federation.messages import ARRAYS, CONFIG, LATE, RunContext, TaskSpec
from fedmed.flower.node_config import simulated
from fedmed.runs.console import Console
from fedmed.runs.directory import RunDirectory
from fedmed.runs.evaluations import Attack, Evaluation, evaluate
from fedmed.runs.run import Run

PRIVATE = ("privacy=dpsgd", "privacy.noise_multiplier=1", "client.steps=1", "client=sgd")


class CutAfter(Console):
    """A console under which a run is cut off once a round's checkpoint is on the disk."""

    def __init__(self, last: int) -> None:
        super().__init__()
        self.last = last

    def round(self, round_: int, *shown: Any) -> None:
        if round_ == self.last:
            raise FedmedError("cut off")


def files(folder: Path) -> dict[str, bytes]:
    """Return the content of all files below a folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def model_of(run_dir: Path) -> dict[str, Any]:
    """Return the arrays of a run's last global model."""
    return load_file(RunDirectory(run_dir).checkpoint.parent / "model.safetensors")


def check_protocol(overrides: Sequence[str], folder: Path) -> None:
    """Put a protocol through whole runs: other workers, a cut, private training, a failing client.

    Args:
        overrides: a small run under it of two rounds or more and of two clients or more.
        folder: an empty one, for the run directories.
    """
    overrides = [*overrides, f"store={folder / 'store'}"]

    def play(name: str, *more: str, until: int = -1) -> dict[str, Any]:
        with CutAfter(until) as console:
            return run([*overrides, *more], folder / name, console)

    whole = play("whole", "runner.workers=0")
    arrays = model_of(folder / "whole")
    start = dict(built(compose(overrides))[1])
    kinds = [{name: (a.dtype, a.shape) for name, a in some.items()} for some in (arrays, start)]
    assert kinds[0] == kinds[1], "makes arrays of other names, types or shapes"
    assert whole["model_sha256"] != models.arrays_sha256(start), "nothing is learnt"

    paid = play("private", *PRIVATE, "runner.workers=0")
    events = json.loads((folder / "private" / "ledger.json").read_text())["events"]
    size = sum(array.nbytes for array in model_of(folder / "private").values())
    assert paid["bytes_up"] == size * len(events), (
        f"{paid['bytes_up'] // size} updates have come in, and {len(events)} are paid for"
    )
    with suppress(FedmedError):
        play("failed", *PRIVATE, "runner.workers=0", "faults.inject=[{kind:raise}]")
    spent = json.loads((folder / "failed" / "ledger.json").read_text())["events"]
    assert spent, "asks before it pays"
    assert not RunDirectory(folder / "failed").checkpoint.exists(), "goes on where all fail"

    with suppress(FedmedError):
        play("cut", "runner.workers=2", until=1)
    resumed = play("cut", "runner.workers=0")
    assert resumed["model_sha256"] == whole["model_sha256"], (
        "other weights with other workers, or after a cut: it depends on when replies come, or "
        "remembers what is not checkpointed"
    )


def prepared(overrides: Sequence[str], folder: Path) -> tuple[RunContext, dict[str, Any]]:
    """Leave a small run's files; return what its clients are told, and the first global arrays."""
    config = compose([*overrides, f"store={folder / 'store'}"])
    run_dir = RunDirectory(folder / "run")
    run_dir.path.mkdir()
    data = prepare(config, lambda *_: None, 0)
    save(data, run_dir)
    own = run_context(config)
    paths = (data.store.path, run_dir.table, run_dir.partition, run_dir.states)
    told = RunContext(own.config, own.config_sha256, "cpu", *map(str, paths))
    return told, dict(built(config)[1])


def check_engine(
    opened: Callable[[], AbstractContextManager[Engine]],
    run: RunContext,
    arrays: Mapping[str, Any],
    deadline: float | None = None,
) -> None:
    """Put an engine through exchanges with four clients, of which one fails and one may be late.

    Args:
        opened: opens it for four clients.
        run: of a task in which client 1 raises in round 2, and client 2 takes for ever in round 3.
        arrays: that are sent.
        deadline: seconds that round 3 may take; None where an engine cannot be late.
    """
    content = RecordDict({ARRAYS: models.to_record(arrays), CONFIG: ConfigRecord({"round": 1})})
    before = plain(content)

    def expected(message: Message, task: TaskSpec) -> dict[str, Any]:
        """Return what the client app answers, called by hand."""
        whole = Message(RecordDict({**content, **task.records()}), 1, "train")
        return plain(app(whole, simulated(task.client + 1)).content)

    with opened() as engine:
        nodes = engine.get_node_ids()
        assert nodes == [1, 2, 3, 4], "nodes: not the clients in order, from 1"
        assert [engine.client_of(node) for node in nodes] == [0, 1, 2, 3], "client_of"

        def exchange(round_: int, to: Sequence[int], timeout: float | None = None) -> list[Message]:
            messages = [Message(content, node, "train") for node in to]
            tasks = {node: TaskSpec(node - 1, round_, -1, -1, run) for node in to}
            replies = list(engine.exchange(messages, tasks, timeout))
            assert plain(content) == before, "exchange: changes a content that others are sent too"
            from_ = [reply.metadata.src_node_id for reply in replies]
            assert from_ == sorted(from_), "exchange: not in the order of the clients"
            if timeout is None:
                assert from_ == sorted(to), f"exchange: asked {sorted(to)}, answered for {from_}"
            for message in messages:
                node = message.metadata.dst_node_id
                sound = [r for r in replies if r.metadata.src_node_id == node and r.has_content()]
                for reply in sound:
                    assert plain(reply.content) == expected(message, tasks[node]), (
                        "exchange: not what the client has answered"
                    )
            return replies

        assert not [r for r in exchange(1, [3, 1, 4, 2]) if r.has_error()], "a sound client fails"
        assert exchange(1, []) == [], "exchange: asked nobody, and is answered"
        failed = [r.metadata.src_node_id for r in exchange(2, [4, 2, 1]) if r.has_error()]
        assert failed == [2], f"exchange: client 1 raises, and nodes {failed} are said to fail"
        if deadline is not None:
            began = time.monotonic()
            late = exchange(3, [4, 3, 1], deadline)
            assert time.monotonic() - began < 3 * deadline, "exchange: waits beyond its deadline"
            sound = [r.metadata.src_node_id for r in late if r.has_content()]
            assert sound == [1, 4], f"exchange: client 2 is late, and only nodes {sound} answer"
            assert {r.error.code for r in late if r.has_error()} <= {LATE}, "exchange: code"
            assert len(exchange(1, nodes)) == len(nodes), "exchange: nobody works after a deadline"


def check_evaluation(evaluation: Evaluation, run: Run) -> None:
    """Put an evaluation to a finished run, twice.

    Args:
        evaluation: the question.
        run: that is finished; the answer is left in its directory.
    """
    before = files(run.folder)
    shuffle_globals(0)
    result = evaluation(run)
    assert files(run.folder) == before, "changes the run directory while it is asked"
    text = json.dumps(result, sort_keys=True)  # what JSON cannot hold has no answer
    shuffle_globals(1)
    assert json.dumps(evaluation(Run(run.folder)), sort_keys=True) == text, "answers differ"
    if section := evaluation.section(result):
        assert section.title, "section: no title"
        for row in section.rows:
            assert len(row) == len(section.columns), "section: a row of other columns"
            assert all(cell is None or isinstance(cell, float | int | str) for cell in row), row
    if isinstance(evaluation, Attack):
        assert evaluation.access, "access: nothing is said of what the attacker sees"
    evaluate(evaluation, run)
    assert evaluation.name in Run(run.folder).evaluations, "is not found by its name"


AFTER: models.Arrays = {"w": np.zeros(2, np.float32)}
ROWS = {
    round_: [
        MetricRow(round_, "test", -1, "macro_auroc", 0.5 + round_ / 10),
        *(MetricRow(round_, "train", client, "loss", 1.0 / (1 + round_)) for client in (0, 1)),
    ]
    for round_ in range(3)
}


def _failed(text: str) -> None:
    raise AssertionError(f"on_end: {text}")


def check_callback(
    make: Callable[[Path], Callback], outcome: Outcome, left: Callable[[Path], Any] = files
) -> None:
    """Put a callback through a run of two rounds: whole, cut off and resumed, and failed.

    Args:
        make: makes it anew for a process of the run, whose directory it is given.
        outcome: of the run.
        left: returns what the callback has left in the directory, as far as it must be the same.
    """
    before = {round_: tuple(rows) for round_, rows in ROWS.items()}

    def follow(folder: Path, first: int, last: int) -> dict[int, list[MetricRow]]:
        """Follow the rounds from one to another in a process of their own."""
        callback = make(folder)
        found: dict[int, list[MetricRow]] = {}
        done = [row for r in range(first) for row in ROWS[r]]
        with Callbacks(callback, say=_failed).following(done) as following:
            for round_ in range(first, last + 1):
                found[round_] = following.on_update(round_) if round_ else []
                following.on_round(round_, ROWS[round_], AFTER)
        following.on_end(outcome if last == max(ROWS) else None)
        return found

    state = pickle.dumps(np.random.get_state())
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        whole, cut = Path(one), Path(other)
        rows = follow(whole, 0, 2)
        again = follow(cut, 0, 1) | follow(cut, 2, 2)
        assert {r: tuple(some) for r, some in ROWS.items()} == before, "changes the metrics"
        assert pickle.dumps(np.random.get_state()) == state, "draws from what others draw from"
        assert rows == again, "on_update: other rows after a cut"
        for round_, some in rows.items():
            assert all(row.round == round_ for row in some), "on_update: rows of another round"
            assert np.isfinite([row.value for row in some]).all(), "on_update: not finite"
        assert left(whole) == left(cut), "leaves other files after a cut than without one"
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder)).on_end(None)  # as where another has failed to start


def outcome_of(summary: dict[str, Any]) -> Outcome:
    return Outcome(summary, pd.DataFrame({"client": [0, 1]}))
