"""A cell of a table: the runs that differ in the seed alone, and their figure with its errors."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from fedmed.core.errors import FedmedError
from fedmed.evaluation.bootstrap import interval_of
from fedmed.evaluation.comparison import Comparison, standard_error
from fedmed.evaluation.intervals import LEAST
from fedmed.evaluation.ranked import METRICS
from fedmed.runs.run import FAILED, FINISHED, Run
from fedmed.runs.selection import Rule, round_of, value_of

HASHES = ("config_sha256", "data_sha256", "partition_sha256", "model_sha256")
ALPHA = 0.05
Levels = dict[str, str]  # of each key, the value in its row or column


@dataclass
class Cell:
    """A place of the grid.

    Attributes:
        row, column: the values of its keys.
        runs: all that belong there, by seed.
        seeds: that are expected.
        rounds: selected, by run.
        values: of each figure, one a finished run.
        interval: of the first figure's mean, over patients.
        comparison: with the baseline.
        p: of that, Holm-corrected over the table.
        notes: why an interval or a test is not given.
    """

    row: Levels
    column: Levels
    runs: list[Run]
    seeds: list[int]
    rounds: list[int] = field(default_factory=list)
    values: dict[str, list[Any]] = field(default_factory=dict)
    interval: tuple[float, float] = (float("nan"), float("nan"))
    comparison: Comparison | None = None
    p: float = float("nan")
    notes: list[str] = field(default_factory=list)

    @property
    def finished(self) -> list[Run]:
        """The runs that have a figure."""
        return [run for run in self.runs if run.status == FINISHED]

    @property
    def text(self) -> str:
        """What the cell shows."""
        if not self.finished:
            return self.runs[0].status if self.runs else "missing"
        figures = [figure(values) for values in self.values.values()]
        if not np.isnan(self.interval[0]):
            figures[0] += f" [{self.interval[0]:.3f}, {self.interval[1]:.3f}]"
        if self.p < ALPHA:
            figures[0] += "*"
        few = len(self.finished) < len(self.seeds)
        failed = sum(run.status == FAILED for run in self.runs)
        lacking = f"{len(self.finished)} of {len(self.seeds)} seeds"
        return " / ".join(figures) + (
            f" ({lacking}{f', {failed} failed' if failed else ''})" if few else ""
        )


def matching(runs: Sequence[Run], levels: Levels) -> list[Run]:
    """Return the runs of a cell, by seed.

    Raises:
        FedmedError: if they differ in more than the seed.
    """
    mine = [run for run in runs if all(text_of(run.asked(k)) == v for k, v in levels.items())]
    mine.sort(key=lambda run: run.seed)
    for run in mine[1:]:
        if differing := mine[0].differs(run):
            raise FedmedError(
                f"{label_of(levels)}: runs {mine[0].run_id} and {run.run_id} differ in "
                f"{', '.join(differing)}; name it in --rows, --columns or --where"
            )
    return mine


def fill(cell: Cell, values: Sequence[str], select: Rule) -> None:
    """Put the figures of its runs into a cell, and the interval of the first.

    Args:
        cell: that has its runs.
        values: keys of the figures.
        select: which round they are of.
    """
    cell.rounds = [round_of(run, select) for run in cell.finished]
    for key in values:
        cell.values[key] = [
            value_of(run, key, round_)
            for run, round_ in zip(cell.finished, cell.rounds, strict=True)
        ]
    metric = measured(values[0])
    if not cell.finished or not metric:
        return
    if not of_last_rounds(cell):
        cell.notes.append("no interval: predictions are kept of the last round alone")
        return
    if not all(run.tested for run in cell.finished):
        cell.notes.append("no test scores: parameters stay with the clients; val.mean is theirs")
        return
    first = cell.finished[0].scored.predictions
    if not all(first.same_test(run.scored.predictions) for run in cell.finished):
        cell.notes.append("no interval: the seeds were tested on different patients")
        return
    cell.interval = interval_of([run.scored for run in cell.finished], *metric)
    if np.isnan(cell.interval[0]):
        cell.notes.append(f"no interval: fewer than {LEAST} patients with or without a finding")


def unlike_means(runs: Sequence[Run]) -> list[str]:
    """Return a note if the macro means of finished runs are over different findings.

    A finding of which the test patients have one class only counts in no mean.
    """
    scored = {tuple(run.summary["test"]["auroc"]) for run in runs if run.tested}
    if len(scored) < 2:
        return []
    shared = set.intersection(*map(set, scored))
    apart = [f for f in dict.fromkeys(chain(*scored)) if f not in shared]
    return [
        "macro means are over different findings and cannot be compared: "
        f"not all of them have {', '.join(apart)}"
    ]


def of_last_rounds(cell: Cell) -> bool:
    """Say whether a cell's figures are of its runs' last rounds."""
    last = [run.summary["rounds_done"] for run in cell.finished]
    return cell.rounds == last


def measured(key: str) -> tuple[str, str | None] | None:
    """Return the metric and finding of ``test.macro_METRIC`` or ``test.METRIC.FINDING``."""
    scope, _, rest = key.partition(".")
    name, _, finding = rest.partition(".")
    metric = name.removeprefix("macro_")
    if scope != "test" or metric not in METRICS or (name == metric) != bool(finding):
        return None
    return metric, finding or None


def trace(cell: Cell) -> Iterator[dict[str, Any]]:
    """Yield a row for each seed: what the cell was made of, with hashes."""
    rounds = dict(zip([run.run_id for run in cell.finished], cell.rounds, strict=True))
    by_seed = {run.seed: run for run in cell.runs}
    for seed in cell.seeds:
        run = by_seed.get(seed)
        line: dict[str, Any] = {**cell.row, **cell.column, "cell": cell.text, "seed": seed}
        line |= {"status": run.status if run else "missing"}
        if run:
            line |= {"run_id": run.run_id, "folder": str(run.folder)}
            line |= {"round": rounds.get(run.run_id), "error": run.summary.get("error")}
            line |= {name: run.summary.get(name) for name in HASHES}
        if run and run.status == FINISHED:
            at = cell.finished.index(run)
            line |= {key: values[at] for key, values in cell.values.items()}
        if cell.comparison:
            line |= {"difference": cell.comparison.difference, "low": cell.comparison.low}
            line |= {"high": cell.comparison.high, "p": cell.comparison.p, "p_holm": cell.p}
            line |= {"paired_seeds": cell.comparison.seeds}
        yield line | {"notes": "; ".join(cell.notes)}


def figure(values: Sequence[Any]) -> str:
    """Return the mean over seeds with its standard error; of what are no numbers, all of them."""
    numbers = [float("inf") if value == "inf" else value for value in values]
    if not all(isinstance(n, int | float) for n in numbers):
        return ", ".join(dict.fromkeys(text_of(n) for n in numbers))
    error = standard_error(numbers)
    shown = _number(float(np.mean(numbers)))
    return shown if np.isnan(error) else f"{shown} ± {_number(error)}"


def _number(value: float) -> str:
    if np.isinf(value):
        return "∞"
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}"


def text_of(value: Any) -> str:
    """Return a value of a key as it stands in a table."""
    if value is None:
        return "–"
    return f"{value:g}" if isinstance(value, float) else str(value)


def label_of(levels: Levels) -> str:
    """Return the values of some keys as one would type them."""
    return ", ".join(f"{key}={value}" for key, value in levels.items())
