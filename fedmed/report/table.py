"""A table of runs: rows and columns by configuration, a figure with its errors in each cell.

The grid is the product of the values seen (or given) of each key, so that a cell without a run
shows as missing. Runs of one cell may differ in nothing but the seed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, product
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

from fedmed.core.errors import ConfigError, FedmedError
from fedmed.evaluation.bootstrap import REPLICATES, interval_of
from fedmed.evaluation.comparison import Comparison, Test, compare, holm, standard_error
from fedmed.evaluation.intervals import LEAST, LEVEL, METHOD
from fedmed.evaluation.ranked import METRICS
from fedmed.runs.run import FAILED, FINISHED, Run
from fedmed.runs.selection import SAID, Rule, round_of, value_of

HASHES = ("config_sha256", "data_sha256", "partition_sha256", "model_sha256")
ALPHA = 0.05
Levels = dict[str, str]  # of each key, the value in its row or column


class Settings(BaseModel):
    """What a table shows. Keys are a group (``strategy``), a configuration's or a summary's.

    Attributes:
        rows: keys, or ``key=a,b`` to give the values that are expected.
        columns: the same; without any there is one column.
        value: the figures in a cell; the first is the one with intervals and tests.
        where: runs are left out whose key has another value.
        baseline: of a key of rows or columns, the value that the others are tested against.
        select: which round.
        test: the paired test.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    rows: list[str]
    columns: list[str] = []
    value: list[str] = ["test.macro_auroc"]
    where: dict[str, str] = {}
    baseline: dict[str, str] = {}
    select: Rule = "last"
    test: Test = "bootstrap"


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
        figures = [_figure(values) for values in self.values.values()]
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


@dataclass(frozen=True)
class Table:
    """A finished table.

    Attributes:
        settings: what was asked for.
        cells: row by row.
        caption: sentences that say what stands in a cell.
    """

    settings: Settings
    cells: list[Cell]
    caption: list[str]

    def frame(self) -> pd.DataFrame:
        """Return the table of texts: the row keys' columns first, then one a column of the grid."""
        lines: dict[str, dict[str, str]] = {}
        for cell in self.cells:
            line = lines.setdefault(label_of(cell.row), dict(cell.row))
            line[label_of(cell.column) or ", ".join(self.settings.value)] = cell.text
        return pd.DataFrame(list(lines.values()))

    def trace(self) -> pd.DataFrame:
        """Return a row a run, or a missing one: what each cell was made of, with hashes."""
        return pd.DataFrame([line for cell in self.cells for line in _trace(cell)])


def build(runs: Sequence[Run], settings: Settings) -> Table:
    """Make a table of runs.

    Raises:
        FedmedError: if a key is unknown, or runs of one cell differ in more than the seed.
    """
    chosen = [r for r in runs if all(text_of(r.asked(k)) == v for k, v in settings.where.items())]
    if not chosen:
        raise ConfigError(f"--where: no run has {label_of(settings.where)}")
    row_levels = [_levels(chosen, key) for key in settings.rows]
    column_levels = [_levels(chosen, key) for key in settings.columns]
    seeds = sorted({run.seed for run in chosen})
    cells = [
        Cell(row, column, matching(chosen, row | column), seeds)
        for row in _product(row_levels)
        for column in _product(column_levels)
    ]
    for cell in cells:
        fill(cell, settings)
    if settings.baseline:
        _compare(cells, settings)
    return Table(settings, cells, _caption(cells, settings, seeds))


def _levels(runs: Sequence[Run], key: str) -> tuple[str, list[str]]:
    """Return a key and its values, in the order given, or sorted."""
    name, _, given = key.partition("=")
    found = {run.asked(name) is not None and text_of(run.asked(name)) for run in runs} - {False}
    if given:
        return name, given.split(",")
    if not found:
        raise ConfigError(f"{name}: unknown key: no run has it in its configuration or summary")
    return name, sorted(map(str, found), key=_order)


def _order(text: str) -> tuple[float, str]:
    try:
        return float(text), text
    except ValueError:
        return float("inf"), text


def _product(levels: list[tuple[str, list[str]]]) -> Iterator[Levels]:
    names = [name for name, _ in levels]
    for values in product(*(values for _, values in levels)):
        yield dict(zip(names, values, strict=True))


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


def fill(cell: Cell, settings: Settings) -> None:
    """Put the figures of its runs into a cell, and the interval of the first."""
    cell.rounds = [round_of(run, settings.select) for run in cell.finished]
    for key in settings.value:
        cell.values[key] = [
            value_of(run, key, round_)
            for run, round_ in zip(cell.finished, cell.rounds, strict=True)
        ]
    measured = _metric(settings.value[0])
    if not cell.finished or not measured:
        return
    if not _of_last_rounds(cell):
        cell.notes.append("no interval: predictions are kept of the last round alone")
        return
    first = cell.finished[0].scored.predictions
    if not all(first.same_test(run.scored.predictions) for run in cell.finished):
        cell.notes.append("no interval: the seeds were tested on different patients")
        return
    cell.interval = interval_of([run.scored for run in cell.finished], *measured)
    if np.isnan(cell.interval[0]):
        cell.notes.append(f"no interval: fewer than {LEAST} patients with or without a finding")


def unlike_means(runs: Sequence[Run]) -> list[str]:
    """Return a note if the macro means of finished runs are over different findings.

    A finding of which the test patients have one class only counts in no mean.
    """
    scored = {tuple(run.summary["test"]["auroc"]) for run in runs}
    if len(scored) < 2:
        return []
    shared = set.intersection(*map(set, scored))
    apart = [f for f in dict.fromkeys(chain(*scored)) if f not in shared]
    return [
        "macro means are over different findings and cannot be compared: "
        f"not all of them have {', '.join(apart)}"
    ]


def _of_last_rounds(cell: Cell) -> bool:
    last = [run.summary["rounds_done"] for run in cell.finished]
    return cell.rounds == last


def _metric(key: str) -> tuple[str, str | None] | None:
    """Return the metric and finding of ``test.macro_METRIC`` or ``test.METRIC.FINDING``."""
    scope, _, rest = key.partition(".")
    name, _, finding = rest.partition(".")
    metric = name.removeprefix("macro_")
    if scope != "test" or metric not in METRICS or (name == metric) != bool(finding):
        return None
    return metric, finding or None


def _compare(cells: Sequence[Cell], settings: Settings) -> None:
    """Test each cell against the one that has the baseline's value in its place."""
    measured = _metric(settings.value[0])
    if measured is None:
        raise ConfigError(f"--baseline: {settings.value[0]} is no score that can be tested")
    by_levels = {label_of(cell.row | cell.column): cell for cell in cells}
    for cell in cells:
        levels = cell.row | cell.column
        unknown = [key for key in settings.baseline if key not in levels]
        if unknown:
            raise ConfigError(f"--baseline: {unknown[0]} is no key of --rows or --columns")
        baseline = by_levels.get(label_of(levels | settings.baseline))
        if baseline is None:
            raise ConfigError(f"--baseline: the table has no {label_of(settings.baseline)}")
        if baseline is not cell:
            _test(cell, baseline, measured, settings.test)
    p_values = [cell.comparison.p if cell.comparison else float("nan") for cell in cells]
    for cell, p in zip(cells, holm(p_values), strict=True):
        cell.p = p


def _test(cell: Cell, baseline: Cell, measured: tuple[str, str | None], test: Test) -> None:
    ours, theirs = ({r.seed: r for r in c.finished} for c in (cell, baseline))
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        cell.notes.append("no test: no seed in common with the baseline")
    elif not (_of_last_rounds(cell) and _of_last_rounds(baseline)):
        cell.notes.append("no test: predictions are kept of the last round alone")
    else:
        mine, other = ([of[seed].scored for seed in seeds] for of in (ours, theirs))
        try:
            cell.comparison = compare(mine, other, *measured, test)
        except FedmedError as error:
            cell.notes.append(f"no test: {error}")


def _trace(cell: Cell) -> Iterator[dict[str, Any]]:
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


def _caption(cells: Sequence[Cell], settings: Settings, seeds: Sequence[int]) -> list[str]:
    said = [f"{' / '.join(settings.value)} {SAID[settings.select]}."]
    if len(seeds) > 1:
        said.append(f"Mean ± standard error over {len(seeds)} seeds.")
    if any(not np.isnan(cell.interval[0]) for cell in cells):
        said.append(
            f"In brackets, the mean's {LEVEL:.0%} interval over test patients for these models "
            f"({METHOD}, {REPLICATES:,} replicates)."
        )
    tested = sum(cell.comparison is not None for cell in cells)
    if settings.baseline:
        how = (
            "patient bootstrap" if settings.test == "bootstrap" else "DeLong, patients as clusters"
        )
        pairs = [cell.comparison.seeds for cell in cells if cell.comparison]
        over = "over patients and seeds" if max(pairs, default=1) > 1 else "over patients"
        said.append(
            f"* differs from {label_of(settings.baseline)} at {ALPHA:g} {over} (paired {how}, "
            f"Holm-corrected over {tested} tests)."
        )
        if 1 in pairs:
            said.append(
                "With one seed in common the star cannot know the spread over seeds: another seed "
                "may say otherwise."
            )
    notes = {note for cell in cells for note in cell.notes}
    if any("macro_" in value for value in settings.value):
        notes |= set(unlike_means([run for cell in cells for run in cell.finished]))
    return said + [f"{note[0].upper()}{note[1:]}." for note in sorted(notes)]


def _figure(values: Sequence[Any]) -> str:
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
