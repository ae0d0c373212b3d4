"""Audit a finished run: what an attacker finds in it, beside what it claims.

fedmed audit RUN_DIR                          # bounds on ε, loss-threshold attack
fedmed audit RUN_DIR --shadows runs/*         # LiRA too: +experiment=audit_lira

Writes RUN_DIR/evaluations/audit.json and RUN_DIR/audit.png, and to wandb if the run did.
"""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedmed.cli.arguments import new_parser
from fedmed.core.errors import FedmedError

if TYPE_CHECKING:
    from fedmed.audit.findings import Audit


def parser() -> ArgumentParser:
    """Return what reads the arguments."""
    parser = new_parser("audit", __doc__)
    parser.add_argument("run", type=Path, metavar="RUN_DIR")
    parser.add_argument("--shadows", type=Path, nargs="+", default=[], metavar="DIR")
    parser.add_argument("--confidence", type=float, default=0.95, help="of the bounds on ε")
    return parser


def main(argv: Sequence[str]) -> int:
    """Audit a run, and return 1 if what it claims is refuted, else 0."""
    arguments = parser().parse_args(argv)
    if not 0.5 <= arguments.confidence < 1:
        raise FedmedError(f"--confidence: at least 0.5, below 1; got {arguments.confidence}")
    from fedmed.audit.findings import refuted

    found = _audit(arguments.run, arguments.shadows, arguments.confidence)
    _show(found)
    return 1 if refuted(found) else 0


def _audit(folder: Path, shadows: Sequence[Path], confidence: float) -> "Audit":
    from fedmed.audit import report
    from fedmed.audit.finished import Finished
    from fedmed.runs.evaluations import evaluate
    from fedmed.runs.run import Run
    from fedmed.runs.tracking import Tracker

    run = Finished.open(folder)
    others = [p for p in shadows if p.is_dir() and p.resolve() != folder.resolve()]
    audit = report.PrivacyAudit(others, confidence)
    evaluate(audit, Run(folder))
    with Tracker(run.config, folder, run.summary["run_id"]) as tracker:
        tracker.log_audit(report.metrics(audit.found), folder / report.PICTURE)
    return audit.found


def _show(found: "Audit") -> None:
    from rich.console import Console
    from rich.table import Table

    from fedmed.audit import report
    from fedmed.audit.membership import FPRS

    console = Console(highlight=False)
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
