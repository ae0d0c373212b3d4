"""A table of runs: rows and columns by configuration, a figure with its errors in each cell.

The grid is the product of the values seen (or given) of each key, so that a cell without a run
shows as missing. Runs of one cell may differ in nothing but the seed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

from fedmed.core.errors import ConfigError, FedmedError
from fedmed.evaluation.bootstrap import REPLICATES
from fedmed.evaluation.comparison import Test, compare, holm
from fedmed.evaluation.intervals import LEVEL, METHOD
from fedmed.report.cells import (
    ALPHA,
    Cell,
    Levels,
    fill,
    label_of,
    matching,
    measured,
    of_last_rounds,
    text_of,
    trace,
    unlike_means,
)
from fedmed.runs.run import Run
from fedmed.runs.selection import SAID, Rule


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
    rows: list[str] = ["strategy"]
    columns: list[str] = []
    value: list[str] = ["test.macro_auroc"]
    where: dict[str, str] = {}
    baseline: dict[str, str] = {}
    select: Rule = "last"
    test: Test = "bootstrap"


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
        return pd.DataFrame([line for cell in self.cells for line in trace(cell)])


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
        fill(cell, settings.value, settings.select)
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


def _compare(cells: Sequence[Cell], settings: Settings) -> None:
    """Test each cell against the one that has the baseline's value in its place."""
    metric = measured(settings.value[0])
    if metric is None:
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
            _test(cell, baseline, metric, settings.test)
    p_values = [cell.comparison.p if cell.comparison else float("nan") for cell in cells]
    for cell, p in zip(cells, holm(p_values), strict=True):
        cell.p = p


def _test(cell: Cell, baseline: Cell, metric: tuple[str, str | None], test: Test) -> None:
    ours, theirs = ({r.seed: r for r in c.finished} for c in (cell, baseline))
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        cell.notes.append("no test: no seed in common with the baseline")
    elif not (of_last_rounds(cell) and of_last_rounds(baseline)):
        cell.notes.append("no test: predictions are kept of the last round alone")
    else:
        mine, other = ([of[seed].scored for seed in seeds] for of in (ours, theirs))
        try:
            cell.comparison = compare(mine, other, *metric, test)
        except FedmedError as error:
            cell.notes.append(f"no test: {error}")


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
