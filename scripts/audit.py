"""Audit a finished run: what an attacker finds in it, beside what it claims.

python scripts/audit.py RUN_DIR                          # bounds on ε, loss-threshold attack
python scripts/audit.py RUN_DIR --shadows runs/*         # LiRA too: +experiment=audit_lira

Writes RUN_DIR/audit.json and RUN_DIR/audit.png, and to wandb if the run did.
"""

import sys

sys.path.pop(0)  # this folder: for other packages, datasets is Hugging Face's

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fedmed.audit import findings, perform, report
from fedmed.audit.finished import Finished
from fedmed.audit.membership import FPRS
from fedmed.core.errors import FedmedError
from fedmed.core.terminal import tolerate
from fedmed.runs.tracking import Tracker

console = Console(highlight=False)


def main() -> None:
    """Read the command line and audit; exits with 1 if a claim is refuted, 2 on bad input."""
    tolerate()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN_DIR")
    parser.add_argument("--shadows", type=Path, nargs="+", default=[], metavar="DIR")
    parser.add_argument("--confidence", type=float, default=0.95, help="of the bounds on ε")
    arguments = parser.parse_args()
    try:
        if not 0.5 <= arguments.confidence < 1:
            raise FedmedError(f"--confidence: at least 0.5, below 1; got {arguments.confidence}")
        found = _audit(arguments.run, arguments.shadows, arguments.confidence)
    except FedmedError as error:
        print(f"fedmed: {error}", file=sys.stderr)
        sys.exit(2)
    _show(found)
    sys.exit(1 if findings.refuted(found) else 0)


def _audit(folder: Path, shadows: Sequence[Path], confidence: float) -> findings.Audit:
    run = Finished.open(folder)
    others = [p for p in shadows if p.is_dir() and p.resolve() != folder.resolve()]
    found = perform.audit(run, [Finished.open(path) for path in others], confidence)
    picture = report.write(found, folder)
    with Tracker(run.config, folder, run.summary["run_id"]) as tracker:
        tracker.log_audit(report.metrics(found), picture)
    return found


def _show(found: findings.Audit) -> None:
    console.print(report.statement(found), soft_wrap=True)
    bounds = Table("access", "one run", "f-DP", "independent", "ceiling", box=None, pad_edge=False)
    for access, b in found.bounds.items():
        values = (b.epsilon, b.gaussian, b.independent, b.ceiling)
        bounds.add_row(access, *(f"{value:.2f}" for value in values))
    if found.bounds:
        console.print(bounds)
    rates = [f"TPR at {fpr:.1%} FPR" for fpr in FPRS]
    attacks = Table("attack", "AUC", *rates, "members", "others", box=None, pad_edge=False)
    for name, a in found.attacks.items():
        tpr = (f"{a.tpr[fpr]:.3f}" for fpr in FPRS)
        attacks.add_row(name, f"{a.auc:.3f}", *tpr, str(a.members), str(a.others))
    console.print(attacks)
    for note in found.notes:
        console.print(f"· {note}", soft_wrap=True)


if __name__ == "__main__":
    main()
