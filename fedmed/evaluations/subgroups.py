"""How well subgroups of the test patients are served, each attribute and each pair on its own."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from fedmed.evaluation.subgroups import subgroups
from fedmed.runs.evaluations import Evaluation, Section

if TYPE_CHECKING:
    from fedmed.runs.run import Run

DEALS = 2000  # of the attributes: five times a run's own, so that a p of 0.001 can be told


class Subgroups(Evaluation):
    """The run's subgroups, with the finer p that a paper's table takes.

    A run tells of them at its end with 400 deals; the rule is the same, and so are the AUROCs.
    """

    name: ClassVar[str] = "subgroups"

    def __call__(self, run: "Run") -> Mapping[str, Any]:
        """Return what :func:`fedmed.evaluation.subgroups.subgroups` does, with :data:`DEALS`."""
        return subgroups(run.predictions, deals=DEALS)

    def section(self, result: Mapping[str, Any]) -> Section:
        """Return a row an attribute or pair: the worst group, the gap, and what chance makes."""
        rows = [
            (
                name,
                found["worst"],
                found["macro_auroc"].get(found["worst"]),
                found["gap"],
                found.get("chance"),
                found.get("p"),
            )
            for name, found in result["by"].items()
        ]
        return Section(
            "Subgroups of the test patients",
            f"Macro AUROC over the findings that count in all groups ({result['rule']}). By "
            "chance: the median gap when attributes are dealt anew; p: how often it is as wide.",
            ("by", "worst group", "its AUROC", "gap", "by chance", "p"),
            rows,
        )
