"""How often fedmed's intervals cover the truth, and its tests err: by simulation.

python scripts/intervals.py [--datasets 1000] [--write docs/statistics.md]

Patients have 1 to 5 images. A patient's scores are alike (a correlation of 0.5), and of an ill
patient's images each shows the finding with probability 0.7. Scores are of two normal distributions
and calibrated, so that the truth is a closed form; they are then shifted for a known calibration
error. --write puts the tables between the marks of a page.
"""

import sys

sys.path.pop(0)  # this folder: for other packages, datasets is Hugging Face's

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import norm

from fedmed.core.terminal import tolerate
from fedmed.evaluation.bootstrap import DEBIASED, Scored, score
from fedmed.evaluation.comparison import Test, compare
from fedmed.evaluation.predictions import Predictions
from fedmed.evaluation.ranked import BINS, METRICS

ALIKE, SHOWN = 0.5, 0.7
COUNTS = (10, 15, 30, 100)  # expected positive patients, of 400
MEANS = ((4, 5, 8), (10, 100), (12, 12, 20, 60), (11, 11, 11, 200), (30,) * 6)  # findings of one
SHIFTS = {0.64: 0.5, 0.8: 1.2, 0.95: 2.3}  # the distance of the classes, by AUROC
OFF = (0.0, 0.03, 0.1)  # added to calibrated probabilities
REPLICATES = 300
MARK = "<!-- {} of scripts/intervals.py -->"
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """What test sets are drawn from.

    Attributes:
        patients: in a test set.
        positives: of each finding, how many of them have it, on average.
        shift: distance of the scores of both classes, in standard deviations.
        off: added to the calibrated probabilities.
    """

    patients: int
    positives: Sequence[float]
    shift: float
    off: float = 0.0

    def prevalence(self, finding: int) -> float:
        """Return the share of images that show a finding."""
        return SHOWN * self.positives[finding] / self.patients

    def draw(self, rng: np.random.Generator) -> Predictions:
        """Draw a test set."""
        whose = np.repeat(np.arange(self.patients), rng.integers(1, 6, self.patients))
        scores, labels = [], []
        for finding, positives in enumerate(self.positives):
            ill = rng.random(self.patients) < positives / self.patients
            labels.append(ill[whose] & (rng.random(len(whose)) < SHOWN))
            own = rng.normal(size=self.patients)[whose] * ALIKE**0.5
            noise = own + rng.normal(size=len(whose)) * (1 - ALIKE) ** 0.5
            scores.append(self._probability(noise + self.shift * labels[-1], finding))
        return predictions(np.stack(scores, axis=1), np.stack(labels, axis=1), whose)

    def truth(self, finding: int) -> dict[str, float]:
        """Return every metric over all that could be drawn, by integration over the score."""
        x, step = np.linspace(-9, 9 + self.shift, 200_001, retstep=True)
        share, p = self.prevalence(finding), self._probability(x, finding)
        ill, well = share * norm.pdf(x - self.shift) * step, (1 - share) * norm.pdf(x) * step
        hits, false = share * norm.sf(x - self.shift), (1 - share) * norm.sf(x)
        bins = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], p)
        error = np.abs(np.bincount(bins, p * (ill + well) - ill, BINS)).sum()
        values = (
            norm.cdf(self.shift / 2**0.5),
            (ill / share * hits / np.maximum(hits + false, 1e-300)).sum(),
            *(norm.sf(norm.ppf(s) - self.shift) for s in (0.9, 0.95)),
            np.where(p > 0.5, ill, well).sum(),
            (ill * (1 - p) ** 2 + well * p**2).sum(),
            error,
        )
        named = {name: float(value) for name, value in zip(METRICS, values, strict=True)}
        return named | {DEBIASED: named["ece"]}

    def _probability(self, x: Floats, finding: int) -> Floats:
        calibrated = expit(logit(self.prevalence(finding)) + self.shift * x - self.shift**2 / 2)
        return np.asarray(np.minimum(calibrated + self.off, 1))


def predictions(scores: Floats, labels: NDArray[Any], whose: NDArray[Any]) -> Predictions:
    """Return n×T scores and labels as predictions of images named by their row."""
    images = pd.DataFrame({"image": np.arange(len(whose)).astype(str), "patient": whose})
    targets = tuple(f"finding {i}" for i in range(scores.shape[1]))
    return Predictions(targets, scores.astype(np.float32), labels.astype(np.float32), images)


def coverage(world: World, datasets: int, seed: int = 0) -> pd.DataFrame:
    """Return, by metric, how often an interval is given, covers the truth and how wide it is.

    The row ``macro`` is of the mean over findings, where the world has several; a test set in which
    a finding lacks a class is left out.
    """
    rng = np.random.default_rng(seed)
    truths = [world.truth(i) for i in range(len(world.positives))]
    finding = "finding 0" if len(truths) == 1 else None
    found: list[tuple[str, float, float, float, float]] = []
    for _ in range(datasets):
        scored = score(world.draw(rng), REPLICATES)
        if len(scored.findings) == len(truths):
            for metric in (*METRICS, DEBIASED):
                truth = float(np.mean([one[metric] for one in truths]))
                found.append(
                    (metric, truth, *scored.interval(metric, finding), scored.value(metric))
                )
    rows = pd.DataFrame(found, columns=["metric", "truth", "low", "high", "value"])
    given = rows["low"].notna()
    rows["covered"] = ((rows["low"] <= rows["truth"]) & (rows["truth"] <= rows["high"])).where(
        given
    )
    rows["width"], rows["given"] = rows["high"] - rows["low"], given
    return rows.groupby("metric", sort=False)[
        ["truth", "value", "given", "covered", "width"]
    ].mean()


def pairs_of_runs(
    rng: np.random.Generator, seeds: int, spread: float, better: float, patients: int = 100
) -> tuple[list[Scored], list[Scored]]:
    """Draw runs of two methods on the same patients, a pair a seed.

    Args:
        rng: of everything.
        seeds: how many pairs.
        spread: standard deviation over seeds of each method's distance between the classes.
        better: what the first method's is larger by, on average.
        patients: of the test set.
    """
    whose = np.repeat(np.arange(patients), rng.integers(1, 6, patients))
    labels = ((rng.random(patients) < 0.3)[whose] & (rng.random(len(whose)) < SHOWN))[:, None]
    shared = rng.normal(size=patients)[whose] + rng.normal(size=len(whose))  # the images' own
    methods: tuple[list[Scored], list[Scored]] = ([], [])
    for method, runs in enumerate(methods):
        taste = rng.normal(size=patients)[whose] * 0.5  # what a method makes of a patient
        for _ in range(seeds):
            distance = 1.5 + better * (method == 0) + spread * rng.normal()
            noise = shared + taste + 0.7 * rng.normal(size=len(whose))
            scores = expit(noise[:, None] + distance * labels)
            runs.append(score(predictions(scores, labels, whose), REPLICATES))
    return methods


def rejections(
    seeds: int, spread: float, better: float, datasets: int, seed: int = 0
) -> dict[Test, float]:
    """Return how often each test finds two methods different at 0.05."""
    rng = np.random.default_rng(seed)
    found: dict[Test, float] = {"bootstrap": 0.0, "delong": 0.0}
    for _ in range(datasets):
        ours, theirs = pairs_of_runs(rng, seeds, spread, better)
        for test in found:
            found[test] += (compare(ours, theirs, "auroc", test=test).p < 0.05) / datasets
    return found


def report(datasets: int) -> Iterator[str]:
    """Yield the lines of the page's tables."""
    short = {m: m.replace("sensitivity_at_", "sens@").replace("_specificity", "") for m in METRICS}
    names = [m for m in METRICS if m != "ece"]
    yield "| AUROC | positive patients of 400 | " + " | ".join(short[m] for m in names) + " |"
    yield "|---|---|" + "---|" * len(names)
    for auroc, shift in SHIFTS.items():
        for positives in COUNTS:
            rows = coverage(World(400, [positives], shift), datasets)
            yield _line(
                f"{auroc:g}", f"{positives} ({rows['given'].iloc[0]:.0%} given)", rows, names
            )
        for each in MEANS:
            rows = coverage(World(400, each, shift), datasets)
            yield _line(f"{auroc:g}", f"macro of {', '.join(map(str, each))}", rows, names)
    yield ""
    yield "| calibration error | positives | median-unbiased | the plain ECE | covered | width |"
    yield "|---|---|---|---|---|---|"
    for positives in (30, 150):
        for off in OFF:
            rows = coverage(World(400, [positives], 1.2, off), datasets)
            ours, plain = rows.loc[DEBIASED].astype(float), rows["value"].astype(float)["ece"]
            yield (
                f"| {ours['truth']:.3f} | {positives} | {ours['value']:.3f} | {plain:.3f} | "
                f"{ours['covered']:.3f} | {ours['width']:.3f} |"
            )
    yield ""
    yield "| seeds | spread over seeds | better by | bootstrap says so | DeLong |"
    yield "|---|---|---|---|---|"
    for seeds in (1, 2, 3, 5):
        for spread, better in ((0.0, 0.0), (0.15, 0.0), (0.5, 0.0), (0.15, 0.6)):
            if seeds > 1 or not spread:
                found = rejections(seeds, spread, better, datasets)
                shares = " | ".join(f"{share:.3f}" for share in found.values())
                yield f"| {seeds} | {spread:g} | {better:g} | {shares} |"


def _line(auroc: str, positives: str, rows: pd.DataFrame, names: Sequence[str]) -> str:
    shares = rows["covered"].astype(float)
    covered = [f"{shares[m]:.3f}" for m in names]
    return f"| {auroc} | {positives} | {' | '.join(covered)} |"


def main() -> None:
    """Print the tables, or put them into the page."""
    tolerate()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--datasets", type=int, default=1000, help="test sets of each line")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="between its marks")
    arguments = parser.parse_args()
    lines = []
    for line in report(arguments.datasets):
        print(line, flush=True)
        lines.append(line)
    if arguments.write:
        page = arguments.write.read_text(encoding="utf-8")
        start, end = MARK.format("tables"), MARK.format("end")
        before, after = page.split(start)[0], page.split(end)[1]
        text = "\n".join([start, "", *lines, "", end])
        arguments.write.write_text(before + text + after, encoding="utf-8")


if __name__ == "__main__":
    main()
