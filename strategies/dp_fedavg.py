"""DP-FedAvg (McMahan et al., Learning Differentially Private Recurrent Language Models, ICLR 2018).

Client-level differential privacy. Each round every client joins with probability q (Poisson
sampling). Its update, all arrays together, is clipped to an L2 norm of S. The server adds Gaussian
noise of standard deviation z·S to the sum of the updates and divides by the *expected* cohort q·K
(paper, algorithm 1, the estimator with a fixed denominator and uniform weights), so that adding or
removing one client changes the sum by at most S. An empty cohort is a release of noise alone.
"""

from collections.abc import Iterable
from typing import Annotated, Any

import numpy as np
from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from pydantic import Field

from fedmed.models import Arrays, from_record, to_record
from fedmed.privacy import Event
from fedmed.seeding import generator


class DPFedAvg(FedAvg):
    """FedAvg with Poisson cohorts, clipped updates and Gaussian noise on their sum.

    Args:
        fraction_train: q, the probability with which each client joins a round.
        noise_multiplier: z, the noise's standard deviation over the clipping norm.
        clip_norm: S, the largest L2 norm of an update.
        delta: δ of the guarantee.
        seed: of cohorts and noise.
        fedavg: what Flower's FedAvg takes.
    """

    def __init__(
        self,
        fraction_train: Annotated[float, Field(gt=0, le=1)],
        noise_multiplier: Annotated[float, Field(ge=0)],
        clip_norm: Annotated[float, Field(gt=0)],
        delta: Annotated[float, Field(gt=0, lt=1)],
        seed: Annotated[int, Field(ge=0)],
        **fedavg: Any,
    ) -> None:
        super().__init__(fraction_train=fraction_train, **fedavg)
        self.noise_multiplier = noise_multiplier
        self.clip_norm = clip_norm
        self.delta = delta
        self.seed = seed
        self._global: dict[str, np.ndarray[Any, Any]] = {}
        self._expected_cohort = 0.0

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Draw the cohort: each client on its own, with probability q."""
        nodes = list(grid.get_node_ids())
        joins = generator(self.seed, "cohort", server_round).random(len(nodes))
        cohort = [n for n, u in zip(nodes, joins, strict=True) if u < self.fraction_train]
        self._global = from_record(arrays)
        self._expected_cohort = self.fraction_train * len(nodes)
        config["server-round"] = server_round
        record = RecordDict({self.arrayrecord_key: arrays, self.configrecord_key: config})
        return self._construct_messages(record, cohort, MessageType.TRAIN)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the global arrays moved by the noisy mean of the clipped updates."""
        valid, _ = self._check_and_log_replies(replies, is_train=True)
        contents = [reply.content for reply in valid]
        total = self._noise(server_round)
        for content in contents:
            for name, step in self._clipped(content[self.arrayrecord_key]).items():
                total[name] += step
        new = {k: w + (total[k] / self._expected_cohort) for k, w in self._global.items()}
        metrics = self.train_metrics_aggr_fn(contents, self.weighted_by_key) if contents else None
        return to_record({k: v.astype(np.float32) for k, v in new.items()}), metrics

    def privacy_event(self, server_round: int) -> Event:
        """Return the release of a round: its sensitivity is the clipping norm."""
        return Event(server_round, "client", self.noise_multiplier, self.fraction_train)

    def _noise(self, server_round: int) -> dict[str, np.ndarray[Any, Any]]:
        rng = generator(self.seed, "noise", server_round)
        deviation = self.noise_multiplier * self.clip_norm
        return {k: rng.normal(0.0, deviation, w.shape) for k, w in self._global.items()}

    def _clipped(self, arrays: Any) -> Arrays:
        update = {k: w.astype(np.float64) - self._global[k] for k, w in from_record(arrays).items()}
        norm = np.sqrt(sum(float(np.square(step).sum()) for step in update.values()))
        scale = min(1.0, self.clip_norm / norm) if norm > 0 else 1.0
        return {k: step * scale for k, step in update.items()}
