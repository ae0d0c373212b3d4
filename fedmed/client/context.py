"""A process's view of the run: its config, its data and one network, opened once and kept."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from shlex import split
from typing import Any

import numpy as np
import pandas as pd
import torch
from flwr.app import ArrayRecord
from numpy.typing import NDArray
from torch import nn

from fedmed import config as cfg
from fedmed import models
from fedmed.core.errors import ConfigError
from fedmed.data.examples import Examples, predict
from fedmed.data.store import Pixels, pixels_of
from fedmed.data.table import labels
from fedmed.evaluation.metrics import Floats
from fedmed.partition import read as read_partition

_NO_ROWS = np.empty(0, np.intp)


@dataclass(frozen=True)
class Workplace:
    """What a process needs to play any client, or to score the test split.

    Attributes:
        config: the run's configuration.
        network: lent to one client after the other; :meth:`receive` wipes what the last one left.
        initial: the network's first state.
        pixels, labels, index: of all readable images; ``index`` has their patient, client and role.
    """

    config: cfg.Config
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
        """Return whose each of a client's examples is, coded from 0: a patient's, or its own."""
        rows = self.examples(role, client).rows
        privacy = self.config.privacy
        if isinstance(privacy, cfg.DPSGD) and privacy.unit == "image":
            return np.arange(len(rows))
        return pd.factorize(self.index.loc[rows, "patient"])[0]

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
        own_statistics = self.config.strategy.state == "parameters"
        return predict(self.network, shard, batch_statistics=own_statistics)


@lru_cache(maxsize=1)
def workplace(overrides: str, store: str, table: str, partition: str) -> Workplace:
    """Return this process's workplace. From then on the process computes with one thread.

    One, so that sums do not depend on the number of cores, whichever engine started the process.

    Args:
        overrides: what the configuration is composed from.
        store: the folder of the prepared pixels.
        table: their table's file.
        partition: the file that says who is whose.
    """
    torch.set_num_threads(1)
    config = cfg.compose(split(overrides), build=False)  # the server has seen to that
    images = pd.read_parquet(table)
    whose = read_partition(Path(partition)).set_index("patient")
    index = images[["patient"]].join(whose, "patient")
    pixels = pixels_of(Path(store))
    network = models.build(config.model, config.seed, config.norm)
    initial = models.arrays_of(network)
    network = network.to(device(config.runner))
    if config.client.channels_last:
        network = network.to(memory_format=torch.channels_last)
    all_labels = np.full(
        (len(pixels), len(config.dataset.arguments["targets"])), np.nan, np.float32
    )
    all_labels[images.index] = labels(images, config.dataset.arguments["targets"])
    return Workplace(config, network, initial, pixels, all_labels, index)


def at(run_config: Mapping[str, str]) -> Workplace:
    """Return this process's workplace for what clients are told about a run."""
    return workplace(*(run_config[key] for key in ("overrides", "store", "table", "partition")))


def device(runner: cfg.Runner) -> torch.device:
    """Return the device of this process's network. Raises ConfigError if there is no GPU."""
    available = torch.cuda.is_available()
    if runner.device == "cuda" and not available:
        raise ConfigError("runner.device: cuda was asked for and PyTorch sees no GPU")
    return torch.device("cuda" if available and runner.device != "cpu" else "cpu")
