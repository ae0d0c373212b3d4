"""What an audit found in a run, and whether it lies above what the run claims."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedmed.audit import one_run
from fedmed.audit.membership import Attack
from fedmed.audit.one_run import Bound
from fedmed.privacy.ledger import OF_ITS_DATA

#: Units whose presence is hidden, which is what is audited.
PRESENCE = {"image", "patient", "client"}
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


def refuted(found: Audit) -> bool:
    """Say whether some lower bound lies above the claim, which must be of more than an image."""
    return found.claimed["unit"] in PRESENCE - {"image"} and above(found)


def above(found: Audit) -> bool:
    """Say whether some lower bound lies above the claim, whatever it is of."""
    claimed = claim(found)
    return claimed is not None and any(bound.epsilon > claimed for bound in found.bounds.values())


def claim(found: Audit) -> float | None:
    """Return the ε that the bounds may be set against, None if there is no finite one.

    A patient more or less changes which data a client has, and not whether it counts.
    """
    spent = found.claimed
    if spent["unit"] not in PRESENCE:
        return None
    value = spent["epsilon"]
    if spent["unit"] == "client" and spent["neighbouring"] != "replace-one":
        value = of_its_data(spent)
    return None if value is None or value == "inf" else float(value)


def of_its_data(spent: Mapping[str, Any]) -> float | str | None:
    """Return the ε of which data a client has, None where none is implied."""
    implied = {other["of"]: other["epsilon"] for other in spent.get("implied", [])}
    return implied.get(OF_ITS_DATA)
