"""Several datasets as the natural sites of one federation.

Each set is a site. Findings have common words (:mod:`fedmed.data.vocabulary`); what a set does not
annotate is not known there. A set that is held out only tests: off-domain, for every client.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from hydra.utils import get_object
from numpy.typing import NDArray

from fedmed.core.errors import ConfigError
from fedmed.core.spelling import key
from fedmed.data.card import Card
from fedmed.data.table import ATTRIBUTES, COLUMNS, Aspect, Dataset, Hidden, Origin, validate


class Federation(Dataset):
    """Several datasets, each a site.

    Args:
        targets: what is learnt; each set must know at least one of them.
        size: see Dataset; it holds for every set.
        sets: the datasets by name, as components; their own targets, size and aspect do not count.
        held_out: the name of a set whose patients are all in the test split; None for no such set.
        aspect: see Dataset; it holds for every set.
    """

    def __init__(
        self,
        targets: Sequence[str],
        size: int,
        sets: Mapping[str, Mapping[str, Any]],
        held_out: str | None = None,
        aspect: Aspect = "squash",
    ) -> None:
        if held_out is not None and held_out not in sets:
            raise ConfigError(f"dataset.held_out: takes {', '.join(sets)}, got {held_out}")
        if len(sets) - (held_out is not None) < 1:
            raise ConfigError("dataset.sets: name at least one dataset that is not held out")
        self.held_out = held_out
        self.sets = {name: _member(name, given, targets, size) for name, given in sets.items()}
        self.card = _card(self.sets)
        self.distinct_ids = any(dataset.distinct_ids for dataset in self.sets.values())
        super().__init__(targets, size, aspect)

    def table(self) -> pd.DataFrame:
        """Return the sets' tables below each other; ``image`` is ``SET/image``.

        Raises:
            ConfigError: if two sets hold images of the same patients, who would be in two clients.
        """
        tables = {name: self._site(name, dataset) for name, dataset in self.sets.items()}
        for one, other in combinations(self.sets, 2):
            if self._share_patients(one, tables[one], other, tables[other]):
                raise ConfigError(
                    f"dataset.sets: {one} and {other} hold images of the same patients, "
                    "who would be in two places; name only one of them"
                )
        return pd.concat(tables.values(), ignore_index=True)

    def read(self, image: str) -> NDArray[np.uint8]:
        """Return an image's pixels from its set. Raises UnreadableImage."""
        name, _, own = image.partition("/")
        return self.sets[name].read(own)

    def has(self, image: str) -> bool:
        """Say whether an image's file is there."""
        name, _, own = image.partition("/")
        return self.sets[name].has(own)

    def recipe(self, images: Sequence[str]) -> dict[str, Any]:
        """Return the recipe of each set."""
        own: dict[str, list[str]] = {name: [] for name in self.sets}
        for image in images:
            name, _, rest = image.partition("/")
            own[name].append(rest)
        return {name: self.sets[name].recipe(rest) for name, rest in own.items()}

    def origin(self, image: str) -> Origin | None:
        """Return the file that an image of a set is read from."""
        name, _, own = image.partition("/")
        return self.sets[name].origin(own)

    def hidden(self, image: str) -> Hidden | None:
        """Return what noise hides of an image in its set."""
        name, _, own = image.partition("/")
        return self.sets[name].hidden(own)

    def caveats(self) -> list[str]:
        """Return those of the sets."""
        return [caveat for dataset in self.sets.values() for caveat in dataset.caveats()]

    def _share_patients(
        self, one: str, its: pd.DataFrame, other: str, others: pd.DataFrame
    ) -> bool:
        """Say whether two sets are known to share patients, by the prefixes of their ids."""
        a, b = ({*table["patient"].str.partition(":")[0].map(key)} for table in (its, others))
        known = self.sets[one].card.overlaps, self.sets[other].card.overlaps
        return bool(a & b or b & set(known[0]) or a & set(known[1]))

    def _site(self, name: str, dataset: Dataset) -> pd.DataFrame:
        table = validate(dataset.table(), dataset)
        table = table.assign(image=f"{name}/" + table["image"], site=name)
        if name == self.held_out:
            table = table.assign(split="test")
        return table.reindex(columns=[*COLUMNS, *self.card.findings])


def _member(name: str, given: Mapping[str, Any], targets: Sequence[str], size: int) -> Dataset:
    """Build a set for those of the targets that it knows."""
    kind = get_object(given["_target_"])
    arguments = {key: value for key, value in given.items() if key != "_target_"} | {"size": size}
    try:
        alone: Dataset = kind(**arguments)
        known = [t for t in targets if t in alone.card.findings or t in ATTRIBUTES]
        if not known:
            raise ConfigError(
                f"dataset.targets: holds none of {', '.join(targets)}; "
                f"takes {', '.join(alone.card.findings)}"
            )
        member: Dataset = kind(**(arguments | {"targets": known}))
    except ConfigError as error:  # which speaks of the set as of the whole dataset
        raise ConfigError(str(error).replace("dataset.", f"dataset.sets.{name}.", 1)) from None
    return member


def _card(sets: Mapping[str, Dataset]) -> Card:
    cards = [dataset.card for dataset in sets.values()]
    return Card(
        title=" + ".join(card.title for card in cards),
        findings=tuple(dict.fromkeys(finding for card in cards for finding in card.findings)),
        images=None,
        patients=None,
        licence="; ".join(f"{card.title}: {card.licence}" for card in cards),
        citation="; ".join(card.citation for card in cards),
        homepage=", ".join(card.homepage for card in cards),
        how_to_get="each set on its own home page",
    )
