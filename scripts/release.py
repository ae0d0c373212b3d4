"""Release about a finished run, privately, what its directory must not show.

python scripts/release.py RUN_DIR --seed 7

Who has what: noisy counts of each client's patients, with ε for every patient who trains or
validates, as label_counts.csv and label_counts.png in the run directory. The best round: chosen by
how well the validation patients are served, with another ε for each of them. Both add up, with each
other and with what training has spent; so do two calls with different seeds.
"""

import sys

sys.path.pop(0)  # this folder: for other packages, datasets is Hugging Face's

import argparse
from pathlib import Path

import pandas as pd

from fedmed.audit.finished import Finished
from fedmed.errors import FedmedError
from fedmed.figures import draw_partition
from fedmed.release import PATIENTS, best_round, patient_counts
from fedmed.seeding import generator
from fedmed.table import Dataset, validate


def counts(run: Finished, epsilon: float, seed: int) -> pd.DataFrame:
    """Return the noisy counts of a run's patients and write their table and picture."""
    dataset: Dataset = run.config.dataset.build()
    table = validate(dataset.table(), dataset)
    released = patient_counts(table, run.patients, dataset.targets, epsilon, seed)
    released.to_csv(run.folder / "label_counts.csv", index=False)
    draw_partition(released, dataset.targets, run.folder / "label_counts.png", PATIENTS)
    return released


def chosen(run: Finished, epsilon: float, seed: int) -> int:
    """Return a round that serves the validation patients well."""
    rows = pd.read_csv(run.folder / "metrics.csv")
    mine = rows[(rows["scope"] == "val") & (rows["metric"] == "utility")]
    by_round = mine.groupby("round")["value"].sum()
    return best_round(by_round, epsilon, generator(seed, "best round"))


def main() -> None:
    """Read the command line and release."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="the run directory")
    parser.add_argument("--epsilon", type=float, default=1.0, help="of each of the two releases")
    parser.add_argument("--seed", type=int, required=True, help="of the noise; keep it secret")
    arguments = parser.parse_args()
    try:
        run = Finished.open(arguments.run)
        released = counts(run, arguments.epsilon, arguments.seed)
        best = chosen(run, arguments.epsilon, arguments.seed)
    except (FedmedError, ValueError) as error:
        sys.exit(f"release: {error}")
    print(released.to_string(index=False))
    print(f"best round: {best}")
    print(f"a patient's ε: {arguments.epsilon:g} for the counts, and as much again for the round")


if __name__ == "__main__":
    main()
