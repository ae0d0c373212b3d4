"""What is told of a dataset before it is there; needs nothing that reads one."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Self

from yaml import YAMLError, safe_load

from fedmed.core.errors import DataError

CARDS = Path(__file__).parent.parent / "datasets" / "cards"


@dataclass(frozen=True)
class Card:
    """What a dataset is, whose it is and on which terms.

    Attributes:
        title: what it is called.
        findings: the label columns of its table, in the words of :mod:`fedmed.data.vocabulary`.
        images, patients: how many its publisher counts, None where that is not published.
        licence, citation, homepage, how_to_get: for who wants to use it.
        caveat: what a user must know before believing a result on it, such as absent patient ids.
        overlaps: the prefixes of the patient ids of datasets that hold images of the same patients.
        md5: checksums of files below the root, where they are published.
    """

    title: str
    findings: tuple[str, ...]
    images: int | None
    patients: int | None
    licence: str
    citation: str
    homepage: str
    how_to_get: str
    caveat: str = ""
    overlaps: tuple[str, ...] = ()
    md5: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, name: str) -> Self:
        """Return the card of a dataset of fedmed's.

        Args:
            name: of its file in ``datasets/cards``, which is its name in the configuration too.

        Raises:
            DataError: if there is no such file, or it lacks a field, or has one that no card has.
        """
        path = CARDS / f"{name}.yaml"
        try:
            told = dict(safe_load(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, YAMLError):
            raise DataError(f"{path}: is no card, or is not there") from None
        takes = {one.name: one.default is MISSING is one.default_factory for one in fields(cls)}
        for what, names in (
            ("is missing", [key for key, needed in takes.items() if needed and key not in told]),
            ("is no field of a card", [key for key in told if key not in takes]),
        ):
            if names:
                raise DataError(f"{path}: {names[0]} {what} ({len(names)} such)")
        lists = {key: tuple(told.get(key, ())) for key in ("findings", "overlaps")}
        return cls(**told | lists)


def cards() -> dict[str, Card]:
    """Return the cards of all datasets that are somebody's publication, by name."""
    return {path.stem: Card.load(path.stem) for path in sorted(CARDS.glob("*.yaml"))}
