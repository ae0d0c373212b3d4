"""Release about a finished run, privately, what its directory must not show.

fedmed release RUN_DIR --seed 7

Who has what: noisy counts of each client's patients, with ε for every patient who trains or
validates, as label_counts.csv and label_counts.png in the run directory. The best round: chosen by
how well the validation patients are served, with another ε for each of *them*; whoever is trained
on has there what the run itself promises them, and no more. Clients that withhold their validation
scores withhold that choice too. All that was released, and for whom with which ε, stands in
release.json. Releases add up, with each other and with what training has spent; so do two calls
with different seeds.
"""

import json
import math
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedmed.cli.arguments import new_parser
from fedmed.core.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

    from fedmed.audit.finished import Finished
    from fedmed.privacy.release import Release


def parser() -> ArgumentParser:
    """Return what reads the arguments."""
    parser = new_parser("release", __doc__)
    parser.add_argument("run", type=Path, help="the run directory")
    parser.add_argument("--epsilon", type=float, default=1.0, help="of each of the two releases")
    parser.add_argument("--seed", type=int, required=True, help="of the noise; keep it secret")
    return parser


def main(argv: Sequence[str]) -> None:
    """Release what can be released."""
    arguments = parser().parse_args(argv)
    if not (arguments.epsilon > 0 and math.isfinite(arguments.epsilon)):
        raise ConfigError(f"--epsilon: takes a finite number above 0, got {arguments.epsilon:g}")
    for each in release(arguments.run, arguments.epsilon, arguments.seed):
        print(each)


def release(folder: Path, epsilon: float, seed: int) -> "list[Release]":
    """Release what can be, write it into the run directory, and return what was released.

    Args:
        folder: the run directory.
        epsilon: of each of the two releases, finite and above 0.
        seed: of the noise.

    Raises:
        FedmedError: if there is no finished run; then nothing is released.
    """
    from fedmed.audit.finished import Finished
    from fedmed.core.files import write_atomically
    from fedmed.core.seeding import generator
    from fedmed.partition.figures import draw_partition
    from fedmed.privacy.release import (
        PATIENTS,
        Release,
        best_round,
        promised_by_training,
        unreleasable,
    )
    from fedmed.runs.directory import safe

    run = Finished.open(folder)
    noisy = _counts(run, epsilon, seed)
    by_round = _utilities(run)
    releases = [
        Release("label counts", epsilon, "each patient who trains or validates", "label_counts.csv")
    ]
    if why := unreleasable(run.config, by_round):
        releases.append(Release("best round", None, f"nobody: {why}", None))
    else:
        chosen = best_round(by_round, epsilon, generator(seed, "best round"))
        whom = f"each validation patient; {promised_by_training(run.summary['privacy'])}"
        releases.append(Release("best round", epsilon, whom, chosen))
    safe(noisy).to_csv(folder / "label_counts.csv", index=False)
    draw_partition(noisy, tuple(noisy.columns[2:]), folder / "label_counts.png", PATIENTS)
    text = json.dumps([each._asdict() for each in releases], indent=1, ensure_ascii=False)
    write_atomically(folder / "release.json", lambda new: new.write_text(text + "\n"))
    print(noisy.to_string(index=False))
    return releases


def _counts(run: "Finished", epsilon: float, seed: int) -> "pd.DataFrame":
    """Return the noisy counts of a run's patients."""
    from fedmed.data.table import Dataset, validate
    from fedmed.privacy.release import patient_counts

    dataset: Dataset = run.config.dataset.build()
    table = validate(dataset.table(), dataset)
    return patient_counts(table, run.patients, dataset.targets, epsilon, seed)


def _utilities(run: "Finished") -> "pd.Series[float]":
    """Return by round how well the validation patients are served, as far as clients tell."""
    import pandas as pd

    from fedmed.runs.directory import RunDirectory

    rows = pd.read_csv(RunDirectory(run.folder).check("metrics.csv"))
    mine = rows[(rows["scope"] == "val") & (rows["metric"] == "utility")]
    return mine.groupby("round")["value"].sum()
