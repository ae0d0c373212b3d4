"""What an audit found in a run, and whether it lies above what the run claims."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedmed.audit import one_run
from fedmed.audit.membership import Attack
from fedmed.audit.one_run import Bound
from fedmed.core.units import Unit, named
from fedmed.privacy.ledger import of_its_data

UPDATES, BLACK_BOX = "updates", "black box"


@dataclass(frozen=True)
class Scored:
    """Scores of some patients, higher where they seem to be members, and whether they are."""

    scores: one_run.Scores
    members: one_run.Members


@dataclass(frozen=True)
class Audit:
    """All that was found in a run.

    Attributes:
        claimed: the run's own statement of its privacy.
        bounds: lower bounds on ε by access: :data:`UPDATES`, :data:`BLACK_BOX`.
        canaries: the scores behind them.
        attacks: membership inference by method.
        attacked: the scores behind them.
        notes: what a reader must know.
    """

    claimed: Mapping[str, Any]
    bounds: Mapping[str, Bound]
    canaries: Mapping[str, Scored]
    attacks: Mapping[str, Attack]
    attacked: Mapping[str, Scored]
    notes: Sequence[str]


def present(spent: Mapping[str, Any]) -> Unit | None:
    """Return the unit whose presence a claim hides, which is what is audited; None if it is none.

    Args:
        spent: a run's statement of its privacy.
    """
    unit = named(spent["unit"]) if spent["unit"] else None
    return unit if unit and unit.hides_presence else None


def refuted(found: Audit) -> bool:
    """Say whether some lower bound lies above the claim, which must be of a patient or more."""
    unit = present(found.claimed)
    return unit is not None and unit.extent != "part" and above(found)


def above(found: Audit) -> bool:
    """Say whether some lower bound lies above the claim, whatever it is of."""
    claimed = claim(found)
    return claimed is not None and any(bound.epsilon > claimed for bound in found.bounds.values())


def claim(found: Audit) -> float | None:
    """Return the ε that the bounds may be set against, None if there is no finite one.

    A patient more or less changes which data a client has, and not whether it counts.
    """
    spent = found.claimed
    unit = present(spent)
    if unit is None:
        return None
    value = spent["epsilon"]
    if unit.extent == "group" and spent["neighbouring"] != "replace-one":
        value = implied_of_data(spent)
    return None if value is None or value == "inf" else float(value)


def implied_of_data(spent: Mapping[str, Any]) -> float | str | None:
    """Return the ε of which data the claim's unit has, None where none is implied."""
    implied = {other["of"]: other["epsilon"] for other in spent.get("implied", [])}
    unit = present(spent)
    return implied.get(of_its_data(unit)) if unit else None
