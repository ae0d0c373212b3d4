"""What distributed noise costs over central noise of the same ε: the test AUROC, over seeds.

Every client joins each round, so that neither is amplified, and the ledger has the same ε for both.
Where all members must survive, a client's share is z·C/√n, and the noise on the sum is the server's
own; where some may be lost (``aggregation.threshold``), the shares are larger, and so is the noise
on the sum when nobody is. What is left between the first two is truncation to the grid.

The data are UCI Heart Disease (``--root``), dealt to eight clients, with logistic regression.
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from rich.table import Table

from fedmed.experiment.run import run
from fedmed.runs.console import Console

CLIENTS = 8
BAR = 0.005
TASK = (
    "dataset=heart_disease",
    "model=logistic_regression",
    "partition=iid",
    f"partition.clients={CLIENTS}",
    "partition.val_fraction=0",
    "strategy=dp_fedavg",
    "strategy.fraction=1",
    "strategy.clip_norm=1.0",
    "client=sgd",
    "client.momentum=0",
    "client.lr=0.05",
    "client.batch_size=16",
    "client.steps=20",
    "runner.workers=0",
    "tracking.mode=disabled",
)
SUMS = ("strategy.noise=distributed", "aggregation=secagg")
WAYS = {
    "central": (),
    "distributed, all must survive": (*SUMS, f"aggregation.threshold={1 - 0.5 / CLIENTS}"),
    "distributed, as it comes": SUMS,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take what the measurement can be told."""
    parser.add_argument("--root", type=Path, required=True, help="the four files processed.*.data")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--noise", type=float, nargs="+", default=[1.0, 2.0, 4.0])
    parser.add_argument("--rounds", type=int, default=15)


def measure(arguments: argparse.Namespace) -> tuple[Table, dict[str, Any]]:
    """Return the table and the record of what was measured."""
    table = Table("z", "ε", "noise", "test AUROC, mean", "of each seed", "over central")
    rows = []
    for z in arguments.noise:
        central = 0.0
        for way, overrides in WAYS.items():
            found = [_run(arguments, z, seed, *overrides) for seed in arguments.seeds]
            (epsilon,) = {one["privacy"]["epsilon"] for one in found}
            scores = [one["test"]["macro_auroc"] for one in found]
            mean = statistics.fmean(scores)
            central = central or mean
            rows.append({"z": z, "epsilon": epsilon, "noise": way, "auroc": scores, "mean": mean})
            each = " ".join(f"{score:.4f}" for score in scores)
            cells = (f"{z:g}", f"{epsilon:.4g}", way, f"{mean:.4f}", each, f"{mean - central:+.4f}")
            table.add_row(*cells)
    return table, {"rounds": arguments.rounds, "bar": BAR, "rows": rows}


def _run(arguments: argparse.Namespace, z: float, seed: int, *overrides: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, Console() as console:
        told = (
            f"dataset.root={arguments.root.resolve()}",
            f"seed={seed}",
            f"rounds={arguments.rounds}",
            f"evaluate_every={arguments.rounds}",
            f"strategy.noise_multiplier={z}",
            f"store={folder}/store",
        )
        return run((*TASK, *told, *overrides), Path(folder) / "run", console)
