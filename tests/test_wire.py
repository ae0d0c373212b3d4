"""The task that a client reads is the server's to the last value, or it is refused in a line."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY
from flwr.app import Context, Message, RecordDict
from hospitals import make_home
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fedmed.client.app import app
from fedmed.client.context import device
from fedmed.client.redaction import RedactedError
from fedmed.config import CONF, Task, compose, identity, wire
from fedmed.config.wire import WireError
from fedmed.core.errors import ConfigError, FedmedError
from fedmed.federation.messages import DESCRIBE, RUN, RunContext, TaskSpec
from fedmed.flower import process
from fedmed.flower.node_config import simulated

#: All that an argument of a component can be, and what JSON would make other things of.
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.builds(Path, st.sampled_from(["a", "/b/c", "ä"]))
)
KEYS = st.text(max_size=4) | st.integers() | st.booleans() | st.floats() | st.none()
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=3)
    ),
    max_leaves=12,
)
TAGGED: dict[Any, Any] = {"$float": "inf", "$dict": [[1, 2]], "x": {"$path": "a", 1: {"1": ()}}}


class Anything:
    """A component that takes whatever it is given."""

    def __init__(self, **more: Any) -> None:
        self.more = more


def task(**arguments: Any) -> Task:
    """Return a task, one of whose components has these arguments."""
    values = compose(TINY).model_dump(by_alias=True, include=set(Task.model_fields))
    values["dataset"] = {"_target_": "test_wire.Anything", "targets": ["a"], **arguments}
    return Task.model_validate(values)


BASE = task()


def exact(one: Task) -> str:
    """Return what Python calls the values: it tells 1 from 1.0, () from [] and None from NaN."""
    return repr(one.model_dump(by_alias=True, include=set(Task.model_fields)))


def sent(text: str) -> Task:
    return wire.loads(text, wire.sha256(text))


def changed(change: Callable[[dict[str, Any]], object], text: str | None = None) -> str:
    """Return a text in which somebody has changed something, and its hash with it."""
    content = json.loads(text or wire.dumps(BASE))
    change(content)
    return json.dumps(content, separators=(",", ":"))


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(st.sampled_from(["a", "$b", "c"]), VALUES))
@example({"a": math.inf, "$b": None, "c": math.nan})
@example({"a": {1: 0, "1": 1, False: 2.0, None: -0.0, 1.5: 1}, "c": (1, 1.0, [])})
@example({"a": TAGGED, "c": [TAGGED]})
@example({"a": "${oc.env:HOME}", "c": "${seed}"})
def test_every_value_arrives_as_it_was(arguments: dict[str, Any]) -> None:
    one = BASE.model_copy(
        update={"dataset": type(BASE.dataset)(_target_="test_wire.Anything", **arguments)}
    )
    text = wire.dumps(one)
    assert text.isascii()
    there = sent(text)
    assert exact(there) == exact(one)
    assert wire.sha256(wire.dumps(there)) == wire.sha256(text)


GROUPS = [
    *(f"strategy={path.stem}" for path in sorted((CONF / "strategy").glob("*.yaml"))),
    *(f"faults={path.stem}" for path in sorted((CONF / "faults").glob("*.yaml"))),
    *(f"model={name}" for name in ("densenet121", "efficientnet_b0", "resnet18", "vit")),
    "dataset=heart_disease dataset.root=a model=logistic_regression",
    "privacy=dpsgd privacy.epsilon=3",
    "client=sgd client.lr=1",
    "+experiment=privacy_utility privacy.epsilon=8",
    "+experiment=sites dataset.sets.nih.root=a dataset.sets.pneumoniamnist.root=b "
    "dataset.sets.chexpert.root=c",
    "faults.inject=[{kind:slow,rounds:[1,2],clients:[0],seconds:3}]",
    "faults.max_norm=inf",
]


@pytest.mark.parametrize("overrides", GROUPS)
def test_a_client_finds_the_identity_that_the_server_has(overrides: str) -> None:
    config = compose(overrides.split(), build=False)
    text = wire.dumps(config)
    there = sent(text)
    assert exact(there) == exact(config)
    assert type(there) is Task
    assert identity.decisive(there) == identity.decisive(config)
    assert json.loads(text)["task"].keys() == Task.model_fields.keys()


def test_what_is_the_servers_own_stays_there() -> None:
    own = ("name=secret-name", "store=/secret/store", "tracking.entity=secret-entity")
    text = wire.dumps(compose([*TINY, *own, "tracking.project=secret-project"]))
    assert "secret" not in text


def test_any_bit_that_is_turned_is_refused() -> None:
    text = wire.dumps(BASE)
    digest = wire.sha256(text)
    for place in range(len(text)):
        for bit in (1, 4, 32):
            other = text[:place] + chr(ord(text[place]) ^ bit) + text[place + 1 :]
            with pytest.raises(WireError, match="is not the one that was sent"):
                wire.loads(other, digest)
    with pytest.raises(WireError, match="is not the one that was sent"):
        wire.loads(text, digest.replace(digest[0], "x"))


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_text_that_is_taken_is_written_the_same(data: st.DataObject) -> None:
    """Whatever is done to it, hash included: it is refused in a line, or means what it says."""
    text = wire.dumps(BASE)
    start = data.draw(st.integers(0, len(text)))
    stop = data.draw(st.integers(start, min(start + 12, len(text))))
    put = data.draw(
        st.sampled_from(["", "NaN", "1e999", "1.0", '"$float"', "[" * 5000, '{"a":' * 400])
        | st.text('0123456789.,:{}[]"$eE-nultrfas ', max_size=6)
    )
    text = text[:start] + put + text[stop:]
    try:
        taken = sent(text)
    except ConfigError:
        pass
    else:
        assert wire.dumps(taken) == text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.update(format=2), r"of fedmed \S+ \(format 2, semantics 1\), and this is"),
        (lambda c: c.update(fedmed="9.0"), r"of fedmed 9\.0 .* take the same version"),
        (lambda c: c.update(semantics=99), r"semantics 99\), and this is fedmed"),
        (lambda c: c["task"].update(tide="high"), "the task that came: tide: unknown key"),
        (lambda c: c["task"]["client"].update(lr_decay=0.1), r"client\.lr_decay: unknown key"),
        (lambda c: c["task"].update(hydra={"searchpath": ["x"]}), "hydra: unknown key"),
        (lambda c: c["task"]["client"].pop("lr"), r"the task that came: client\.lr: is missing$"),
        (lambda c: c["task"].pop("seed"), "the task that came: seed: is missing$"),
        (lambda c: c["task"]["client"].update(lr="0.1"), "would be another one here"),
        (lambda c: c["task"]["client"].update(lr=-1), r"client\.lr: .* got -1"),
        (lambda c: c.update(more=1), "would be another one here"),
        (lambda c: c["task"]["client"].update(lr={"$env": "HOME"}), "a value in it is none"),
        (lambda c: c["task"]["client"].update(lr={"$float": "1"}), "a value in it is none"),
        (lambda c: c["task"]["model"].update(weights={"$path": "a.pt"}), "not a .safetensors"),
    ],
)
def test_what_is_not_known_here_is_refused(change: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        sent(changed(change))


def test_a_component_that_takes_no_such_argument_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"strategy\.local\.nu: unknown key; strategy\.local take"
    ):
        sent(
            changed(
                lambda c: c["task"]["strategy"]["local"].update(nu=1),
                wire.dumps(compose([*TINY, "strategy=fedprox"])),
            )
        )
    with pytest.raises(ConfigError, match=r"model\.network\._target_: "):
        sent(changed(lambda c: c["task"]["model"]["network"].update(_target_="fedmed.no.Net")))


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", "NaN", "[" * 100_000, "seed: 1"])
def test_what_is_no_task_is_refused(text: str) -> None:
    with pytest.raises(WireError, match="cannot be read"):
        sent(text)


def test_a_value_without_a_text_is_named() -> None:
    with pytest.raises(ConfigError, match=r"dataset\.a\.b: a bytes cannot be sent to clients"):
        wire.dumps(task(a={"b": b"x"}))


def test_nothing_is_resolved_where_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMED_SECRET", "of the hospital")
    there = sent(wire.dumps(task(a="${oc.env:FEDMED_SECRET}")))
    assert there.dataset.arguments["a"] == "${oc.env:FEDMED_SECRET}"
    built: Anything = there.dataset.build()
    assert built.more["a"] == "${oc.env:FEDMED_SECRET}"


def spec(text: str, digest: str, **own: Any) -> TaskSpec:
    run = RunContext(text, digest, "cpu", "/s", "/t", "/p", "/states")
    return TaskSpec(client=2, round=5, state=-1, kept=-1, run=run)


def message(one: TaskSpec) -> Message:
    process.host()
    return Message(RecordDict({**one.records()}), 3, "train")


def node(**config: Any) -> Context:
    return Context(1, 3, config, RecordDict(), {})


def test_a_task_travels_and_a_hospitals_own_stays_its_own(tmp_path: Path) -> None:
    one = spec("{}", "0")
    assert TaskSpec.of(message(one), simulated(3)) == one
    hospital = {"partition-id": 2, "home": str(tmp_path)}
    there = TaskSpec.of(message(one), node(**hospital))
    assert (there.client, there.round, there.state, there.kept) == (2, 5, -1, -1)
    assert (there.run.config, there.run.config_sha256) == ("{}", "0")
    files = (there.run.store, there.run.table, there.run.partition, there.run.states)
    names = ("data", "data/table.parquet", "data/partition.csv", "states")
    assert files == tuple(str(tmp_path / name) for name in names)
    assert there.run.device == "cpu"
    assert TaskSpec.of(message(one), node(**hospital, device="auto")).run.device == "auto"
    own = node(**hospital, simulated=True)  # a home is a hospital's, whatever else is said
    assert TaskSpec.of(message(one), own).run.store == str(tmp_path / "data")
    with pytest.raises(FedmedError, match="a message to client 2 came to client 3"):
        TaskSpec.of(message(one), node(**(hospital | {"partition-id": 3})))
    with pytest.raises(FedmedError, match="a message to client 2 came to client None"):
        TaskSpec.of(message(one), node(home=str(tmp_path)))
    for stranger in (
        {},
        {"partition-id": 2},
        {"data": str(tmp_path)},
        {"simulated": True},
        {"partition-id": 2, "num-partitions": 9},  # as Flower's examples start a SuperNode
    ):
        with pytest.raises(FedmedError, match="has no home in its config"):
            TaskSpec.of(message(one), node(**stranger))
    with pytest.raises(ConfigError, match="device: takes auto, cpu, cuda, got 'tpu'"):
        device("tpu")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        lambda records: records.pop("task"),
        lambda records: records["task"].pop("kept"),
        lambda records: records["task"].update(tide=1),
        lambda records: records["task"].update(client="2"),
        lambda records: records["run"].update(overrides="seed=1"),
        lambda records: records["run"].update(store=1),
    ],
)
def test_a_message_of_another_version_is_refused(change: Any) -> None:
    one = message(spec("{}", "0"))
    change(one.content)
    with pytest.raises(FedmedError, match=r"whose record (task|run) is of another version"):
        TaskSpec.of(one, simulated(3))


def test_a_hospital_refuses_aloud_and_tells_nothing_of_its_own(tmp_path: Path) -> None:
    """The server hears of the difference; of the hospital's folder it hears a kind of error."""
    home = make_home(tmp_path / "patients-of-saint-wenefrede", TINY, client=2)
    shutil.rmtree(home.data)
    text = wire.dumps(compose(TINY))
    hospital = node(**{"partition-id": 2, "home": str(home.path)})
    for kind in ("train", "evaluate"):
        one = Message(RecordDict({**spec(text, "0" * 64).records()}), 3, kind)
        with pytest.raises(WireError, match="is not the one that was sent"):
            app(one, hospital)
    asked = RecordDict({RUN: RunContext(text, "0" * 64, "cpu").record()})
    with pytest.raises(WireError, match="is not the one that was sent"):
        app(Message(asked, 3, DESCRIBE), hospital)
    sound = RecordDict({RUN: RunContext(text, wire.sha256(text), "cpu").record()})
    with pytest.raises(RedactedError, match=r"^DataError; the log of its SuperNode says more$"):
        app(Message(sound, 3, DESCRIBE), hospital)
