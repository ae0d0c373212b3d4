"""What ``summary.json`` and ``clients.csv`` say of a finished run."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from fedmed import models
from fedmed.aggregation.base import Aggregation
from fedmed.config import Config, identity
from fedmed.core.records import MetricRow
from fedmed.engines.local import workers
from fedmed.experiment.data import Data
from fedmed.federation.checkpoint import Checkpoint
from fedmed.federation.reply_filter import summary_of
from fedmed.partition import measure


def with_scores(
    data: Data, rows: Sequence[MetricRow], last: int, by_site: Mapping[str, float]
) -> pd.DataFrame:
    """Add each client's scores after the last round to ``clients.csv``.

    ``val_loss`` and ``val_macro_auroc`` are over its own validation patients, the latter over the
    findings with both classes at every client that is compared; ``val_positives`` are its patients
    with the rarest of them. ``on_domain_auroc`` is over the test patients of the sites that its own
    patients come from, and ``off_domain_auroc`` over those of each other site; both are means over
    sites, of the global model and over the findings that the sites share, and empty where there is
    no such site.
    """
    clients = data.clients
    for name in ("loss", "macro_auroc", "positives"):
        scores = {
            row.client: row.value
            for row in rows
            if (row.round, row.scope, row.metric) == (last, "val", name)
        }
        clients = clients.assign(**{f"val_{name}": clients["client"].map(scores)})
    homes = data.homes
    return clients.assign(
        on_domain_auroc=[_mean(v for s, v in by_site.items() if s in home) for home in homes],
        off_domain_auroc=[_mean(v for s, v in by_site.items() if s not in home) for home in homes],
    )


def _mean(values: Iterable[float]) -> float:
    """Return the mean of those that are known, NaN if none is."""
    return float(pd.Series(list(values), dtype=float).mean())


def summarise(
    config: Config,
    data: Data,
    state: Checkpoint,
    scores: Mapping[str, Any],
    clients: pd.DataFrame,
    privacy: Mapping[str, Any],
    setup: float,
) -> dict[str, Any]:
    """Return the result of a finished run, but for its name.

    Args:
        config: of the run.
        data: of the run.
        state: after the last round.
        scores: on the test patients; none where parameters stay with the clients.
        clients: ``clients.csv`` with its scores.
        privacy: what was spent; see ``Ledger.statement``.
        setup: seconds before the first round.
    """
    last = [row for row in state.metrics if row.round == state.round]
    losses = [row.value for row in last if (row.scope, row.metric) == ("test", "loss")]
    return {
        "status": "finished",
        **data.hashes,
        "model_sha256": models.arrays_sha256(state.arrays),
        "seed": config.seed,
        "caveats": data.caveats + _moved(state) + _untested(config),
        "rounds_done": state.round,
        "patients": data.patients,
        "images": data.images,
        "unreadable_images": len(data.store.unreadable),
        "partition": measure(clients),
        "test": {"loss": losses[0], **scores} if scores else {},
        "val": _validation(last, clients),
        "faults": summary_of(state.metrics),
        "privacy": dict(privacy),
        "time": {
            "setup_s": setup,
            "rounds_s": sum(state.seconds),
            "per_round_s": sum(state.seconds) / state.round,
        },
        "aggregation": _seen(config),
        "bytes_up": state.bytes_up,
        "bytes_down": state.bytes_down,
        "device": config.device,
        "workers": workers(config.runner),
        "versions": state.surroundings[-1],
    }


def _seen(config: Config) -> dict[str, Any]:
    """Return what the server sees of the updates, and what that rests on."""
    aggregation: Aggregation = config.aggregation.build()
    return {
        "kind": type(aggregation).__name__,
        "hides": aggregation.hides,
        "assumptions": list(aggregation.assumptions),
    }


def _moved(state: Checkpoint) -> list[str]:
    """Return a caveat for each change of what the rounds were run on."""
    pairs = itertools.pairwise(state.surroundings)
    return [f"resumed on something else: {identity.changed(*pair)}" for pair in pairs]


def _untested(config: Config) -> list[str]:
    """Return a caveat where there is no one model that the test patients could be scored with."""
    if not config.strategy.keeps_parameters:
        return []
    return [
        "no test scores: parameters stay with the clients (strategy.state), so nobody has a whole "
        "model but each client; what counts is their own validation (val.mean, clients.csv), of "
        "those too who have not trained yet and have the first weights of what stays"
    ]


def _validation(last: Sequence[MetricRow], clients: pd.DataFrame) -> dict[str, Any]:
    """Return how the clients compare on their validation patients, after the last round."""
    val = clients["val_macro_auroc"].dropna()
    scored = clients["val_loss"].notna()
    findings = [int(row.value) for row in last if (row.scope, row.metric) == ("val", "findings")]
    return {
        "clients": len(val),
        "left_out": clients.loc[scored & clients["val_macro_auroc"].isna(), "client"].tolist(),
        "findings": findings[0] if findings else 0,
        "positives": int(clients["val_positives"].min()) if len(val) else None,
        "mean": float(val.mean()) if len(val) else None,
        "worst": float(val.min()) if len(val) else None,
        "sd": float(val.std(ddof=0)) if len(val) else None,
    }
