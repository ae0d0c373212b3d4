"""DP-FedAvg (McMahan et al., Learning Differentially Private Recurrent Language Models, ICLR 2018).

Client-level differential privacy. Each round every client joins with probability q (Poisson
sampling). Its update, all arrays together, is clipped to an L2 norm of C, the sum of the updates
gets Gaussian noise of standard deviation z·C, and the global weights move by the noisy mean.

Where the noise is added decides from whom it protects.

- ``central``: the server clips and adds it, and is trusted. Nobody else learns who joined, so the
  sampling amplifies the privacy. The sum is divided by the *expected* cohort q·K (paper, algorithm
  1, the estimator with a fixed denominator), so that one client's update or none in its place
  changes it by at most C; the number K of clients is known either way (zero-out). An empty
  cohort is a release of noise alone.
- ``distributed``: each member clips, and adds a share of the noise to integers, of which the server
  sees nothing but the sum (``aggregation``). If t of a cohort's n members must survive a round, a
  share has a deviation of z·C/√t, so that the noise is enough whoever drops out. It is the server
  that this protects from, and the server knows the cohort, so no amplification is claimed
  (Kairouz, Liu and Steinke, The Distributed Discrete Gaussian Mechanism for Federated Learning with
  Secure Aggregation, ICML 2021).
- ``local``: each member adds the full noise, and nobody is trusted. What is hidden is which update
  a client sent, of all that it may have sent; two clipped updates differ by up to 2C.

The clipping norm is fixed, or follows a quantile of the updates' norms (Andrew et al.,
Differentially Private Learning with Adaptive Clipping, NeurIPS 2021).

From a seed, noise is keyed by what it hides and by all that it depends on (see
:mod:`fedmed.privacy.noise`), and cohorts by all that the server knows: the configuration, its
clients' sizes and the global weights. So two runs of one configuration, of whose data only the
content differs, have the same cohort in the first round, with noise of their own.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar

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

from fedmed.core.errors import ConfigError, FedmedError
from fedmed.core.records import WEIGHT
from fedmed.core.seeding import seed_of
from fedmed.core.units import SENSITIVITY
from fedmed.federation.aggregation import weight_of
from fedmed.federation.messages import RELEASE
from fedmed.federation.summands import Summand, Update
from fedmed.federation.update_steps import UpdateStep
from fedmed.flower.arrays import decoded
from fedmed.flower.strategies import Aggregation
from fedmed.models import from_record, to_record
from fedmed.privacy import Event
from fedmed.privacy.discrete import LEAST
from fedmed.privacy.noise import Source, source
from fedmed.strategies.noisy_update import (
    CLIPPING,
    CPU,
    ClippedSum,
    Mechanism,
    Noise,
    NoisyUpdate,
    NonNegative,
    Positive,
    Quantile,
    gaussian,
)

ASSUMPTIONS: dict[Noise, str] = {
    "central": "the server is trusted with each update; who joined a round stays its secret",
    "distributed": "the server sees only the sum of a cohort's updates, by its aggregation; the "
    "noise is what is stated when as few survive as must (t: more than aggregation.threshold's "
    "share of the cohort), sqrt(n/t) of that when n do, and sqrt(h/t) when h of them are honest; "
    f"a share is a discrete Gaussian of at least {LEAST:g} steps of the grid, of which a sum costs "
    "what a Gaussian does to within 1e-4 of ε",
    "local": "each update is noisy before it leaves its client: no server is trusted",
}
CLIP_LR, COUNT_NOISE = 0.2, 1.0  # of a clipping norm that adapts


class DPFedAvg(FedAvg):
    """FedAvg with Poisson cohorts, clipped updates and Gaussian noise on their sum.

    Args:
        fraction_train: q, the probability with which each client joins a round.
        noise_multiplier: z, the noise's standard deviation over the clipping norm.
        clip_norm: C, the largest L2 norm of an update; the first one if it adapts.
        delta: δ of the guarantee.
        seed: of cohorts and noise.
        noise: where the noise is added.
        quantile: γ, the share of the updates that the clipping norm shall not cut; None fixes it.
        clip_lr: η_C, by which the clipping norm follows.
        count_noise: σ_b, the noise's standard deviation on the number of updates not cut.
        nominal_clients: of the large federation that this run simulates; None: of none.
        nominal_cohort: its expected cohort, to whose mean the noise is scaled.
        secure_noise: whether cohorts and noise come from the operating system, not from the seed.
        fedavg: what Flower's FedAvg takes.
    """

    aggregation: ClassVar[Aggregation] = "own"  # each update is clipped and added as it comes
    weighted: ClassVar[bool] = False  # a client's size would leak

    def __init__(
        self,
        fraction_train: Annotated[float, Field(gt=0, le=1)],
        noise_multiplier: NonNegative,
        clip_norm: Positive,
        delta: Annotated[float, Field(gt=0, lt=1)],
        seed: Annotated[int, Field(ge=0)],
        noise: Noise = "central",
        quantile: Quantile = None,
        clip_lr: Positive = CLIP_LR,
        count_noise: Positive = COUNT_NOISE,
        nominal_clients: Annotated[int, Field(ge=1)] | None = None,
        nominal_cohort: Positive | None = None,
        secure_noise: bool = False,
        **fedavg: Any,
    ) -> None:
        super().__init__(fraction_train=fraction_train, **fedavg)
        _check_nominal(noise, nominal_clients, nominal_cohort)
        if quantile is None and (clip_lr, count_noise) != (CLIP_LR, COUNT_NOISE):
            raise ConfigError(
                "strategy.clip_lr, strategy.count_noise: have no effect on a fixed clipping norm; "
                "give strategy.quantile"
            )
        self.mechanism = Mechanism(noise, noise_multiplier, quantile, count_noise, secure_noise)
        self.clip_norm = clip_norm
        self.delta = delta
        self.seed = seed
        self.clip_lr = clip_lr
        self.nominal_clients = nominal_clients
        self.nominal_cohort = nominal_cohort
        self._settings = [
            *(fraction_train, noise_multiplier, delta, noise, quantile, clip_lr, count_noise),
            *(nominal_clients, nominal_cohort),
        ]
        self._release = ""
        self._global = ArrayRecord()
        self._cohort: list[int] = []  # the clients of the round
        self._divisor = 0.0

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Draw the cohort: each client on its own, with probability q."""
        nodes = list(grid.get_node_ids())
        self._global, self._release = arrays, str(config.pop(RELEASE, ""))
        joins = self._draws("cohort", server_round).uniform(len(nodes))
        self._cohort = [client for client, u in enumerate(joins) if u < self.fraction_train]
        central = self.mechanism.noise == "central"
        self._divisor = self.fraction_train * len(nodes) if central else float(len(self._cohort))
        config["server-round"] = server_round
        config["clip-norm"] = self.clip_norm
        if not central:  # else how many join is the server's secret, from its clients too
            config["cohort"] = len(self._cohort)
        record = RecordDict({self.arrayrecord_key: arrays, self.configrecord_key: config})
        cohort = [nodes[client] for client in self._cohort]
        return self._construct_messages(record, cohort, MessageType.TRAIN)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the global arrays moved by the noisy mean of the clipped updates.

        Each reply is what :class:`NoisyUpdate` decodes; it is added as it comes, and forgotten.

        Raises:
            FedmedError: if nothing has clipped an update.
        """
        start = from_record(self._global)
        total = {name: np.zeros(w.shape) for name, w in start.items()}
        votes, divisor = 0.0, self._divisor
        for reply in replies:
            if reply.has_error():
                continue
            if CLIPPING not in reply.content:
                raise FedmedError("strategy.server: DP-FedAvg takes NoisyUpdate, which clips")
            votes += float(str(reply.content.config_records[CLIPPING]["vote"]))
            for name, step in reply.content.array_records[self.arrayrecord_key].items():
                total[name] += decoded(step)
            if self.sums:  # one reply stands for all who have survived
                divisor = weight_of(reply.content, WEIGHT)
        if not divisor:
            return self._global, None  # a cohort that is known to be empty releases nothing
        if self.mechanism.noise == "central":
            votes += self._add_noise(total, votes, server_round)
        new = {k: w + (total[k] / divisor) for k, w in start.items()}
        if (quantile := self.mechanism.quantile) is not None:
            below = 0.5 + votes / divisor
            self.clip_norm *= math.exp(-self.clip_lr * (below - quantile))
        norm = MetricRecord({"clip-norm": self.clip_norm})
        return to_record({k: v.astype(np.float32) for k, v in new.items()}), norm

    def privacy_events(self, server_round: int) -> list[Event]:
        """Return the releases of a round, to anyone from whom its noise protects.

        A central one concerns every client alike. Where the server is not trusted, who did not
        join has released nothing, and who did has no sampling to hide behind.
        """
        z, noise = self.mechanism.noise_multiplier, self.mechanism.noise
        if noise == "central":
            rate = self.fraction_train
            if self.nominal_clients and self.nominal_cohort:
                rate = self.nominal_cohort / self.nominal_clients
            return [Event(server_round, "client", z, rate)]
        if noise == "local":  # two clipped updates differ by up to 2C
            z /= SENSITIVITY["replace-one"]
            one = Event(server_round, "client", z, 1.0, neighbouring="replace-one")
        else:
            one = Event(server_round, "client", z, 1.0)
        return [replace(one, client=client) for client in self._cohort]

    def update_steps(self, others: Sequence[UpdateStep]) -> list[UpdateStep]:
        """Return all steps of an update: that of this strategy's own mechanism is the first.

        So it is undone last: what the server adds up is what it has clipped, whatever the others
        decode to. At a client the others see an update that is noisy already.

        Raises:
            ConfigError: if others would change what is clipped as a part of a sum.
        """
        if not self.sums:
            return [NoisyUpdate(self.mechanism), *others]
        if others:
            raise ConfigError(
                "strategy.local: takes no UpdateStep with strategy.noise=distributed: what is "
                "summed is the clipped update itself"
            )
        return []

    def summand(self, told: ConfigRecord, survivors: int) -> Summand:
        """Return a client's part of a sum: see :class:`ClippedSum`."""
        return ClippedSum(self.mechanism, float(str(told["clip-norm"])), survivors)

    @property
    def sums(self) -> bool:
        """Whether it takes a sum of updates, each with its client's share of the noise."""
        return self.mechanism.noise == "distributed"

    @property
    def secure_noise(self) -> bool:
        """Whether cohorts and noise come from the operating system."""
        return self.mechanism.secure_noise

    @property
    def secret_cohort(self) -> bool:
        """Whether who joins is a secret: the guarantee rests on it where the server adds noise."""
        return self.mechanism.noise == "central"

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What the guarantee rests on, for the ledger."""
        stated = [ASSUMPTIONS[self.mechanism.noise]]
        if self.mechanism.quantile is not None:
            stated.append(
                "the clipping norm is released each round; its cost is within the noise multiplier"
            )
        if self.nominal_clients and self.nominal_cohort:
            stated.append(
                f"SIMULATION: noise and sampling are those of an expected cohort of "
                f"{self.nominal_cohort:g} among {self.nominal_clients} clients that do not exist; "
                "the clients of this run have no such guarantee"
            )
        return tuple(stated)

    def _add_noise(self, total: Update, votes: float, server_round: int) -> float:
        """Add the server's noise to the sum, in place, and return that on the votes."""
        draws = self._draws("noise", server_round, total, votes)
        scale = self._divisor / self.nominal_cohort if self.nominal_cohort else 1.0
        deviation = scale * self.mechanism.update_noise * self.clip_norm
        for name, noise in gaussian(total, deviation, draws).items():
            total[name] += noise
        return scale * self.mechanism.count_noise * float(draws.normal(1))

    def _draws(self, purpose: str, server_round: int, *hidden: object) -> Source:
        """Return the source of the round's cohort or noise. Without noise nothing is hidden."""
        seed, release = seed_of(self.seed, purpose, server_round), []
        if self.mechanism.noise_multiplier:
            release = [self._release, self._settings, self.clip_norm, self._global, *hidden]
        return source(seed, CPU, self.secure_noise, *release)


def _check_nominal(noise: Noise, clients: int | None, cohort: float | None) -> None:
    if (clients is None) != (cohort is None):
        raise ConfigError(
            "strategy.nominal_cohort: a simulated federation takes both strategy.nominal_clients "
            "and strategy.nominal_cohort"
        )
    if clients is not None and cohort is not None:
        if cohort > clients:
            raise ConfigError(
                f"strategy.nominal_cohort: at most strategy.nominal_clients ({clients}), "
                f"got {cohort:g}"
            )
        if noise != "central":
            raise ConfigError(
                f"strategy.nominal_clients: takes strategy.noise=central, got {noise}: clients "
                "that are not there can add no noise"
            )
