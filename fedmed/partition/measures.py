"""How much the clients of a partition differ, in numbers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedmed.data.table import labels
from fedmed.partition.patients import patients_of


def describe(table: pd.DataFrame, assigned: pd.DataFrame, targets: Sequence[str]) -> pd.DataFrame:
    """Return who has what, one row a client: the start of ``clients.csv``.

    Args:
        table: the images that there are.
        assigned: the partition.
        targets: what is learnt.

    Returns:
        ``client``, ``sites``, ``patients``, ``images``, ``train_images``, ``val_images``,
        ``js_divergence`` and, for each target, the number of positive images.
        ``js_divergence`` is the Jensen–Shannon divergence, in bits from 0 to 1, of the client's
        patients to those of all clients; they are told apart by their rarest positive target,
        whatever the rule went by.
    """
    mine = table[table["split"] != "test"].merge(assigned, on="patient")
    everyone = pd.RangeIndex(int(assigned["client"].max()) + 1, name="client")
    client = mine["client"]
    positive = pd.DataFrame(labels(mine, targets) == 1, columns=list(targets))
    pairs = mine[["client", "site"]].drop_duplicates().sort_values("site")
    frame = pd.DataFrame(
        {
            "patients": mine.drop_duplicates("patient").groupby("client").size(),
            "images": mine.groupby("client").size(),
            "train_images": (mine["role"] == "train").groupby(client).sum(),
            "val_images": (mine["role"] == "val").groupby(client).sum(),
            **{target: positive[target].groupby(client).sum() for target in targets},
        }
    )
    frame = frame.reindex(everyone, fill_value=0).astype(int)
    sites = pairs.groupby("client")["site"].agg(" + ".join).reindex(everyone, fill_value="")
    frame.insert(0, "sites", sites)
    keys = patients_of(mine.drop(columns=["client", "role"]), targets)[["patient", "key"]]
    keyed = keys.merge(assigned, on="patient")
    counts = pd.crosstab(keyed["client"], keyed["key"]).reindex(everyone, fill_value=0)
    frame.insert(5, "js_divergence", js_divergence(counts.to_numpy(float)))
    return frame.reset_index()


def measure(clients: pd.DataFrame) -> dict[str, Any]:
    """Return what is recorded of a partition, of the clients that :func:`describe` describes.

    Returns:
        ``clients``; ``patients`` and ``images``, each the least, the median and the most of a
        client; ``size_gini``, the Gini coefficient of the clients' patients, 0 where all have the
        same; and ``js_divergence``, the mean over clients, weighted by patients, and the most,
        where it is known.
    """
    patients = clients["patients"].to_numpy(float)
    sizes = {
        "clients": len(clients),
        "patients": _spread(clients["patients"]),
        "images": _spread(clients["images"]),
        "size_gini": gini(patients),
    }
    if "js_divergence" not in clients:
        return sizes
    divergence = clients["js_divergence"].fillna(0)
    mean, most = float(np.average(divergence, weights=patients)), float(divergence.max())
    return sizes | {"js_divergence": {"mean": mean, "max": most}}


def js_divergence(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each row's Jensen–Shannon divergence, in bits, to the sum of all rows.

    Lin 1991, with even weights: the mean relative entropy of the two distributions to their
    midpoint. NaN for a row without counts.
    """
    with np.errstate(invalid="ignore"):
        shares = counts / counts.sum(axis=1, keepdims=True)
    pool = counts.sum(axis=0) / counts.sum()
    middle = (shares + pool) / 2
    return (_relative_entropy(shares, middle) + _relative_entropy(pool, middle)) / 2


def gini(sizes: NDArray[np.float64]) -> float:
    """Return the Gini coefficient: half the mean difference of two sizes over their mean."""
    n = len(sizes)
    ranks = np.arange(1, n + 1)
    return float(2 * (ranks * np.sort(sizes)).sum() / (n * sizes.sum()) - (n + 1) / n)


def _relative_entropy(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):
        terms: NDArray[np.float64] = np.where(p == 0, 0, p * np.log2(p / q))
    return np.asarray(terms.sum(axis=-1))


def _spread(values: "pd.Series[int]") -> dict[str, float]:
    return {
        "min": int(values.min()),
        "median": float(values.median()),
        "max": int(values.max()),
    }
