"""Update steps: in order at the client, undone in reverse at the server; what never leaves."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TINY, metrics
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from safetensors.numpy import load_file

from fedmed import models
from fedmed.audit import perform
from fedmed.audit.finished import Finished
from fedmed.config import compose
from fedmed.core.errors import ConfigError, FedmedError
from fedmed.engines.local import LocalEngine
from fedmed.federation.messages import KEPT, TaskSpec
from fedmed.federation.update_steps import SharedArrays, UpdateStep, decode, encode
from fedmed.flower import process, serialization
from fedmed.models import from_record, to_record
from fedmed.report.page import page
from fedmed.runs.run import Run

BODY = "strategy.state=[features.*]"  # the head stays: FedPer (Arivazhagan et al. 2019)


class Scaled(UpdateStep):
    """Multiplies the arrays, and tells by what; undone, they are divided by what was told."""

    records: Mapping[str, frozenset[str]] = {"scale": frozenset({"by"})}

    def __init__(self, by: float) -> None:
        self.by = by

    def encode(self, sent: RecordDict, content: RecordDict, state: RecordDict, seed: int) -> None:
        content["arrays"] = scaled(content, self.by)
        content["scale"] = ConfigRecord({"by": self.by})

    def decode(self, sent: RecordDict, content: RecordDict) -> None:
        content["arrays"] = scaled(content, 1 / float(str(content.config_records["scale"]["by"])))


class Shifted(UpdateStep):
    """Adds one to the arrays, and takes it away again."""

    def encode(self, sent: RecordDict, content: RecordDict, state: RecordDict, seed: int) -> None:
        content["arrays"] = to_record({k: v + 1 for k, v in arrays(content).items()})

    def decode(self, sent: RecordDict, content: RecordDict) -> None:
        content["arrays"] = to_record({k: v - 1 for k, v in arrays(content).items()})


def arrays(content: RecordDict) -> dict[str, np.ndarray]:
    return from_record(content.array_records["arrays"])


def scaled(content: RecordDict, by: float) -> Any:
    return to_record({k: v * np.float32(by) for k, v in arrays(content).items()})


def test_steps_are_undone_in_reverse() -> None:
    process.host()
    start = {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}
    order = Message(RecordDict({"arrays": to_record(start)}), 1, "train")
    content = RecordDict({"arrays": to_record(start), "metrics": MetricRecord({"weight": 1.0})})
    steps = [Shifted(), Scaled(2.0)]
    encode(steps, order.content, content, RecordDict(), seed=0)
    np.testing.assert_array_equal(arrays(content)["w"], (start["w"] + 1) * 2)
    decode(steps, order.content, content)
    np.testing.assert_array_equal(arrays(content)["w"], start["w"])


def test_what_is_split_is_all_there_is() -> None:
    whole = {name: np.full(3, i, np.float32) for i, name in enumerate(("a.w", "b.w", "b.mean"))}
    content, state = RecordDict({"arrays": to_record(whole)}), RecordDict()
    SharedArrays({"a.w"}).encode(RecordDict(), content, state, seed=0)
    kept = from_record(state.array_records[KEPT])
    assert arrays(content).keys() == {"a.w"}
    assert kept.keys() == {"b.w", "b.mean"}
    for name, values in (arrays(content) | kept).items():
        np.testing.assert_array_equal(values, whole[name])


def test_a_step_is_added_by_its_name_and_changes_nothing_that_it_undoes(
    launch: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """A power of two is exact, so that the weights are the same to the bit; a lost scale is not."""
    step = "{_target_: test_update_steps.Scaled, by: 4.0}"
    prox = "{_target_: fedmed.strategies.fedprox.ProximalTerm, mu: 0.1}"
    config = (*TINY, "rounds=2")
    plain = launch(*config, f"strategy.local={prox}", folder=tmp_path / "plain")
    both = launch(*config, f"strategy.local=[{prox},{step}]", folder=tmp_path / "both")
    assert both["model_sha256"] == plain["model_sha256"]
    assert both["run_id"] != plain["run_id"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["strategy.local={_target_: test_update_steps.Path}"], "is no LocalHooks or UpdateStep"),
        (
            ["strategy.state=[head.*]"],
            r"state: head\.\* names no parameter .*features\.\*",
        ),
        (["strategy.state=[features.*,*]"], r"strategy\.state: features\.\*, \* names every param"),
        (["strategy.state=[features.*,*norm5*]"], r"state: \*norm5\* adds nothing to features"),
        (["strategy.state=[]"], r"strategy\.state: "),
        (["strategy.state=half"], r"strategy\.state: .*'half'"),
        ([BODY, "partition.val_fraction=0"], r"strategy\.state: .*none of them validates"),
    ],
)
def test_what_cannot_be_is_refused(
    overrides: Sequence[str], message: str, launch: Callable[..., dict[str, Any]]
) -> None:
    with pytest.raises(FedmedError, match=message) as error:
        launch(*TINY, *overrides)
    assert "\n" not in str(error.value)


def network() -> torch.nn.Module:
    return models.build(compose(TINY).model, seed=0)


def test_patterns_generalise_parameters() -> None:
    """Norm statistics stay wherever not everything travels; the rest is as torch names it."""
    names = {name for name, _ in network().named_parameters()}
    body = {name for name in names if name.startswith("features.")}
    assert 0 < len(body) < len(names)
    assert models.shared_names(network(), "parameters") == names
    assert models.shared_names(network(), ["features.*"]) == body
    floats = {k for k, v in network().state_dict().items() if v.is_floating_point()}
    assert models.shared_names(network(), "full") == floats
    with pytest.raises(ConfigError, match="names every parameter"):
        models.shared_names(network(), ["*"])


@pytest.fixture
def carried(monkeypatch: pytest.MonkeyPatch) -> list[RecordDict]:
    """Everything that an engine carries, in both directions."""
    seen: list[RecordDict] = []
    exchange = LocalEngine.exchange

    def watched(
        self: LocalEngine, messages: Sequence[Message], tasks: Mapping[int, TaskSpec], *more: Any
    ) -> Iterator[Message]:
        seen.extend(message.content for message in messages)
        for reply in exchange(self, messages, tasks, *more):
            if not reply.has_error():
                seen.append(RecordDict(dict(reply.content)))
            yield reply

    monkeypatch.setattr(LocalEngine, "exchange", watched)
    return seen


def test_what_stays_never_leaves(
    launch: Callable[..., dict[str, Any]], tmp_path: Path, carried: list[RecordDict]
) -> None:
    summary = launch(*TINY, BODY, "rounds=2")
    shared = models.shared_names(network(), ["features.*"])
    kept = models.arrays_of(network()).keys() - shared
    assert "class_layers.out.weight" in kept
    records = [record for content in carried for record in content.array_records.values()]
    assert {frozenset(record) for record in records} == {shared}
    told = {key: content[key] for content in carried for key in content}
    assert told.keys() == {"arrays", "config", "metrics", "state"}
    assert dict(told["state"]) == {"round": 2}  # that there is one, and of when
    moved = sum(array.numpy().nbytes for record in records for array in record.values())
    assert summary["bytes_up"] + summary["bytes_down"] == moved
    left = tmp_path / "run" / "checkpoint"
    assert load_file(left / "model.safetensors").keys() == shared
    own = [kept_in(file) for file in sorted((left / "clients").glob("*-round-00002*"))]
    assert all(arrays.keys() == kept for arrays in own)
    assert len({arrays["class_layers.out.weight"].tobytes() for arrays in own}) == 4


def test_with_one_client_it_makes_no_difference_where_weights_stay(
    launch: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """The mean of one client's weights is its own: what it keeps is what a server would have."""
    config = (*TINY, "partition.clients=1", "rounds=3")
    launch(*config, BODY, folder=tmp_path / "body")
    launch(*config, "strategy.state=parameters", folder=tmp_path / "all")
    both = [load_file(tmp_path / n / "checkpoint" / "model.safetensors") for n in ("body", "all")]
    own = [
        kept_in(max((tmp_path / n / "checkpoint" / "clients").glob("*"))) for n in ("body", "all")
    ]
    mine, theirs = (one | two for one, two in zip(both, own, strict=True))
    assert mine.keys() == theirs.keys()
    assert len(both[0]) < len(both[1])
    for name in mine:
        np.testing.assert_array_equal(mine[name], theirs[name], name)
    one, other = (
        metrics(tmp_path / n).query("scope == 'val'").reset_index(drop=True)
        for n in ("body", "all")
    )
    assert len(one)
    pd.testing.assert_frame_equal(one, other)


PARTS = (*TINY, BODY, "partition.clients=6", "strategy.fraction=0.7", "faults=dropout")


def test_the_same_bits_on_any_engine_and_after_a_cut(
    launch: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = launch(*PARTS, folder=tmp_path / "whole")
    assert whole["faults"]["excluded"]
    two = (*PARTS, "runner.workers=2")
    launch(*two, folder=tmp_path / "workers")
    launch(*PARTS, "runner=ray", "runner.workers=1", folder=tmp_path / "ray")
    exchange, calls = LocalEngine.exchange, iter(range(100))

    def cut(self: LocalEngine, *given: Any) -> Iterator[Message]:
        if next(calls) == 3:  # training and validation of a round are two
            raise FedmedError("cut off")
        return exchange(self, *given)

    monkeypatch.setattr(LocalEngine, "exchange", cut)
    with pytest.raises(FedmedError, match="cut off"):
        launch(*PARTS, folder=tmp_path / "cut")
    resumed = launch(*PARTS, folder=tmp_path / "cut")
    assert resumed["rounds_done"] == 3
    for name in ("workers", "ray", "cut"):
        assert states(tmp_path / name) == states(tmp_path / "whole"), name
        pd.testing.assert_frame_equal(
            metrics(tmp_path / name).query("scope != 'cost'"),
            metrics(tmp_path / "whole").query("scope != 'cost'"),
        )


def test_a_run_without_a_whole_model_gives_no_test_score(
    launch: Callable[..., dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = launch(*TINY, BODY, "rounds=2")
    run = Run(tmp_path / "run")
    assert summary["test"] == {}
    assert summary["val"]["mean"] is not None
    assert [c for c in summary["caveats"] if c.startswith("no test scores: parameters stay")]
    assert "test" not in set(run.metrics["scope"])
    assert not (run.folder / "predictions.parquet").exists()
    for read in (
        lambda: run.predictions,
        run.model,
        lambda: perform.audit(Finished.open(run.folder)),
    ):
        with pytest.raises(FedmedError, match=r"no whole model.*parameters stay") as error:
            read()
        assert "\n" not in str(error.value)
    assert "parameters stay with the clients" in page([run], [tmp_path])
    assert launch(*TINY, BODY, "rounds=2") == summary  # recognised, and shown again


def kept_in(file: Path) -> dict[str, np.ndarray]:
    state = serialization.load(file)
    assert isinstance(state, RecordDict)
    return from_record(state.array_records[KEPT])


def states(run: Path) -> dict[str, Any]:
    """Return the hashes of the shared model, and of what each client keeps."""
    left = run / "checkpoint"
    kept = {f.name: models.arrays_sha256(kept_in(f)) for f in sorted((left / "clients").glob("*"))}
    return kept | {"": models.arrays_sha256(load_file(left / "model.safetensors"))}
