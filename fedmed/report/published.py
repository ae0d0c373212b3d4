"""A paper's figures beside ours: published, ours, the difference, and whether it is tolerable.

What is tolerable says something only where an answer that knows nothing would not be.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedmed import config as cfg
from fedmed.config.paper import Expected, Ordering, Paper, Where
from fedmed.core.errors import ConfigError, FedmedError
from fedmed.evaluation.comparison import standard_error
from fedmed.report.cells import label_of, matching, text_of
from fedmed.report.trivial import BY_SITE, ONE, trivial
from fedmed.runs.run import FINISHED, Run
from fedmed.runs.selection import SAID, round_of, value_of

#: Keys whose change is no difference of protocol: where things lie, and what the grid varies.
_PLACES = ("root", "seed", "paper", *cfg.NOT_IDENTITY)
HEAD = ("runs", "figure", "published", "ours", "difference", "knowing nothing", "verdict")
SURE = 2  # standard errors by which two means must differ


@dataclass(frozen=True)
class Ours:
    """Our figure of some runs.

    Attributes:
        values: one a finished run, in the order of the seeds.
        runs: all that belong there.
    """

    values: list[float]
    runs: list[Run]

    @property
    def mean(self) -> float:
        """The mean over the seeds, NaN where no run is finished."""
        return float(np.mean(self.values)) if self.values else float("nan")

    @property
    def text(self) -> str:
        """The mean with its standard error and the number of seeds."""
        if not self.values:
            return self.runs[0].status if self.runs else "missing"
        error = standard_error(self.values)
        mean = f"{self.mean:.4f}" + ("" if np.isnan(error) else f" ± {error:.4f}")
        return f"{mean} ({len(self.values)} seed{'s' * (len(self.values) > 1)})"


def paper_of(name: str) -> Paper:
    """Return what ``conf/paper/NAME.yaml`` tells. Raises ConfigError if there is none."""
    known = sorted(path.stem for path in (cfg.CONF / "paper").glob("*.yaml"))
    if name not in known:
        raise ConfigError(f"paper={name}: unknown; there are {', '.join(known)}")
    return Paper.model_validate(cfg.tree([f"+paper={name}"])["paper"])


def compare(name: str, paper: Paper, found: Sequence[Run], where: dict[str, str]) -> str:
    """Return a paper's table as Markdown.

    Args:
        name: of the paper.
        paper: what it tells.
        found: run directories; those of other papers are left out.
        where: only the runs in which these keys have these values.

    Raises:
        FedmedError: if runs of one line differ in more than the seed.
    """
    runs = [run for run in found if run.choices.get("paper") == name and _has(run, where)]
    rows = [_line(expected, paper, runs) for expected in paper.expected]
    lines = [HEAD, ("---",) * len(HEAD), *rows]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    claims = [_claim(ordering, paper, runs) for ordering in paper.orderings]
    return "\n".join([f"{paper.title} ({paper.citation})\n", table, *claims, *_notes(paper, runs)])


def _has(run: Run, where: dict[str, str]) -> bool:
    return all(text_of(run.asked(key)) == value for key, value in where.items())


def _ours(where: Where, value: str, paper: Paper, runs: Sequence[Run]) -> Ours:
    mine = matching(runs, {key: text_of(asked) for key, asked in where.items()})
    finished = [run for run in mine if run.status == FINISHED]
    values = [value_of(run, value, round_of(run, paper.select)) for run in finished]
    if not all(isinstance(v, int | float) for v in values):
        raise FedmedError(f"{value}: {finished[0].folder} has no such figure")
    return Ours([float(v) for v in values], mine)


def _line(expected: Expected, paper: Paper, runs: Sequence[Run]) -> tuple[str, ...]:
    ours = _ours(expected.where, expected.value, paper, runs)
    done = [run for run in ours.runs if run.status == FINISHED]
    nothing = trivial(done[0], expected.value) if done else {}
    difference = "–"
    if expected.published is not None and ours.values:
        difference = f"{ours.mean - expected.published:+.4f}"
    return (
        _said(expected.where),
        expected.value,
        _published(expected),
        ours.text,
        difference,
        ", ".join(f"{figure:.4f} ({name})" for name, figure in nothing.items()) or "–",
        _verdict(expected, ours, nothing),
    )


def _published(expected: Expected) -> str:
    if expected.published is None:
        return "not found"
    spread = f" ± {expected.spread:g}" if expected.spread else ""
    said = ", ".join(filter(None, (expected.by, expected.provenance)))
    return f"{expected.published:.4f}{spread} ({said})"


def _verdict(expected: Expected, ours: Ours, nothing: Mapping[str, float]) -> str:
    if expected.published is None or not ours.values:
        return "–"
    if expected.tolerance is None:
        return "not judged"
    if abs(ours.mean - expected.published) > expected.tolerance:
        return f"**outside** {expected.tolerance:g}"
    within = f"within {expected.tolerance:g}"
    as_near = [
        name
        for name, figure in nothing.items()
        if abs(figure - expected.published) <= expected.tolerance
    ]
    return f"{within}, not distinguishable from {' or '.join(as_near)}" if as_near else within


def _claim(ordering: Ordering, paper: Paper, runs: Sequence[Run]) -> str:
    larger, smaller = (
        _ours(where, ordering.value, paper, runs) for where in (ordering.larger, ordering.smaller)
    )
    if not larger.values or not smaller.values:
        found = "not run"
    else:
        holds = "holds" if larger.mean > smaller.mean else "**does not hold**"
        error = math.hypot(standard_error(larger.values), standard_error(smaller.values))
        if abs(larger.mean - smaller.mean) < SURE * error:
            holds = "not distinguishable"
        alone = "" if math.isfinite(error) else ", of one seed"
        found = f"{holds}: {larger.mean:.4f} against {smaller.mean:.4f}{alone}"
    return f"Claim ({ordering.provenance}): {ordering.claim}; {found}."


def _notes(paper: Paper, runs: Sequence[Run]) -> list[str]:
    said = [f"Published on {paper.data}; source: {paper.source}.", f"Ours {SAID[paper.select]}."]
    said += [
        f"Knowing nothing of an image, on our test labels: {ONE}, the best one to all; {BY_SITE}, "
        "the share of positives where it was taken."
    ]
    said += [f"Ours on {data}." for data in dict.fromkeys(map(_data, runs)) if data]
    said += [f"Caveat: {c}." for c in dict.fromkeys(c for run in runs for c in _caveats(run))]
    said += [f"Differs: {difference}." for difference in paper.differences]
    changed = dict.fromkeys(o for run in runs for o in _changed(run, paper))
    said += [f"Changed on the command line: {', '.join(changed)}."] if changed else []
    said += [f"Not built: {what}." for what in paper.not_built]
    return ["", *(f"- {line}" for line in said)]


def _data(run: Run) -> str:
    images: dict[str, int] = run.summary.get("images", {})
    counts = ", ".join(f"{n:,} {split}" for split, n in images.items())
    return f"{run.choices['dataset']} ({counts})" if images else ""


def _caveats(run: Run) -> list[str]:
    return [*run.summary.get("caveats", []), *run.summary.get("privacy", {}).get("caveats", [])]


def _changed(run: Run, paper: Paper) -> list[str]:
    """Return the overrides of a run that its grid does not vary."""
    varied = {key for expected in paper.expected for key in expected.where}
    return [
        override
        for override in run.overrides
        if (key := override.split("=")[0].lstrip("+")) not in varied
        and not {key.split("/")[0].split(".")[0], key.rsplit(".", 1)[-1]} & set(_PLACES)
    ]


def _said(where: Where) -> str:
    return label_of({key: text_of(value) for key, value in where.items()}) or "all"
