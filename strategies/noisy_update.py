"""What becomes of a client's update in DP-FedAvg: clipped, and noisy where no server is trusted.

McMahan et al., Learning Differentially Private Recurrent Language Models, ICLR 2018; the vote on an
adaptive clipping norm is that of Andrew et al., Differentially Private Learning with Adaptive
Clipping, NeurIPS 2021.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray
from pydantic import Field

from fedmed.aggregation.codec import Block
from fedmed.core.errors import ConfigError
from fedmed.core.records import WEIGHT
from fedmed.core.seeding import seed_of
from fedmed.federation.messages import ARRAYS, CONFIG, METRICS
from fedmed.federation.summands import Shapes, Summand, Update
from fedmed.federation.update_steps import UpdateStep
from fedmed.flower.arrays import record_of
from fedmed.models import from_record, to_record
from fedmed.privacy.noise import Source, source

Noise = Literal["central", "distributed", "local"]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Quantile = Annotated[float, Field(ge=0, le=1)] | None
CPU = torch.device("cpu")
VOTE = "vote on the norm"  # the block of a sum that votes are added in
CLIPPING = "clipping"  # the record of a reply that says whether the update was below the norm


@dataclass(frozen=True)
class Mechanism:
    """How updates are made private: what the server and its clients hold alike.

    Attributes:
        noise: where the noise is added.
        noise_multiplier: z, the noise's standard deviation over the clipping norm.
        quantile: γ, the share of the updates that the clipping norm shall not cut; None fixes it.
        count_noise: σ_b, the noise's standard deviation on the number of updates not cut.
        secure_noise: whether noise comes from the operating system, not from a seed.

    Raises:
        ConfigError: if the count's noise is so small that it alone costs more than z.
    """

    noise: Noise
    noise_multiplier: NonNegative
    quantile: Quantile
    count_noise: Positive
    secure_noise: bool = False

    def __post_init__(self) -> None:
        _ = self.update_noise

    @property
    def update_noise(self) -> float:
        """The noise multiplier of the updates, which leaves room for that of the clipped count.

        The two together cost what z costs alone: (z⁻² - (2σ_b)⁻²)^-½ (Andrew et al. 2021, theorem
        1). The 2 is there because each client counts as plus or minus a half.
        """
        z, of_count = self.noise_multiplier, self.count_noise
        if self.quantile is None or z == 0:
            return z
        if 2 * of_count <= z:
            raise ConfigError(
                "strategy.count_noise: must be more than half of strategy.noise_multiplier "
                f"({z:g}), or the count alone spends more; got {of_count:g}"
            )
        return 1 / math.sqrt(z**-2 - (2 * of_count) ** -2)


def clip(arrays: ArrayRecord, start: ArrayRecord, norm: float) -> tuple[Update, float]:
    """Return the update from ``start`` to ``arrays``, clipped, and its vote on the norm.

    The vote is ½ if the update's L2 norm, over all arrays together, is at most ``norm``, else -½.
    """
    origin = from_record(start)
    update = {k: w.astype(np.float64) - origin[k] for k, w in from_record(arrays).items()}
    return clipped_to(update, norm)


def clipped_to(update: Update, norm: float) -> tuple[Update, float]:
    """Return an update, clipped, and its vote on the norm; see :func:`clip`."""
    length = math.sqrt(sum(float(np.square(step).sum()) for step in update.values()))
    if length <= norm:
        return update, 0.5
    return {k: step * (norm / length) for k, step in update.items()}, -0.5


def gaussian(shapes: Mapping[str, NDArray[Any]], deviation: float, draws: Source) -> Update:
    """Return noise in the shapes of some arrays."""
    return {
        k: deviation * draws.normal(w.size).numpy().astype(np.float64).reshape(w.shape)
        for k, w in shapes.items()
    }


@dataclass(frozen=True)
class NoisyUpdate(UpdateStep):
    """Clips each update, and adds the client's noise, on the side where both belong.

    For ``central`` noise the server clips, as it decodes. For ``local`` noise the client does, as
    it encodes, and adds its noise, so that what travels is already noisy.

    Attributes:
        mechanism: the strategy's. No configuration can give one, so that the step is made by the
            strategy that accounts for its noise, or not at all.

    Raises:
        ConfigError: if it is given anything else.
    """

    mechanism: Mechanism

    def __post_init__(self) -> None:
        if not isinstance(self.mechanism, Mechanism):
            raise ConfigError(
                "strategy.local: NoisyUpdate is made by the strategy, from what strategy.server "
                "says of the noise; take strategy=dp_fedavg, which has it"
            )
        if self.mechanism.noise == "local" and self.mechanism.quantile is not None:
            object.__setattr__(self, "records", {CLIPPING: frozenset({"vote"})})

    def encode(self, sent: RecordDict, content: RecordDict, state: RecordDict, seed: int) -> None:
        """Replace the trained arrays by the global ones plus the clipped, noisy update."""
        mechanism = self.mechanism
        if mechanism.noise == "central":
            return
        start, config = sent.array_records[ARRAYS], sent.config_records[CONFIG]
        norm, cohort = float(str(config["clip-norm"])), int(str(config["cohort"]))
        update, vote = clip(content.array_records[ARRAYS], start, norm)
        z, of_count = mechanism.update_noise, mechanism.count_noise
        settings = [mechanism.noise, z, mechanism.quantile, of_count, norm, cohort]
        draws = source(
            seed_of(seed, "update"), CPU, mechanism.secure_noise, settings, start, update, vote
        )
        noise = gaussian(update, z * norm, draws)
        noisy = {k: w + update[k] + noise[k] for k, w in from_record(start).items()}
        content[ARRAYS] = to_record({k: w.astype(np.float32) for k, w in noisy.items()})
        if mechanism.quantile is not None:
            vote += of_count * float(draws.normal(1))
            content[CLIPPING] = ConfigRecord({"vote": vote})

    def decode(self, sent: RecordDict, content: RecordDict) -> None:
        """Replace the arrays by the client's share of the sum: its clipped step, float64.

        Its vote on the clipping norm is in the record :data:`CLIPPING`, 0 where the norm is fixed.
        """
        arrays, start = content.array_records[ARRAYS], sent.array_records[ARRAYS]
        if self.mechanism.noise == "central":
            norm = float(str(sent.config_records[CONFIG]["clip-norm"]))
            update, vote = clip(arrays, start, norm)
        else:
            update, _ = clip(arrays, start, math.inf)  # the client has clipped it
            adapts = self.mechanism.quantile is not None
            vote = float(str(content.config_records[CLIPPING]["vote"])) if adapts else 0.0
        content[ARRAYS] = record_of(update)
        content[CLIPPING] = ConfigRecord({"vote": vote})


@dataclass(frozen=True)
class ClippedSum(Summand):
    """A clipped update as integers with a share of the noise, and its vote on the norm beside it.

    The sum of the shares of as many clients as must survive has the mechanism's deviation, and that
    of more has more. Rounding towards zero lets no norm grow beyond the clipping norm (Kairouz, Liu
    and Steinke 2021 round at random, and account for what that adds).

    Attributes:
        mechanism: the strategy's.
        norm: the clipping norm.
        survivors: of how many clients the sum will be at least.
    """

    mechanism: Mechanism
    norm: float
    survivors: int
    truncate: ClassVar[bool] = True

    def blocks(self, shapes: Shapes) -> list[Block]:
        """Return a block for each array, with its share of the noise, and one for the vote."""
        share = 1 / math.sqrt(self.survivors)
        deviation = share * self.mechanism.update_noise * self.norm
        blocks = [Block(name, shape, self.norm, deviation) for name, shape in shapes.items()]
        if self.mechanism.quantile is not None:
            counted = self.mechanism.count_noise if self.mechanism.noise_multiplier else 0.0
            blocks.append(Block(VOTE, (), 0.5, share * counted))
        return blocks

    def values(self, update: Update) -> Update:
        """Return the clipped update, and its vote."""
        clipped, vote = clipped_to(update, self.norm)
        return clipped | {VOTE: np.array(vote)}

    def draws(self, seed: int, sent: RecordDict, values: Update) -> Source:
        """Return the source of a client's share of the noise."""
        of = self.mechanism
        settings = [of.noise, of.update_noise, of.quantile, of.count_noise, self.norm]
        hidden = [settings, self.survivors, sent.array_records[ARRAYS], values]
        return source(seed_of(seed, "update"), CPU, of.secure_noise, *hidden)

    def content(self, total: Update, sent: RecordDict, weight: float) -> RecordDict:
        """Return the sum of the steps, float64, with the votes' and the number of survivors."""
        vote = float(total.get(VOTE, 0.0))
        steps = {name: total[name] for name in sent.array_records[ARRAYS]}
        votes, counted = ConfigRecord({"vote": vote}), MetricRecord({WEIGHT: weight})
        return RecordDict({ARRAYS: record_of(steps), METRICS: counted, CLIPPING: votes})
