"""How Flower's strategies aggregate, which their classes do not say."""

from typing import Literal, cast

from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import Strategy

from fedmed.core.errors import ConfigError
from fedmed.core.records import EXAMPLES, WEIGHT

#: A strategy says which in its class attribute ``aggregation``; no configuration can say otherwise.
#: ``mean``: of a weighted mean alone, so that replies may be folded into it; ``own``: of each reply
#: as it comes, so that it may be forgotten; ``all``: of all replies at once.
Aggregation = Literal["mean", "own", "all"]
_MEANS: tuple[type[Strategy], ...] = (
    flower.FedAvg,
    flower.FedAvgM,
    flower.FedProx,
    flower.FedAdagrad,
    flower.FedAdam,
    flower.FedYogi,
)
_UNWEIGHTED: tuple[type[Strategy], ...] = (
    flower.Bulyan,
    flower.FedMedian,
    flower.FedTrimmedAvg,
    flower.Krum,
    flower.QFedAvg,
)


def aggregation_of(strategy: Strategy) -> Aggregation:
    """Return how a strategy aggregates: as its class declares (``aggregation``), or is known to.

    A class that aggregates in its own way and declares nothing is given all replies, whatever
    the class that it is derived from declares.
    """
    for kind in type(strategy).__mro__:
        if "aggregation" in vars(kind):
            return cast(Aggregation, vars(kind)["aggregation"])
        if kind in _MEANS:
            return "mean"
        if vars(kind).keys() & {"aggregate_train", "_check_and_log_replies"}:
            return "all"
    return "all"


def is_weighted(strategy: Strategy) -> bool:
    """Return whether a strategy looks at its clients' weights: as its class declares."""
    for kind in type(strategy).__mro__:
        if "weighted" in vars(kind):
            return bool(vars(kind)["weighted"])
        if kind in _UNWEIGHTED:
            return False
        if "aggregate_train" in vars(kind):
            return True
    return True


def check_weights(weighting: str, strategy: Strategy) -> None:
    """Refuse weights of clients that the strategy does not look at, or that are their own.

    Raises:
        ConfigError: naming the key.
    """
    name = type(strategy).__name__
    key = getattr(strategy, "weighted_by_key", WEIGHT)
    if key not in (WEIGHT, EXAMPLES):
        raise ConfigError(
            f"strategy.server.weighted_by_key: takes {WEIGHT} or {EXAMPLES}, which the server "
            f"knows beforehand, got {key}"
        )
    if weighting == "examples" and not is_weighted(strategy):
        raise ConfigError(f"strategy.weighting: has no effect with {name}; take uniform")
    if weighting == "uniform" and key == EXAMPLES:
        raise ConfigError(
            f"strategy.weighting: has no effect with weighted_by_key={EXAMPLES}; take {WEIGHT}"
        )
