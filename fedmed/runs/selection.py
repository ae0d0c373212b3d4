"""Which round a figure is of: a rule that a table names."""

from typing import Any, Literal

import pandas as pd

from fedmed.core.errors import FedmedError
from fedmed.runs.run import Run

Rule = Literal["last", "best-validation", "oracle"]
SAID: dict[Rule, str] = {
    "last": "after the last round",
    "best-validation": "at the round of the best mean validation AUROC over the clients",
    "oracle": "ORACLE: at the round of the best test AUROC, which nobody would know",
}


def round_of(run: Run, rule: Rule) -> int:
    """Return the round that a rule selects of a finished run, the first of equals.

    Raises:
        FedmedError: if the run has no scores to select by.
    """
    last = int(run.summary["rounds_done"])
    if rule == "last":
        return last
    scores = _validation(run) if rule == "best-validation" else _test(run)
    if scores.notna().sum() == 0:
        scope = "val" if rule == "best-validation" else "test"
        raise FedmedError(f"{run.folder}: has no {scope} scores to select a round by")
    return int(scores.index[int(scores.argmax())])


def _test(run: Run) -> "pd.Series[float]":
    rows = run.metrics
    wanted = (rows["scope"] == "test") & (rows["metric"] == "macro_auroc") & (rows["round"] > 0)
    return rows[wanted].set_index("round")["value"]


def _validation(run: Run) -> "pd.Series[float]":
    """Return of each round the mean over the clients of their mean AUROC over findings.

    Rounds are compared over the same scores: those of clients' findings that are known in each.
    """
    rows = run.metrics
    wanted = (rows["scope"] == "val") & rows["metric"].str.startswith("auroc/")
    table = rows[wanted].pivot_table("value", "round", ["client", "metric"]).dropna(axis=1)
    return table.T.groupby(level="client").mean().mean()


def value_of(run: Run, key: str, round_: int) -> Any:
    """Return a run's figure at a round.

    Raises:
        FedmedError: if it is a test score that is not known of that round.
    """
    if round_ == run.summary["rounds_done"] or not key.startswith("test."):
        return run.result(key)
    metric = key.removeprefix("test.").replace(".", "/", 1)
    rows = run.metrics
    at = (rows["round"] == round_) & (rows["scope"] == "test") & (rows["metric"] == metric)
    if not at.any():
        raise FedmedError(f"{key}: is known of the last round alone; use --select last")
    return float(rows.loc[at, "value"].iloc[0])
