"""How many clients a robust rule takes; with fewer it is no rule, or the plain mean."""

import math
from typing import NamedTuple

from flwr.serverapp.strategy import Bulyan, FedMedian, FedTrimmedAvg, MultiKrum, Strategy

from fedmed.core.errors import ConfigError


class Needed(NamedTuple):
    """What a rule takes: how many clients, and why in words."""

    clients: float
    why: str


def needed(strategy: Strategy) -> Needed:
    """Return how many clients a strategy's rule takes, 0 for one that is not robust.

    - Krum: n ≥ 2f + 3 (Blanchard et al. 2017, proposition 4.2); where m of them are averaged
      (Multi-Krum), m ≤ n - f - 2 as well, or bad ones must be among them (Damaskinos et al.,
      AggregaThor, MLSys 2019).
    - Bulyan: n ≥ 4f + 3 (El Mhamdi et al., ICML 2018).
    - The trimmed mean: enough that the share cuts at least one at each end, or it is the mean.
    - The median: three, or it is the mean.
    """
    name = type(strategy).__name__
    if isinstance(strategy, MultiKrum):
        f, m = strategy.num_malicious_nodes, strategy.num_nodes_to_select
        several = f", and {m} + {f} + 2 to average {m}" if m > 1 else ""
        why = f"{name} against {f} malicious takes at least 2 * {f} + 3 clients{several}"
        return Needed(max(2 * f + 3, m + f + 2), why)
    if isinstance(strategy, Bulyan):
        f = strategy.num_malicious_nodes
        return Needed(4 * f + 3, f"{name} against {f} malicious takes at least 4 * {f} + 3 clients")
    if isinstance(strategy, FedTrimmedAvg):
        least = _trimmed(strategy.beta)
        if math.isinf(least):
            return Needed(least, f"{name} with a share of 0 trims nobody and is the mean")
        return Needed(
            least, f"{name} with a share of {strategy.beta:g} trims nobody of fewer than {least:g}"
        )
    if isinstance(strategy, FedMedian):
        return Needed(3, f"{name} is the mean of fewer than 3 clients")
    return Needed(0, "")


def check(strategy: Strategy, clients: int, round_: int) -> None:
    """Refuse a round that has too few clients for the strategy's rule.

    Args:
        strategy: of the run.
        clients: who take part, or have given a usable answer.
        round_: the round.

    Raises:
        ConfigError: naming what the rule takes.
    """
    least, why = needed(strategy)
    if clients < least:
        raise ConfigError(
            f"round {round_}: strategy: {why}; there are {clients}; take more clients or a larger "
            "strategy.fraction, or ask less of the rule (strategy.malicious, strategy.trim)"
        )


def _trimmed(share: float) -> float:
    """Return of how many a share cuts one at each end, as Flower rounds: ``int(share * n)``."""
    if share == 0:
        return math.inf
    n = max(1, math.floor(1 / share) - 1)
    while int(share * n) < 1:
        n += 1
    return n
