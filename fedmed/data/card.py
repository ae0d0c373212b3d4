"""What is told of a dataset before it is there; needs nothing that reads one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from yaml import safe_load

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
        """
        told = safe_load((CARDS / f"{name}.yaml").read_text(encoding="utf-8"))
        lists = {key: tuple(told.get(key, ())) for key in ("findings", "overlaps")}
        return cls(**told | lists)


def cards() -> dict[str, Card]:
    """Return the cards of all datasets that are somebody's publication, by name."""
    return {path.stem: Card.load(path.stem) for path in sorted(CARDS.glob("*.yaml"))}
