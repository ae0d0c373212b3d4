"""A process's view of the run: its config, its data and one network, opened once and kept."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import pandas as pd
import torch
from flwr.app import ArrayRecord
from numpy.typing import NDArray
from torch import nn

from fedmed import config as cfg
from fedmed import models
from fedmed.config import wire
from fedmed.core.errors import ConfigError
from fedmed.data.examples import Examples, predict
from fedmed.data.store import Pixels, pixels_of
from fedmed.data.table import labels
from fedmed.evaluation.metrics import Floats
from fedmed.federation.messages import RunContext
from fedmed.partition import read as read_partition

_NO_ROWS = np.empty(0, np.intp)


@dataclass(frozen=True)
class ClientContext:
    """What a process needs to be any client, or to score the test split.

    Attributes:
        config: what is to be learnt and how.
        network: lent to one client after the other; :meth:`receive` wipes what the last one left.
        initial: the network's first state.
        pixels, labels, index: of all readable images; ``index`` has their patient, client and role,
            and ``unit``, the number of what local training draws each with.
    """

    config: cfg.Task
    network: nn.Module
    initial: models.Arrays
    pixels: Pixels
    labels: Floats
    index: pd.DataFrame

    def examples(self, role: str, client: int = -1) -> Examples:
        """Return the images of a client's train or val patients, or those of the test split."""
        return Examples(self.pixels, self.labels, self._rows.get((role, client), _NO_ROWS))

    @cached_property
    def _rows(self) -> dict[tuple[str, int], NDArray[np.intp]]:
        """The rows of each role and client, looked up once: there may be thousands of clients."""
        rows = self.index.index.to_numpy()
        keys = ["role", "client"]
        groups: Any = self.index.reset_index(drop=True).groupby(keys, sort=False).indices
        return {(role, int(client)): rows[at] for (role, client), at in groups.items()}

    def units(self, role: str, client: int) -> NDArray[np.intp]:
        """Return which unit each of a client's examples is of, coded from 0."""
        return pd.factorize(self.index.loc[self.examples(role, client).rows, "unit"])[0]

    def receive(self, arrays: ArrayRecord, own: ArrayRecord | None = None) -> None:
        """Set the network to the message's arrays, the client's own, and else its first state."""
        state = dict(self.initial) | models.from_record(arrays)
        models.load(self.network, state | (models.from_record(own) if own else {}))

    def score(self, start: int, stop: int) -> Floats:
        """Return the probabilities of the test images from ``start`` to ``stop``.

        Where norm statistics stay with the clients, the server has none: it takes each batch's.
        """
        test = self.examples("test")
        shard = Examples(test.pixels, test.labels, test.rows[start:stop])
        batch_statistics = self.config.strategy.keeps_statistics
        return predict(self.network, shard, batch_statistics=batch_statistics)


def open_context(
    task: cfg.Task, device_name: cfg.Device, store: Path, table: Path, partition: Path
) -> ClientContext:
    """Open the data and build the network. From then on this process computes with one thread.

    One, so that sums do not depend on the number of cores, whichever engine started the process.

    Args:
        task: of the run.
        device_name: where the network goes.
        store: the folder of the prepared pixels.
        table: their table's file.
        partition: the file that says who is whose.

    Raises:
        FedmedError: if a file is damaged, or there is no such device.
    """
    torch.set_num_threads(1)
    images = pd.read_parquet(table)
    patients = read_partition(partition).set_index("patient")
    unit = pd.factorize(task.unit.keys(images))[0]
    index = images[["patient"]].assign(unit=unit).join(patients, "patient")
    pixels = pixels_of(store)
    network = models.build(task.model, task.seed, task.norm)
    initial = models.arrays_of(network)
    network = network.to(device(device_name))
    if task.client.channels_last:
        network = network.to(memory_format=torch.channels_last)
    targets = task.dataset.arguments["targets"]
    all_labels = np.full((len(pixels), len(targets)), np.nan, np.float32)
    all_labels[images.index] = labels(images, targets)
    return ClientContext(task, network, initial, pixels, all_labels, index)


@lru_cache(maxsize=1)
def context_of(run: RunContext) -> ClientContext:
    """Return this process's context of a run, opened once and kept; see :func:`open_context`.

    Raises:
        ConfigError: if the task is none that this version of fedmed takes.
    """
    task = wire.loads(run.config, run.config_sha256)
    device_name = cast(cfg.Device, run.device)
    return open_context(task, device_name, Path(run.store), Path(run.table), Path(run.partition))


def device(name: cfg.Device) -> torch.device:
    """Return the device of this process's network.

    Raises:
        ConfigError: if a GPU is asked for and there is none, or the name is none.
    """
    if name not in get_args(cfg.Device):
        raise ConfigError(f"device: takes {', '.join(get_args(cfg.Device))}, got {name!r}")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError("runner.device: cuda was asked for and PyTorch sees no GPU")
    return torch.device("cuda" if available and name != "cpu" else "cpu")
