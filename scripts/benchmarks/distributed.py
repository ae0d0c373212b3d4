"""What distributed noise costs over central noise of the same ε: the test AUROC, over seeds.

Every client joins each round, so that neither is amplified, and the ledger has the same ε for both.
Where all members must survive, a client's share is z·C/√n, and the noise on the sum is the server's
own; where some may be lost (``aggregation.threshold``), the shares are larger, and so is the noise
on the sum when nobody is. What is left between the first two is truncation to the grid.

Noise comes from the operating system, several draws of it for each seed, which decides the split,
the first weights and the batches: one draw moves an AUROC by more than what is looked for. With the
difference stands its standard error, over draws, the seeds being what they are.

The data are UCI Heart Disease (``--root``), dealt to eight clients, with logistic regression.
"""

import argparse
import math
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
    "strategy.clip_norm=0.3",
    "strategy.secure_noise=true",
    "client=sgd",
    "client.momentum=0",
    "client.lr=0.2",  # so that most updates are as long as the clipping norm
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
    parser.add_argument("--noise", type=float, nargs="+", default=[1.0, 2.0])
    parser.add_argument("--draws", type=int, default=8, help="of the noise, at least 2, a seed")
    parser.add_argument("--rounds", type=int, default=15)


def measure(arguments: argparse.Namespace) -> tuple[Table, dict[str, Any]]:
    """Return the table and the record of what was measured."""
    table = Table("z", "ε", "noise", "test AUROC", "of each seed", "more than central")
    rows: list[dict[str, Any]] = []
    for z in arguments.noise:
        for way, overrides in WAYS.items():
            found = [
                [_run(arguments, z, seed, *overrides) for _ in range(arguments.draws)]
                for seed in arguments.seeds
            ]
            (epsilon,) = {one["privacy"]["epsilon"] for of_seed in found for one in of_seed}
            scores = [[one["test"]["macro_auroc"] for one in of_seed] for of_seed in found]
            means = [statistics.fmean(of_seed) for of_seed in scores]
            square = statistics.fmean(statistics.variance(of_seed) for of_seed in scores)
            row = {
                "z": z,
                "epsilon": epsilon,
                "noise": way,
                "auroc": scores,
                "mean": statistics.fmean(means),
                "error": math.sqrt(square / (len(scores) * arguments.draws)),
            }
            rows.append(row)
            central = next(r for r in rows if r["z"] == z)
            error = math.hypot(row["error"], central["error"])
            table.add_row(
                f"{z:g}",
                f"{epsilon:.4g}",
                way,
                f"{row['mean']:.4f}",
                " ".join(f"{mean:.4f}" for mean in means),
                "" if row is central else f"{row['mean'] - central['mean']:+.4f} ± {error:.4f}",
            )
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
