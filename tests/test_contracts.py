"""Whatever fedmed has keeps the contract of its door; a stranger who breaks one is found out."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from contracts import (
    START,
    Nodes,
    check_dataset,
    check_partition,
    check_strategy,
    check_unit,
    check_update_step,
)
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp.strategy import FedAvg, FedMedian
from numpy.typing import NDArray
from PIL import Image
from standins_hospital import STANDINS as HOSPITAL
from standins_small import STANDINS as SMALL
from standins_small import heart_disease

from fedmed.config import CONF, compose
from fedmed.core.units import UNITS, Unit
from fedmed.data.table import Dataset
from fedmed.datasets.phantom import Phantom
from fedmed.federation.messages import ARRAYS
from fedmed.federation.update_steps import SharedArrays, UpdateStep, local_of
from fedmed.flower import process
from fedmed.models import from_record, to_record
from fedmed.partition import Partition

STRATEGIES = sorted(path.stem for path in (CONF / "strategy").glob("*.yaml"))
STANDINS = {**HOSPITAL, **SMALL, "heart_disease": heart_disease}
TARGETS = ("Cardiomegaly", "Effusion", "Nodule")


def sent(*overrides: str) -> RecordDict:
    """Return what a strategy sends a client in its first round."""
    process.host()
    strategy = compose(overrides).strategy.server.build()
    (message, *_) = strategy.configure_train(1, to_record(START), ConfigRecord(), Nodes())
    content: RecordDict = message.content
    return content


class Careless(UpdateStep):
    """A step that adds noise: soundly, or wrong in one way."""

    def __init__(self, wrong: str = "") -> None:
        self.wrong, self.calls = wrong, 0

    def encode(self, sent: RecordDict, content: RecordDict, state: RecordDict, seed: int) -> None:
        self.calls += 1
        arrays = from_record(content.array_records[ARRAYS])
        drawn = np.random.default_rng(seed + self.calls * (self.wrong == "remembers"))
        draw = np.random.normal if self.wrong == "draws from all" else drawn.normal
        noisy = {k: np.asarray(a + draw(size=a.shape), np.float32) for k, a in arrays.items()}
        if self.wrong == "packs":
            noisy = {name: array.ravel() for name, array in noisy.items()}
        if self.wrong == "changes what was sent":
            sent[ARRAYS] = to_record(noisy)
        if self.wrong == "tells more":
            content["more"] = ConfigRecord({"bits": 8})
        content[ARRAYS] = to_record(noisy)

    def decode(self, sent: RecordDict, content: RecordDict) -> None:
        if self.wrong == "loses one":
            arrays = from_record(content.array_records[ARRAYS])
            content[ARRAYS] = to_record({k: arrays[k] for k in sorted(arrays)[1:]})


@pytest.mark.parametrize("name", STRATEGIES)
def test_update_steps(name: str) -> None:
    config = compose([f"strategy={name}", "strategy.fraction=1"])
    for i in range(len(local_of(config.strategy)[1])):
        asked = sent(f"strategy={name}", "strategy.fraction=1")
        check_update_step(lambda i=i: local_of(config.strategy)[1][i], asked)  # type: ignore[misc]


@pytest.mark.parametrize("noise", ["central", "local"])
def test_noisy_updates(noise: str) -> None:
    asked = [f"strategy.noise={noise}", "strategy=dp_fedavg", "strategy.fraction=1"]
    (step,) = local_of(compose(asked).strategy)[1]
    check_update_step(lambda: replace(step), sent(*asked))  # type: ignore[type-var]


def test_shared_arrays_are_an_update_step() -> None:
    check_update_step(partial(SharedArrays, START), sent(), {"own": np.ones(3, np.float32)})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("draws from all", "one seed gives two replies"),
        ("remembers", "remembers in itself"),
        ("packs", "other names, types or shapes"),
        ("changes what was sent", "changes what was sent"),
        ("tells more", "other records than announced"),
        ("loses one", "decode: arrays of other names"),
    ],
)
def test_a_wrong_update_step_is_found_out(wrong: str, said: str) -> None:
    check_update_step(Careless, sent())
    with pytest.raises(AssertionError, match=said):
        check_update_step(partial(Careless, wrong), sent())


class Hoarder(FedAvg):
    """Says that it forgets each reply, and keeps them all."""

    aggregation: ClassVar[str] = "own"

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        return super().aggregate_train(server_round, list(replies))


class Momentum(FedAvg):
    """Remembers what no checkpoint holds."""

    def __init__(self, **fedavg: Any) -> None:
        super().__init__(**fedavg)
        rounds: list[int] = []

        def drift() -> float:
            rounds.append(1)
            return float(len(rounds))

        self.drift = drift

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        record, told = super().aggregate_train(server_round, replies)
        assert isinstance(record, ArrayRecord)
        drift = np.float32(self.drift())
        return to_record({k: a + drift for k, a in from_record(record).items()}), told


class MeanlyMedian(FedMedian):
    """Says that a mean is all that it takes."""

    aggregation: ClassVar[str] = "mean"


class Unweighted(FedAvg):
    """Says that no weight moves it, of a mean that is weighted."""

    weighted: ClassVar[bool] = False


@pytest.mark.parametrize("name", STRATEGIES)
def test_strategies(name: str) -> None:
    check_strategy([f"strategy={name}", "strategy.fraction=0.7"])


@pytest.mark.parametrize(
    ("base", "wrong", "said"),
    [
        ("fedavg", Hoarder, "keeps replies"),
        ("fedavg", Momentum, "it is not checkpointed"),
        ("fedmedian", MeanlyMedian, "something else of the replies than of their mean"),
        ("fedavg strategy.weighting=uniform", Unweighted, "weighted: says"),
    ],
)
def test_a_wrong_strategy_is_found_out(base: str, wrong: type, said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        check_strategy(
            [*f"strategy={base}".split(), f"strategy.server._target_={__name__}.{wrong.__name__}"]
        )


def folder_of_ones_own(root: Path) -> list[str]:
    rows = [(f"{i}.png", f"p{i // 2}", i % 2) for i in range(40)]
    table = pd.DataFrame(rows, columns=["image", "patient", "effusion"])
    table.to_csv(root / "labels.csv", index=False)
    for i, name in enumerate(table["image"]):
        pixels = np.random.default_rng(i).integers(0, 256, (20, 24), dtype=np.uint8)
        Image.fromarray(pixels).save(root / name)
    return [f"dataset.root={root}", "dataset.findings={Effusion: effusion}"]


@pytest.fixture
def chosen(nih_standin: Path, tmp_path: Path) -> Callable[[str], list[str]]:
    """Leave a small tree in a dataset's layout; returns the overrides that choose it."""

    def chosen(name: str) -> list[str]:
        root = tmp_path / "here"
        root.mkdir()
        of: dict[str, Callable[[], list[str]]] = {
            "phantom": lambda: ["dataset.patients=40"],
            "released": lambda: ["dataset.of.patients=40"],
            "nih": lambda: [f"dataset.root={nih_standin}"],
            "folder": lambda: folder_of_ones_own(root),
            "federation": lambda: [
                "+dataset@dataset.sets.shenzhen=shenzhen",
                f"dataset.sets.shenzhen.root={STANDINS['shenzhen'](root)}",
                "+dataset@dataset.sets.phantom=phantom",
                "dataset.sets.phantom.patients=40",
                "dataset.targets=[Effusion,view]",
            ],
        }
        if name in of:
            given = of[name]()
        elif name in STANDINS:
            given = [f"dataset.root={STANDINS[name](root)}"]
        else:
            given = []  # it needs no file, or says by its key what it lacks
        return [f"dataset={name}", *given]

    return chosen


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "dataset").glob("*.yaml")))
def test_datasets(name: str, chosen: Callable[[str], list[str]]) -> None:
    check_dataset(compose(chosen(name)).dataset.build())


class WrongPhantom(Phantom):
    """A phantom that is wrong in one way."""

    def __init__(self, wrong: str) -> None:
        super().__init__(["Effusion"], 32, patients=40)
        self.wrong = wrong

    def table(self) -> pd.DataFrame:
        table = super().table()
        if self.wrong == "order":
            return table.sample(frac=1).reset_index(drop=True)
        return table.assign(split="train") if self.wrong == "untested" else table

    def read(self, image: str) -> NDArray[Any]:
        pixels = super().read(image)
        if self.wrong == "noise":
            return np.random.permutation(pixels)
        return pixels / 255 if self.wrong == "kind" else pixels

    def __reduce__(self) -> tuple[Any, ...]:
        kind: type[Dataset] = WrongPhantom
        return kind, ("" if self.wrong != "forgets" else "order",)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("order", "read again"),
        ("forgets", "in another process"),
        ("untested", "split: nobody"),
        ("kind", "not float64"),
        ("noise", "differs, read again"),
    ],
)
def test_a_wrong_dataset_is_found_out(wrong: str, said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        check_dataset(WrongPhantom(wrong))


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return Phantom(list(TARGETS), 32, patients=800, sites=5).table()


@dataclass(frozen=True)
class WrongPartition(Partition):
    """Halves the patients, and is wrong in one way."""

    wrong: str

    def assign(self, table: pd.DataFrame, targets: tuple[str, ...]) -> pd.DataFrame:
        rows = table if self.wrong == "images" else table.drop_duplicates("patient")
        tested = (rows["split"] == "test").to_numpy() & (self.wrong != "leaks")
        place = np.arange(len(rows)) % 2
        if self.wrong == "draws from all":
            place = np.random.permutation(place)
        parts = {
            "patient": rows["patient"].to_numpy(),
            "client": np.where(tested, -1, place),
            "role": np.where(tested, "test", "train"),
        }
        return pd.DataFrame(parts).sort_values("patient", ignore_index=True)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("images", "a patient has two places"),
        ("leaks", "test patients"),
        ("draws from all", "the same, again"),
    ],
)
def test_a_wrong_partition_is_found_out(wrong: str, said: str, table: pd.DataFrame) -> None:
    check_partition(lambda: WrongPartition(""), table, TARGETS)
    with pytest.raises(AssertionError, match=said):
        check_partition(lambda: WrongPartition(wrong), table, TARGETS)


@pytest.mark.parametrize("name", UNITS)
def test_units(name: str, table: pd.DataFrame) -> None:
    check_unit(UNITS[name], table)


def odd(rows: Callable[[pd.DataFrame], Any]) -> Unit:
    return Unit(*("odd", "an odd one", "odd ones", "part", "zero-out-one"), rows)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (odd(lambda t: t["patient"] + (t.groupby("patient").cumcount() // 2).map(str)), "depends"),
        (odd(lambda t: t["patient"]), "extent: is no part"),
        (replace(odd(lambda t: t["image"]), extent="patient"), "extent: a patient is several"),
        (replace(odd(lambda t: t["patient"] + t["view"]), name="odd one"), "no name for a key"),
    ],
)
def test_a_wrong_unit_is_found_out(wrong: Unit, said: str, table: pd.DataFrame) -> None:
    check_unit(odd(lambda t: t["patient"] + t["view"]), table)
    with pytest.raises(AssertionError, match=said):
        check_unit(wrong, table)
