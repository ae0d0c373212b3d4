"""What the house relies on at its doors, as functions to put any implementation through.

Each takes an implementation, yours too, and raises AssertionError in words at the first promise
that is not kept; ``run_contracts.py`` holds those of the doors that only a run can try.
"""

import gc
import json
import pickle
import random
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from fedmed.config import compose
from fedmed.core.seeding import seeded_globals
from fedmed.core.units import Unit
from fedmed.data.table import Dataset, labels, validate
from fedmed.federation.aggregation import aggregate, streaming_mean
from fedmed.federation.messages import ARRAYS, METRICS
from fedmed.federation.strategy_state import StrategyState
from fedmed.federation.update_steps import UpdateStep, decode, encode, local_of
from fedmed.flower import process, serialization
from fedmed.flower.private import NodeGrid
from fedmed.flower.strategies import aggregation_of, is_weighted
from fedmed.models import from_record, to_record
from fedmed.partition import Partition, check, read, save

Arrays = dict[str, NDArray[np.float32]]
START: Arrays = {
    "matrix": np.linspace(-1, 1, 20, dtype=np.float32).reshape(4, 5),
    "bias": np.arange(7, dtype=np.float32),
    "scale": np.asarray(2, np.float32),
}
SIZES = (3, 500, 41, 7, 60, 12, 33, 90)  # examples of each client


class Nodes(NodeGrid):
    """All that a strategy asks a grid for: the clients in order, from 1."""

    def get_node_ids(self) -> list[int]:
        return list(range(1, len(SIZES) + 1))


def kept(tree: Any) -> Any:
    """Return a tree as it is read back from a file."""
    with tempfile.TemporaryDirectory() as folder:
        serialization.save(tree, Path(folder) / "tree.safetensors")
        return serialization.load(Path(folder) / "tree.safetensors")


def plain(content: RecordDict) -> dict[str, Any]:
    """Return what a content holds in a form that compares to the bit."""
    arrays = {
        key: {name: (a.dtype.str, a.shape, a.tobytes()) for name, a in from_record(record).items()}
        for key, record in content.array_records.items()
    }
    return arrays | {key: dict(content[key]) for key in content if key not in arrays}


def shuffle_globals(seed: int) -> None:
    """Set the global random generators, which nobody's result may depend on."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def kinds(arrays: Mapping[str, NDArray[Any]]) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (str(array.dtype), array.shape) for name, array in arrays.items()}


def check_update_step(
    make: Callable[[], UpdateStep], sent: RecordDict, beside: Arrays | None = None
) -> None:
    """Put an update step through two rounds of one client.

    Args:
        make: makes the step, as is done for each message.
        sent: what the client is sent: ``arrays``, and what the strategy tells in ``config``.
        beside: arrays that a client has and is not sent; for a step that keeps them.
    """
    process.host()
    start, before = from_record(sent.array_records[ARRAYS]), plain(sent)
    trained = {name: array + np.float32(0.01) for name, array in start.items()} | (beside or {})
    values: dict[str, Any] = {"num-examples": 5, "weight": 5.0, "steps": 2, "loss": 0.5}

    def encoded(step: UpdateStep, state: RecordDict, others: int) -> RecordDict:
        shuffle_globals(others)
        arrays = to_record({name: array.copy() for name, array in trained.items()})
        content = RecordDict({ARRAYS: arrays, METRICS: MetricRecord(values)})
        step.encode(sent, content, state, 7)
        return content

    state, step = RecordDict(), make()
    first = encoded(step, state, 0)
    assert plain(sent) == before, "encode: changes what was sent, which others are sent too"
    assert kinds(from_record(first.array_records[ARRAYS])) == kinds(start), (
        "encode: what leaves has arrays of other names, types or shapes than were sent"
    )
    assert {*first} == {ARRAYS, METRICS, *step.records}, "encode: other records than announced"
    for name, numbers in step.records.items():
        record = first.config_records[name]
        assert record.keys() == numbers, f"encode: {name} holds other numbers than announced"
        assert np.isfinite([float(str(n)) for n in record.values()]).all(), f"encode: {name}"
    told = dict(first.metric_records[METRICS])
    assert told.keys() == values.keys() | step.metrics, "encode: other metrics than announced"
    assert told.items() >= values.items(), "encode: changes a metric that is not its own"
    again = RecordDict()
    assert plain(encoded(make(), again, 1)) == plain(first), "encode: one seed gives two replies"
    later = plain(encoded(step, state, 2))
    assert plain(encoded(make(), kept(again), 3)) == later, (
        "encode: remembers in itself, not in the state, which alone is kept from round to round"
    )

    def decoded() -> RecordDict:
        arrived: RecordDict = kept(first)
        make().decode(sent, arrived)
        return arrived

    back = decoded()
    assert plain(sent) == before, "decode: changes what was sent"
    arrays = from_record(back.array_records[ARRAYS])
    shapes = {name: array.shape for name, array in arrays.items()}
    assert shapes == {name: array.shape for name, array in start.items()}, (
        "decode: arrays of other names or shapes than were sent"
    )
    assert all(np.isfinite(array).all() for array in arrays.values()), "decode: not finite"
    assert plain(decoded()) == plain(back), "decode: one reply gives two results"


def check_strategy(overrides: Sequence[str]) -> None:
    """Put a strategy's server side, with its update steps, through three rounds of eight clients.

    Args:
        overrides: that choose it: ``["strategy=fedprox"]``.
    """
    process.host()
    config = compose(overrides)
    _, steps = local_of(config.strategy)

    def build() -> Strategy:
        strategy: Strategy = config.strategy.server.build()
        return strategy

    def ask(strategy: Strategy, round_: int, arrays: Arrays) -> list[Message]:
        with seeded_globals(0, "configure", round_):
            sent = to_record(arrays)
            messages = list(strategy.configure_train(round_, sent, ConfigRecord(), Nodes()))
        nodes = [message.metadata.dst_node_id for message in messages]
        assert {*nodes} <= {*Nodes().get_node_ids()}, "asks a node that is not there"
        assert len({*nodes}) == len(nodes), "asks a client twice in a round"
        for message in messages:
            carried = {name: array.tobytes() for name, array in arrays.items()}
            found = from_record(message.content.array_records[ARRAYS])
            assert {k: a.tobytes() for k, a in found.items()} == carried, "sends other arrays"
        return sorted(messages, key=lambda message: message.metadata.dst_node_id)

    def replies(round_: int, messages: Iterable[Message], even: bool = False) -> Iterator[Message]:
        for message in messages:
            node = message.metadata.dst_node_id
            drawn, size = np.random.default_rng([round_, node]), SIZES[node - 1]
            arrays = {
                name: (array + 0.1 * drawn.normal(size=array.shape)).astype(np.float32)
                for name, array in from_record(message.content.array_records[ARRAYS]).items()
            }
            weights: dict[str, Any] = {"num-examples": size, "weight": 1.0 if even else float(size)}
            content = RecordDict({ARRAYS: to_record(arrays), METRICS: MetricRecord(weights)})
            encode(steps, message.content, content, RecordDict(), node)
            decode(steps, message.content, content)
            yield Message(content, reply_to=message)

    def play(strategy: Strategy, rounds: Iterable[int], arrays: Arrays, even: bool = False) -> Any:
        for round_ in rounds:
            given = replies(round_, ask(strategy, round_, arrays), even)
            made = aggregate(strategy, 0, round_, given)
            if made is not None:
                new = from_record(made)
                assert kinds(new) == kinds(arrays), "makes arrays of other names, types or shapes"
                assert all(np.isfinite(array).all() for array in new.values()), "not finite"
                arrays = new
        return plain(RecordDict({ARRAYS: to_record(arrays)}))[ARRAYS], arrays

    shuffle_globals(0)
    whole, _ = play(build(), (1, 2, 3), START)
    shuffle_globals(1)
    assert play(build(), (1, 2, 3), START)[0] == whole, "one seed gives two aggregates"
    cut, resumed = build(), build()
    state = StrategyState(cut)
    _, half = play(cut, (1, 2), START)
    StrategyState(resumed).load_state_dict(kept(state.state_dict()))
    assert play(resumed, (3,), half)[0] == whole, (
        "remembers from round to round what is in none of its attributes: it is not checkpointed"
    )

    def asked() -> tuple[Strategy, Iterator[Message]]:
        strategy = build()
        return strategy, replies(1, ask(strategy, 1, START))

    _check_aggregation(asked)
    uniform, _ = play(build(), (1, 2, 3), START, even=True)
    assert (uniform != whole) == is_weighted(build()), (
        "weighted: says that it looks at its clients' weights, and does not, or the other way round"
    )


def _check_aggregation(asked: Callable[[], tuple[Strategy, Iterator[Message]]]) -> None:
    """Hold a strategy against the ``aggregation`` that its class declares.

    Args:
        asked: returns it anew, its clients asked, and their replies.
    """
    strategy, given = asked()
    declared = aggregation_of(strategy)
    if declared == "mean":
        whole = strategy.aggregate_train(1, list(given))[0]
        strategy, given = asked()
        folded = strategy.aggregate_train(1, streaming_mean(given, "weight"))[0]
        assert whole is not None
        assert folded is not None
        for name, values in from_record(whole).items():
            np.testing.assert_allclose(
                from_record(folded)[name],
                values,
                rtol=2e-5,
                atol=1e-6,
                err_msg="aggregation=mean: makes something else of the replies than of their mean",
            )
    if declared == "own":
        gone: list[weakref.ref[RecordDict]] = []

        def watched() -> Iterator[Message]:
            for reply in given:
                gc.collect()  # a view of Flower's records holds them in a circle
                alive = sum(ref() is not None for ref in gone[1:])
                assert alive <= 1, "aggregation=own: keeps replies, which pile up"
                gone.append(weakref.ref(reply.content))
                yield reply

        strategy.aggregate_train(1, watched())
        assert gone, "aggregation=own: takes no reply"


def check_dataset(dataset: Dataset) -> None:
    """Put a dataset through what reading, dividing and storing it rely on.

    Args:
        dataset: built over files that are there.
    """
    table = dataset.table()
    whole = validate(table, dataset)  # the schema, of which it says what is wrong
    assert {*whole["split"]} >= {"train", "test"}, "split: nobody to train on, or to test"
    pd.testing.assert_frame_equal(dataset.table(), table, obj="the table, read again,")
    copy: Dataset = pickle.loads(pickle.dumps(dataset))
    pd.testing.assert_frame_equal(copy.table(), table, obj="the table in another process")
    truth = labels(whole, dataset.targets)
    assert truth.shape == (len(whole), len(dataset.targets)), "targets: not a label each"
    assert {*np.unique(truth[~np.isnan(truth)])} <= {0.0, 1.0}, "targets: takes 0, 1 or nothing"
    assert (~np.isnan(truth)).any(axis=0).all(), "targets: one is known of no image"
    images, spec = list(whole["image"]), dataset.input
    assert all(map(dataset.has, images)), "has: an image of the table is not there"
    for image in dict.fromkeys([images[0], images[len(images) // 2], images[-1]]):
        pixels = dataset.read(image)
        if spec.is_image:
            kind = f"{pixels.dtype} of {pixels.ndim} dimensions"
            assert (str(pixels.dtype), pixels.ndim) == ("uint8", 2), f"read: H×W uint8, not {kind}"
        else:
            assert (str(pixels.dtype), pixels.shape) == (spec.dtype, spec.shape), (
                f"read: {spec.dtype} {spec.shape} as input says, not {pixels.dtype} {pixels.shape}"
            )
        np.testing.assert_array_equal(dataset.read(image), pixels, "read: differs, read again")
        np.testing.assert_array_equal(copy.read(image), pixels, "read: differs elsewhere")
        origin = dataset.origin(image)
        assert origin is None or origin.path.is_file(), f"origin: {origin} is no file"
    recipe = json.dumps(dataset.recipe(images), sort_keys=True)
    assert json.dumps(copy.recipe(images), sort_keys=True) == recipe, "recipe: differs elsewhere"


def check_partition(
    make: Callable[[], Partition], table: pd.DataFrame, targets: tuple[str, ...]
) -> pd.DataFrame:
    """Put a partition through what clients, tests and a resumed run rely on.

    Args:
        make: makes it, from one configuration.
        table: of a dataset, as it is validated.
        targets: what is learnt.

    Returns:
        Who is whose, as it has assigned them.
    """
    before = table.copy()
    shuffle_globals(0)
    assigned = make().assign(table, targets)
    pd.testing.assert_frame_equal(table, before, obj="the table, which is everybody's,")
    assert list(assigned.columns) == ["patient", "client", "role"], "other columns"
    assert assigned["patient"].is_monotonic_increasing, "not sorted by patient"
    assert not assigned["patient"].duplicated().any(), "a patient has two places"
    assert {*assigned["patient"]} == {*table["patient"]}, "a patient has no place, or is no one's"
    tested = {*table.loc[table["split"] == "test", "patient"]}
    assert {*assigned.loc[assigned["role"] == "test", "patient"]} == tested, "test patients"
    assert (assigned.loc[assigned["role"] == "test", "client"] == -1).all(), "tests in a client"
    trained = assigned[assigned["role"] == "train"]
    assert {*trained["client"]} == {*range(assigned["client"].max() + 1)}, "an empty client"
    check(assigned, table)
    shuffle_globals(1)
    pd.testing.assert_frame_equal(make().assign(table, targets), assigned, obj="the same, again,")
    with tempfile.TemporaryDirectory() as folder:
        save(assigned, Path(folder) / "partition.csv")
        pd.testing.assert_frame_equal(read(Path(folder) / "partition.csv"), assigned)
    return assigned


def check_unit(unit: Unit, table: pd.DataFrame) -> None:
    """Put a unit of privacy through what drawing, counting and telling of it rely on.

    Args:
        unit: that is to be an entry of ``UNITS``.
        table: of a dataset whose patients have several images, as it is validated.
    """
    assert unit.name.isidentifier(), f"{unit.name!r}: is no name for a key and a column"
    assert unit.one, "has no words for one"
    assert unit.several, "has no words for several"
    if unit.rows is None:
        return
    keys = unit.keys(table)
    assert keys.index.equals(table.index), "rows: another index than the table's"
    few = table[table["patient"].isin(table["patient"].unique()[::3])].sample(
        frac=1, random_state=0
    )
    alone = pd.DataFrame({"whole": keys[few.index], "alone": unit.keys(few)}).drop_duplicates()
    assert not alone["whole"].duplicated().any(), "rows: depends on the other rows of the table"
    assert not alone["alone"].duplicated().any(), "rows: depends on the other rows of the table"
    of_patients = table.groupby("patient").size()
    numbers = keys.groupby(table["patient"]).nunique()
    if unit.extent == "patient":
        assert (numbers == 1).all(), "extent: a patient is several of them"
    else:
        assert (numbers > 1).any(), "extent: is no part of any patient, but all of each"
    assert (numbers <= of_patients).all(), "rows: more units than images"
