"""The units of privacy: what a guarantee is to, one entry each, and nowhere else.

Whoever must tell units apart asks the entry. To add one is to write one entry here; that training
can protect it, that it is counted, accounted, audited and named in words follows from its fields.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from fedmed.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    import pandas as pd  # for types alone: the command is light until it has understood its words

Relation = Literal["zero-out-one", "replace-one"]
#: By how many clipping norms one unit moves a sum, at most.
SENSITIVITY: dict[Relation, int] = {"zero-out-one": 1, "replace-one": 2}


@dataclass(frozen=True)
class Unit:
    """A unit of privacy.

    Attributes:
        name: in ``privacy.unit``, the ledger and ``summary.json``.
        one: one of them in words, with its article.
        several: several of them in words.
        extent: how much one of them is: a ``part`` of what a patient has, all of a ``patient``, or
            a ``group`` of patients.
        relation: what two data sets that must look alike differ in: whether a unit counts or counts
            for nothing (``zero-out-one``: its presence is hidden), or which data it has
            (``replace-one``). A mechanism that promises another one says so in its events.
        rows: gives each row of a table of images a value, the same to those of one unit and by
            that row alone; None if private training cannot draw the unit: it is not made of rows.

    Raises:
        ValueError: if the rows of a group of patients are to be drawn: they may lie in several
            clients, whose ε would add up and not be the largest.
    """

    name: str
    one: str
    several: str
    extent: Literal["part", "patient", "group"]
    relation: Relation
    rows: Callable[["pd.DataFrame"], "pd.Series[Any]"] | None = None

    def __post_init__(self) -> None:
        if self.rows and self.extent == "group":
            raise ValueError(f"{self.name}: a group of patients cannot be drawn by a client")

    @property
    def hides_presence(self) -> bool:
        """Whether it is hidden that a unit counts at all, and not only what it shows."""
        return self.relation == "zero-out-one"

    def keys(self, table: "pd.DataFrame") -> "pd.Series[Any]":
        """Return which unit each row of a table of images is of.

        Args:
            table: one row an image, with a column ``patient``.

        Raises:
            DataError: if that is not known of a row, or a unit is of two patients, who may be two
                clients'.
        """
        assert self.rows is not None, f"{self.name} is not made of rows"
        keys = self.rows(table)
        if keys.isna().any():
            raise DataError(f"privacy.unit={self.name}: is not known of {keys.isna().sum()} images")
        if table[["patient"]].assign(unit=keys).drop_duplicates()["unit"].duplicated().any():
            raise DataError(f"privacy.unit={self.name}: one holds images of several patients")
        return keys


#: Whose presence is hidden, the smallest first, then what images show. A statement lists guarantees
#: in this order.
UNITS: dict[str, Unit] = {
    unit.name: unit
    for unit in (
        Unit(
            *("image", "an image", "images", "part", "zero-out-one"),
            rows=lambda table: table.index.to_series(),
        ),
        Unit(
            *("patient", "a patient", "patients", "patient", "zero-out-one"),
            rows=lambda table: table["patient"],
        ),
        Unit("client", "a client", "clients", "group", "zero-out-one"),
        Unit("content", "what an image shows", "pictures", "part", "replace-one"),
        Unit("detail", "some pixels of an image", "details", "part", "replace-one"),
    )
}


def named(name: str) -> Unit:
    """Return a unit by its name.

    Raises:
        ConfigError: if there is none of that name.
    """
    if name not in UNITS:
        raise ConfigError(f"unit of privacy: takes {', '.join(UNITS)}, got {name!r}")
    return UNITS[name]


def trainable() -> list[Unit]:
    """Return the units that private training can draw, the smallest first."""
    return [unit for unit in UNITS.values() if unit.rows]
