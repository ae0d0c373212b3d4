"""Whatever some clients answer, they alone are left out, and the others' average is theirs."""

import io
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import TINY, metrics
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.common.constant import ErrorCode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedmed.config import Faults
from fedmed.core.errors import FedmedError
from fedmed.core.records import MetricRow
from fedmed.core.texts import LogFormatter, cell, printable
from fedmed.federation.aggregation import streaming_mean
from fedmed.federation.engine import Engine
from fedmed.federation.exchange import Exchange
from fedmed.federation.messages import TASK, RunContext
from fedmed.federation.replies import Terms
from fedmed.federation.reply_filter import ReplyFilter
from fedmed.federation.update_steps import UpdateStep
from fedmed.flower import process
from fedmed.flower.arrays import record_of
from fedmed.report.render import _tex, escape
from fedmed.runs.console import Console
from fedmed.runs.directory import RunDirectory

SHAPES = {"w": (3, 4), "b": (4,), "scale": ()}
SIZES = {0: 10, 1: 7, 2: 350, 3: 23}  # training images of each client
RAISED = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
POLICY = Faults(on_failure="exclude", min_clients=1, deadline=None, max_norm=1e9, inject=())


class Wire(Engine):
    """Delivers what it is given."""

    def __init__(self, replies: dict[int, RecordDict | Error]) -> None:
        super().__init__(len(SIZES))
        self.replies = replies

    def exchange(
        self, messages: Any, tasks: Any, timeout: float | None = None
    ) -> Iterator[Message]:
        for message in messages:
            answer = self.replies[tasks[message.metadata.dst_node_id].client]
            yield Message(answer, reply_to=message)


def weights(client: int) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(client)
    return {k: np.asarray(rng.normal(size=s), np.float32) for k, s in SHAPES.items()}


def honest(client: int) -> RecordDict:
    values: Any = {"num-examples": SIZES[client], "weight": float(SIZES[client]), "steps": 3}
    return RecordDict({"arrays": record_of(weights(client)), "metrics": MetricRecord(values)})


def play(
    answers: dict[int, RecordDict | Error],
) -> tuple[ReplyFilter, dict[str, NDArray[Any]], list[MetricRow]]:
    """Have answers go through engine, filter and average as in a round."""
    process.host()
    wire = Wire(answers)
    terms = Terms(SIZES, "examples", frozenset({"steps"}))
    with Console() as console:
        exchange = Exchange(wire, RunContext("", "", "cpu"), POLICY, print, console.warn)
        sent = RecordDict({"arrays": record_of({k: np.zeros(s, "f") for k, s in SHAPES.items()})})
        messages = [Message(sent, node, "train") for node in wire.get_node_ids()]
        replies = exchange.ask(1, "train", messages, terms)
        (mean,) = streaming_mean(replies, "weight")
    arrays = {k: a.numpy() for k, a in mean.content.array_records["arrays"].items()}
    return replies.filter, arrays, replies.metrics


def npy(values: NDArray[Any], pickled: bool = False) -> bytes:
    file = io.BytesIO()
    np.save(file, values, allow_pickle=pickled)
    return file.getvalue()


def claimed(values: NDArray[Any], **said: Any) -> Array:
    """Return an array that says other things of itself."""
    truth = {"dtype": str(values.dtype), "shape": values.shape, "stype": "numpy.ndarray"}
    return Array(**(truth | {"data": npy(values)} | said))


OTHER_TYPES = ["f8", "f2", "i8", "?", "c8", "U3", "S2", "M8[s]", ">f4", "i4,f4", "V4", "u1"]
ODD = st.one_of(
    st.text(max_size=30),
    st.sampled_from(["[/red]", "[bold]", "\x1b]0;x\x07", "\n\n", "=1+1", "\u202e", "a" * 10_000]),
)


@st.composite
def hostile_array(draw: st.DrawFn, like: NDArray[np.float32]) -> Array:
    """An array that is not of the type, shape, size or encoding that is asked for."""
    kind = draw(st.integers(0, 8))
    if kind == 0:
        return Array(np.zeros(like.shape, np.dtype(draw(st.sampled_from(OTHER_TYPES)))))
    if kind == 1:
        shape = draw(st.lists(st.integers(0, 5), max_size=4).map(tuple))
        values = np.zeros(shape if shape != like.shape else (*shape, 2), np.float32)
        told = draw(st.sampled_from([values.shape, like.shape]))
        return claimed(values, shape=told)
    if kind == 2:
        return claimed(like, data=draw(st.binary(max_size=200)))
    if kind == 3:  # a sound file with a byte changed in its header, or one cut off, or one too long
        data, at = npy(like), draw(st.integers(0, 100))
        broken = [data[:at] + b"\xff" + data[at + 1 :], data[:-1], data + b"\0"]
        return claimed(like, data=draw(st.sampled_from(broken)))
    if kind == 4:
        return claimed(like, dtype=draw(ODD))
    if kind == 5:
        return claimed(like, stype=draw(ODD))
    if kind == 6:
        objects = np.empty(like.shape, object)
        return claimed(like, data=npy(objects, pickled=True))
    if kind == 7:  # a header that claims more than there is memory
        header = str({"descr": "<f4", "fortran_order": False, "shape": (10**15,)}).encode()
        header += b" " * (118 - len(header) - 1) + b"\n"
        return claimed(like, data=b"\x93NUMPY\x01\x00" + b"\x76\x00" + header + bytes(16))
    bad = like.copy()
    bad.flat[0] = draw(st.sampled_from([np.nan, np.inf, -np.inf, 3e38]))
    return Array(bad)


@st.composite
def hostile(draw: st.DrawFn, client: int) -> RecordDict | Error:
    """An answer that must not count."""
    content, kind = honest(client), draw(st.integers(0, 5))
    if kind == 0:
        code = draw(st.integers(0, 2**31 - 1) | st.sampled_from(list(range(8))))
        return Error(code, draw(ODD))
    arrays, values = content.array_records["arrays"], content.metric_records["metrics"]
    if kind == 1:
        name = draw(st.sampled_from(sorted(SHAPES)))
        arrays[name] = draw(hostile_array(arrays[name].numpy()))
    elif kind == 2:
        name, odd = draw(st.sampled_from(sorted(SHAPES))), draw(ODD)
        if draw(st.booleans()) and odd not in SHAPES:
            arrays[odd] = arrays[name]
        else:
            del arrays[name]
    elif kind == 3:
        record: Any = draw(
            st.sampled_from([record_of(weights(0)), MetricRecord({"a": 1.0}), ConfigRecord({})])
        )
        content[draw(ODD.filter(lambda key: key not in ("arrays", "metrics", "state")))] = record
    elif kind == 4:
        number = st.floats() | st.integers() | st.lists(st.floats(), max_size=3)
        name = draw(st.sampled_from(["weight", "num-examples"]))
        values[name] = draw(number.filter(lambda v: isinstance(v, list) or v != SIZES[client]))
    else:
        name = draw(ODD.filter(lambda name: name not in values))
        if draw(st.booleans()):
            values[name] = 1.0
        else:
            del values[draw(st.sampled_from(sorted(values)))]
    return content


@pytest.mark.parametrize("kind", OTHER_TYPES)
def test_arrays_of_another_type_leave_out_their_sender_alone(kind: str) -> None:
    """Dates among them, which have no buffer: what is hashed for the record must not break it."""
    arrays = weights(0) | {"w": np.zeros(SHAPES["w"], np.dtype(kind))}
    odd = RecordDict({"arrays": ArrayRecord({k: Array(v) for k, v in arrays.items()})})
    size = SIZES[0]
    odd["metrics"] = MetricRecord({"num-examples": size, "weight": float(size), "steps": 3})
    accepted, _, _ = play({k: odd if k == 0 else honest(k) for k in SIZES})
    assert set(accepted.excluded) == {0}


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data(), st.sets(st.sampled_from(sorted(SIZES)), min_size=1, max_size=3))
def test_hostile_clients_are_left_out_and_nobody_else(data: st.DataObject, evil: set[int]) -> None:
    answers: dict[int, RecordDict | Error] = {
        k: data.draw(hostile(k)) if k in evil else honest(k) for k in SIZES
    }
    accepted, mean, rows = play(answers)
    assert set(accepted.excluded) == evil
    rest = [k for k in SIZES if k not in evil]
    total = float(sum(SIZES[k] for k in rest))
    for name, values in mean.items():
        by_hand = np.zeros(SHAPES[name])
        for k in rest:
            by_hand += weights(k)[name].astype(np.float64) * SIZES[k]
        expected = (by_hand / total).astype(np.float32)
        assert values.dtype == np.float32
        assert values.tobytes() == expected.tobytes()
    assert {row.client for row in rows} == set(rest)
    for fault in accepted.excluded.values():
        assert fault.what.isprintable()
        assert len(fault.what) < 1200


def test_honest_answers_count_whatever_their_encoding() -> None:
    """As our own array, as Flower's, in Fortran's order: the same average."""
    answers: dict[int, RecordDict | Error] = {k: honest(k) for k in SIZES}
    _, expected, _ = play(dict(answers))
    theirs = ArrayRecord()
    for name, values in weights(1).items():
        theirs[name] = Array(np.array(values, order="F"))
    answers = {k: honest(k) for k in SIZES}
    answers[1] = RecordDict(
        {"weights": theirs, "metrics": honest(1)["metrics"]}  # by another name: refused
    )
    assert set(play(dict(answers))[0].excluded) == {1}
    answers = {k: honest(k) for k in SIZES}
    answers[1] = RecordDict({"arrays": theirs, "numbers": honest(1)["metrics"]})
    accepted, mean, _ = play(answers)
    assert not accepted.excluded
    for name in SHAPES:
        assert mean[name].tobytes() == expected[name].tobytes()


class Hostile(UpdateStep):
    """Some clients of a run that answer as they like.

    Args:
        clients: what each of them does.
    """

    def __init__(self, clients: dict[int, str]) -> None:
        self.clients = clients

    def encode(self, sent: RecordDict, content: RecordDict, state: RecordDict, seed: int) -> None:
        client = int(str(sent.config_records[TASK]["client"]))
        arrays, how = content.array_records["arrays"], self.clients.get(client)
        name = next(iter(arrays))
        if how == "weight":
            content.metric_records["metrics"]["weight"] = 1e18
        elif how == "examples":
            content.metric_records["metrics"].update({"num-examples": 10**9, "weight": 1e9})
        elif how == "lie":
            values = arrays[name].numpy()
            arrays[name] = claimed(np.stack([values, values]), shape=values.shape)
        elif how == "pickle":
            arrays[name] = claimed(arrays[name].numpy(), data=npy(np.array([print]), pickled=True))
        elif how == "error":
            raise RuntimeError("\x1b[2J [/red]\n2026-01-01 00:00:00 INFO fedmed: all is well")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_goes_on_without_its_hostile_clients(
    workers: int, launch: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    evil = {1: "weight", 2: "lie", 4: "error", 5: "pickle", 6: "examples"}
    config = (*TINY, "partition.clients=8", "rounds=1", "faults.on_failure=exclude")
    how = ",".join(f"{k}:{kind}" for k, kind in evil.items())
    rule = f"strategy.local={{_target_: test_replies.Hostile, clients: {{{how}}}}}"
    done = launch(*config, rule, f"runner.workers={workers}", folder=tmp_path / "evil")
    gone = f"faults.inject=[{{kind:dropout,clients:{list(evil)}}}]".replace(" ", "")
    without = launch(*config, gone, folder=tmp_path / "without")
    assert done["model_sha256"] == without["model_sha256"]
    assert done["faults"]["by_client"] == {str(k): 1 for k in evil}
    assert done["faults"]["by_kind"] == {"malformed": 4, "raised": 1}
    trained = metrics(tmp_path / "evil").query("metric == 'num-examples'")["client"]
    assert set(trained.dropna().astype(int)) >= {0, 3, 7}


def test_a_hospitals_own_size_is_its_share_from_the_start(
    launch: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    rule = "strategy.local={_target_: test_replies.Hostile, clients: {2:examples}}"
    with pytest.raises(FedmedError, match=r"client 2 returned 1000000000 examples, where it has"):
        launch(*TINY, "rounds=1", rule)


def test_nothing_commands_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Console() as console:
        console.warn("client 1 failed: [/red] [link=x]y[/link] \x1b[2J\x1b]0;z\x07\u202e\r")
    out = capsys.readouterr().out
    assert "[/red] [link=x]y[/link] \\x1b[2J\\x1b]0;z\\x07\\u202e\\r" in out
    assert str(FedmedError("no file a\nb\x1b[2J")) == r"no file a\nb\x1b[2J"
    assert printable("Ångström, 北京 ε ±") == "Ångström, 北京 ε ±"
    assert printable("\ud800").isascii()


def test_no_text_forges_a_line_of_a_log() -> None:
    formatter = LogFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    forged = "boom\r\x1b[1A\n2026-01-01 00:00:00,000 INFO fedmed: all is well"
    record = logging.LogRecord("fedmed", logging.WARNING, "x", 1, "%s", (forged,), None)
    first, second = formatter.format(record).split("\n")
    assert first.endswith(r"WARNING fedmed: boom\r\x1b[1A")
    assert second == "  2026-01-01 00:00:00,000 INFO fedmed: all is well"


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ('=HYPERLINK("http://x")', '\'=HYPERLINK("http://x")'),
        ("+1+cmd|' /C calc'!A0", "'+1+cmd|' /C calc'!A0"),
        ("-1+1", "'-1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("＝1+1", "'＝1+1"),
        ("-0.012 ± 0.003 [-0.020, 0.001]*", "-0.012 ± 0.003 [-0.020, 0.001]*"),
        ("-3.5e-05", "-3.5e-05"),
        ("site-1", "site-1"),
        ("", ""),
    ],
)
def test_no_cell_is_a_formula(text: str, safe: str, tmp_path: Path) -> None:
    assert cell(text) == safe
    run = RunDirectory(tmp_path)
    run.write_csv(pd.DataFrame({"sites": [text], text: [-1.5]}), "clients.csv")
    read = pd.read_csv(tmp_path / "clients.csv", keep_default_na=False, dtype={"sites": str})
    assert read["sites"].tolist() == [safe]
    assert read.iloc[0, 1] == -1.5


def test_tables_show_texts_and_do_nothing_else() -> None:
    assert escape("<script>|*[x](javascript:y)") == r"\<script>\|\*[x]\(javascript:y)"
    assert _tex(r"\input{x}^~_±") == r"\textbackslash{}input\{x\}\textasciicircum{}" + (
        r"\textasciitilde{}\_$\pm$"
    )
