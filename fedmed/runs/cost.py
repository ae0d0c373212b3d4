"""What it took to reach a target: rounds, bytes, local steps and seconds."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from fedmed.runs.directory import RunDirectory


@dataclass(frozen=True)
class Cost:
    """What had been spent by the end of a round.

    Attributes:
        rounds: how many.
        bytes_up, bytes_down: array bytes moved, over all clients.
        steps: local optimizer steps, over all clients.
        seconds: in rounds, on the machine of the run.
    """

    rounds: int
    bytes_up: int
    bytes_down: int
    steps: int
    seconds: float


def to_reach(folder: Path, target: float, metric: str = "macro_auroc") -> Cost | None:
    """Return what a run spent until its test metric first reached a target, None if it never did.

    The metric is known of the rounds that were evaluated (``evaluate_every``). To stop there would
    have taken the test's word: as a measure of cost it is a comparison of runs, no stopping rule.

    Args:
        folder: the run directory.
        target: what ``test`` must reach.
        metric: as in ``metrics.csv``.
    """
    rows = pd.read_csv(RunDirectory(folder).check("metrics.csv"))
    test = rows[(rows["scope"] == "test") & (rows["metric"] == metric)]
    reached = test.loc[test["value"] >= target, "round"]
    if reached.empty:
        return None
    spent = rows[rows["round"] <= reached.min()]
    seconds = pd.read_csv(folder / "time.csv")
    return Cost(
        int(reached.min()),
        _sum(spent, "cost", "bytes_up"),
        _sum(spent, "cost", "bytes_down"),
        _sum(spent, "train", "steps"),
        float(seconds.loc[seconds["round"] <= reached.min(), "seconds"].sum()),
    )


def _sum(rows: pd.DataFrame, scope: str, metric: str) -> int:
    return int(rows.loc[(rows["scope"] == scope) & (rows["metric"] == metric), "value"].sum())
