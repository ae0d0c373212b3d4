"""The data of a run between hospitals: the server has its test patients, and what they report."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from fedmed import partition
from fedmed.config import Config, Deployment
from fedmed.core.errors import ConfigError, DataError
from fedmed.core.texts import printable
from fedmed.core.units import Unit, trainable
from fedmed.data.table import labels
from fedmed.deployment import node_data
from fedmed.deployment.evidence import Evidence
from fedmed.deployment.node_data import NodeReport
from fedmed.experiment.data import Data

RELEASED = "fedmed.privacy.release.Released"
MOST = 1 << 40  # of anything that a hospital counts


@dataclass(frozen=True)
class Remote(Data):
    """The data of a run whose clients keep theirs: the server knows its own, and what they report.

    Attributes:
        reports: what each client answered; see :func:`fedmed.deployment.node_data.describe`.
    """

    reports: list[NodeReport]

    @property
    def hashes(self) -> dict[str, str]:  # noqa: D102
        data = [self.store.sha256, *(str(one["data_sha256"]) for one in self.reports)]
        parts = [str(one["partition_sha256"]) for one in self.reports]
        return {
            "data_sha256": hashlib.sha256("".join(data).encode()).hexdigest(),
            "partition_sha256": hashlib.sha256("".join(parts).encode()).hexdigest(),
        }

    def evidence(self) -> dict[int, Evidence]:  # noqa: D102
        told = {
            client: Evidence(
                table=str(one["table_sha256"]),
                partition=str(one["partition_sha256"]),
                pixels=str(one["pixels_sha256"]),
            )
            for client, one in enumerate(self.reports)
        }
        return super().evidence() | told

    @property
    def patients(self) -> dict[str, int]:  # noqa: D102
        train, val = self._sum("train_patients"), self._sum("val_patients")
        return {"train": train, "val": val, "test": int(self.test["patient"].nunique())}

    @property
    def images(self) -> dict[str, int]:  # noqa: D102
        return {"train": self._sum("images"), "test": len(self.test)}

    @property
    def homes(self) -> list[set[str]]:  # noqa: D102
        return [set(str(one["sites"]).split(node_data.SITES)) for one in self.reports]

    def units(self, unit: Unit) -> list[int]:  # noqa: D102
        return [int(str(one[node_data.trained(unit)])) for one in self.reports]

    def _sum(self, key: str) -> int:
        return sum(int(str(one[key])) for one in self.reports)


def connected(config: Config, reports: list[NodeReport]) -> Remote:
    """Return the data of a deployed run: the server's own test patients, and what hospitals report.

    Raises:
        ConfigError: if the hospitals' images are said to be noisy, which nobody here can check.
        DataError: if ``runner.data`` is no folder of test patients.
    """
    assert isinstance(config.runner, Deployment)
    if config.dataset.target == RELEASED:
        raise ConfigError("dataset=released: the server cannot account for what hospitals released")
    targets = tuple(config.dataset.arguments["targets"])
    reports = [_checked(client, one, targets) for client, one in enumerate(reports)]
    own = node_data.read(config.runner.data)
    assigned = partition.read(config.runner.data / node_data.PARTITION)
    if set(assigned["role"]) != {"test"}:
        raise DataError(f"{config.runner.data}: the server's folder holds more than test patients")
    columns = ["client", "sites", "patients", "images", "train_images", "val_images"]
    counted = tuple(target for target in targets if target in reports[0])
    clients = pd.DataFrame(reports)[[*columns, *counted]]
    truth = labels(own.table, targets)
    return Remote(None, own, assigned, clients, counted, own.table, truth, [], reports)


def _checked(client: int, report: NodeReport, targets: Sequence[str]) -> NodeReport:
    """Return what a hospital reports, of which its share of the average follows.

    Raises:
        DataError: if a count or a hash is none.
    """
    trained = [node_data.trained(unit) for unit in trainable()]
    counts = ("patients", "images", *trained, "val_patients", "val_images")
    for name in (*counts, *(target for target in targets if target in report)):
        number, least = report.get(name), int(name in trained)
        if not isinstance(number, int) or not least <= number < MOST:
            raise DataError(f"client {client} tells of {number!r} as its {name}")
    for name in ("data_sha256", "table_sha256", "pixels_sha256", "partition_sha256"):
        if not re.fullmatch("[0-9a-f]{64}", str(report.get(name))):
            raise DataError(f"client {client} tells no {name}")
    return {**report, "sites": printable(str(report.get("sites", "")))}
