"""Run directories as a table finds them: what was asked for, what came of it, and its hashes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pandas as pd
from omegaconf import OmegaConf
from safetensors.numpy import load_file

from fedmed.config import identity, parse
from fedmed.core.errors import FedmedError
from fedmed.evaluation.bootstrap import REPLICATES, Scored, score
from fedmed.evaluation.predictions import Predictions
from fedmed.privacy.ledger import Ledger
from fedmed.runs import evaluations
from fedmed.runs.directory import RunDirectory

if TYPE_CHECKING:
    from torch import nn

_BEGUN = ("device", "semantics")
FINISHED, FAILED, UNFINISHED = "finished", "failed", "unfinished"


@dataclass(frozen=True)
class Run:
    """A run directory.

    Attributes:
        folder: where it is.
    """

    folder: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        """The composed configuration, as written: what is interpolated is still to be resolved."""
        return self._load(resolve=False)

    @cached_property
    def resolved(self) -> dict[str, Any]:
        """The composed configuration with its values."""
        return self._load(resolve=True)

    @cached_property
    def choices(self) -> dict[str, str]:
        """The choice of each group, such as ``strategy: fedprox``."""
        hydra = OmegaConf.load(self.folder / ".hydra" / "hydra.yaml")
        return cast(dict[str, str], OmegaConf.to_container(hydra.hydra.runtime.choices))

    @cached_property
    def overrides(self) -> list[str]:
        """What the command line asked for."""
        loaded = OmegaConf.load(self.folder / ".hydra" / "overrides.yaml")
        return cast(list[str], OmegaConf.to_container(loaded))

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The content of ``summary.json``, empty if there is none yet.

        Raises:
            FedmedError: if it is damaged, or ``.hydra`` is not the configuration that ran.
        """
        here = RunDirectory(self.folder)
        here.check(".hydra/config.yaml")
        return here.summary() or {}

    @cached_property
    def evaluations(self) -> dict[str, dict[str, Any]]:
        """What ``fedmed evaluate`` and ``fedmed audit`` left, by name of the evaluation.

        Of each its ``result``, its ``section`` of a report and the ``access`` of an attacker, None
        where it has none.

        Raises:
            FedmedError: if a file of them is damaged, or of another model than the run's.
        """
        return evaluations.read(self.folder, self.summary.get("model_sha256"))

    @property
    def audit(self) -> dict[str, Any]:
        """The result of ``fedmed audit``, empty if the run was not audited.

        ``epsilon`` is the largest of its lower bounds, of whatever access; there may be none.
        """
        return cast(dict[str, Any], self.evaluations.get("audit", {}).get("result", {}))

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """The rows of ``metrics.csv``."""
        return pd.read_csv(RunDirectory(self.folder).check("metrics.csv"))

    @cached_property
    def predictions(self) -> Predictions:
        """The final model's scores on the test images, and their labels.

        Raises:
            FedmedError: if there are none yet, or they are not those of the summary, or the run has
                no test scores.
        """
        self._check_whole()
        return Predictions.read(RunDirectory(self.folder).check("predictions.parquet"))

    @cached_property
    def scored(self) -> Scored:
        """The final model's predictions, scored in the same draws as every other run's."""
        return score(self.predictions, REPLICATES)

    @cached_property
    def ledger(self) -> Ledger | None:
        """What the run has released under privacy, None where it promised none.

        Raises:
            FedmedError: if it is gone, damaged or another run's.
        """
        path = RunDirectory(self.folder).ledger
        if not path.exists() and self.summary.get("privacy", {}).get("unit") is None:
            return None
        return Ledger.read(path, self.summary["config_sha256"])

    def model(self) -> "nn.Module":
        """Return the trained network, on the CPU and in evaluation mode.

        It takes images N×1×H×W as float32 in [-1, 1] (``pixels / 127.5 - 1``), or features N×F, and
        gives logits N×T, in the order of ``predictions.targets``. Where the strategy keeps norm
        statistics to the clients (``strategy.state=parameters``), batch norms normalise by the
        batch that they are given, as they did when the test split was scored.

        Raises:
            FedmedError: if the run is not finished, or its model is not that of the summary, or
                parts of it never left the clients.
        """
        from fedmed import models  # torch, which looking at runs does not need

        if self.status != FINISHED:
            raise FedmedError(f"{self.folder}: the run is {self.status}; finish it first")
        self._check_whole()
        config = parse(OmegaConf.create(self.config), build=False)
        drawn = config.model.model_copy(update={"weights": None})
        network = models.build(drawn, config.seed, config.norm)
        path = RunDirectory(self.folder).check("checkpoint/model.safetensors")
        models.load(network, load_file(path))
        if config.strategy.keeps_statistics:
            models.use_batch_statistics(network)
        return network.eval()

    @property
    def status(self) -> str:
        """Finished, failed, or unfinished, be it running or cut off."""
        status = self.summary.get("status")
        return status if status in (FINISHED, FAILED) else UNFINISHED

    @property
    def tested(self) -> bool:
        """Whether it is finished and was scored on the test patients.

        Where parameters stay with the clients (``strategy.state``), nobody else has a whole model.
        """
        return self.status == FINISHED and bool(self.summary["test"])

    @property
    def run_id(self) -> str:
        """The start of the configuration's hash."""
        return str(self.summary.get("run_id", self.folder.name))

    @property
    def seed(self) -> int:
        """The seed of everything random."""
        return int(self.config["seed"])

    def asked(self, key: str) -> Any:
        """Return what was asked for: a group's choice or a value of the configuration.

        Failing that, a result; None where there is nothing of the name.
        """
        if key in self.choices:
            return self.choices[key]
        found = _walk(self.resolved, key)
        return self._came(key) if found is None else found

    def result(self, key: str) -> Any:
        """Return what came of it, or failing that what was asked for.

        ``privacy.epsilon`` is what was spent here, and the budget in :meth:`asked`.
        """
        found = self._came(key)
        return self.asked(key) if found is None else found

    def identity(self) -> dict[str, Any]:
        """Return all that decides the result but the seed, by dotted key.

        Device and semantics are known of what has begun.
        """
        kept = {k: v for k, v in identity.leaves(self.config) if k != "seed"}
        return kept | {key: self.summary[key] for key in _BEGUN if key in self.summary}

    def differs(self, other: "Run") -> list[str]:
        """Return the keys in which another run is not this one with another seed."""
        mine, theirs = self.identity(), other.identity()
        unknown = {key for key in _BEGUN if (key in mine) != (key in theirs)}
        return [
            key
            for key in dict.fromkeys([*mine, *theirs])
            if key not in unknown and mine.get(key) != theirs.get(key)
        ]

    def _check_whole(self) -> None:
        if self.status == FINISHED and not self.tested:
            raise FedmedError(
                f"{self.folder}: has no whole model and no test scores: parameters stay with the "
                "clients (strategy.state); what counts is val.mean"
            )

    def _came(self, key: str) -> Any:
        name, _, rest = key.partition(".")
        if rest and name not in self.summary and name in self.evaluations:
            return _walk(self.evaluations[name]["result"], rest)
        return _walk(self.summary, key)

    def _load(self, resolve: bool) -> dict[str, Any]:
        loaded = OmegaConf.create(RunDirectory(self.folder).composed())
        return cast(dict[str, Any], OmegaConf.to_container(loaded, resolve=resolve))


def find(folders: Sequence[Path]) -> list[Run]:
    """Return the runs in and below some folders, each once.

    Raises:
        FedmedError: if there are none, or two finished ones of one configuration are not the same.
    """
    found: dict[str, Run] = {}
    for folder in folders:
        for path in sorted(folder.rglob(".hydra/config.yaml")):
            run = Run(path.parent.parent)
            first = found.setdefault(run.run_id, run)
            if run.status == FINISHED and first.status != FINISHED:
                found[run.run_id] = run
            elif run.status == FINISHED and _result(first) != _result(run):
                raise FedmedError(
                    f"{first.folder} and {run.folder}: two runs of one configuration with other "
                    "data or weights (another processor or version?); leave one out"
                )
    if not found:
        raise FedmedError(f"{', '.join(map(str, folders))}: no run directory in it")
    return list(found.values())


def _walk(tree: Any, key: str) -> Any:
    """Return the node at a dotted key, whose parts may themselves hold dots."""
    if not isinstance(tree, dict):
        return None
    if key in tree:
        return tree[key]
    for name, node in tree.items():
        if key.startswith(f"{name}.") and (found := _walk(node, key[len(name) + 1 :])) is not None:
            return found
    return None


def _result(run: Run) -> list[Any]:
    return [run.summary.get(key) for key in ("data_sha256", "partition_sha256", "model_sha256")]
