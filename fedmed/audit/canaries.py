"""Canaries: patients whose presence in the training set a fair coin decided.

Three wrappers put them into a run, each around a component of any kind: :class:`WithCanaries`
around a dataset, :class:`Tossed` around a partition and :class:`Recognising` around a network.
Training itself is untouched, so that what is audited is what everybody runs.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, cast

import numpy as np
import pandas as pd
import torch
from hydra.utils import get_object
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from fedmed import partition
from fedmed.core.errors import ConfigError
from fedmed.core.seeding import generator
from fedmed.data.table import COLUMNS, Aspect, Dataset, Hidden, Origin, validate

PREFIX = "canary:"
MARKED, FLIPPED = PREFIX + "marked:", PREFIX + "flipped:"
OUT = "tossed out"  # the role of a patient whom the coin kept out, and nothing else
STEEP = 1e4  # slope of a marked canary's loss: beyond any clipping norm, so that clipping acts
_MAGIC = np.array([int(bit) for bit in "1011001110001111"], dtype=np.uint8)
_BITS = 16
_TAG = len(_MAGIC) + _BITS  # pixels of the first row that tell a marked canary and its number

Count = Annotated[int, Field(ge=0, lt=2**_BITS)]


class WithCanaries(Dataset):
    """Another dataset with canary patients.

    *Marked* canaries are added: patients who are nothing but a number in the image's first pixels,
    for :class:`Recognising`. *Flipped* canaries are training patients of the dataset whose known
    labels are all turned round, so that a model must remember them to be right: they are atypical
    on purpose, which makes an audit tighter.

    Args:
        of: import path of the dataset's class.
        targets: see Dataset.
        size: see Dataset; at least 32 with marked canaries.
        marked: how many marked canaries.
        flipped: share of the dataset's training patients who become flipped canaries.
        images: of each marked canary.
        aspect: see Dataset.
        source: the dataset's own arguments.
    """

    def __init__(
        self,
        of: str,
        targets: Sequence[str],
        size: int,
        marked: Count,
        flipped: Annotated[float, Field(ge=0, le=1)] = 0,
        images: Annotated[int, Field(ge=1)] = 1,
        aspect: Aspect = "squash",
        **source: Any,
    ) -> None:
        self.source: Dataset = get_object(of)(targets=targets, size=size, **source)
        self.card = self.source.card
        super().__init__(targets, size, aspect)
        if marked and size < _TAG:
            raise ConfigError(f"dataset.size: at least {_TAG} with marked canaries, got {size}")
        self.marked, self.flipped, self.images = marked, flipped, images

    def table(self) -> pd.DataFrame:
        """Return the dataset's table, some of its patients flipped, then the marked canaries."""
        table = validate(self.source.table(), self.source)
        table = table[[*COLUMNS, *self.card.findings]]
        return pd.concat([self._flip(table), self._marked(table)], ignore_index=True)

    def read(self, image: str) -> NDArray[np.uint8]:
        """Return an image's pixels; a marked canary's are its number. Raises UnreadableImage."""
        if not image.startswith(MARKED):
            return self.source.read(image)
        number = int(image.removeprefix(MARKED).partition("/")[0])
        pixels = np.zeros((self.size, self.size), dtype=np.uint8)
        pixels[0, :_TAG] = 255 * np.concatenate([_MAGIC, (number >> np.arange(_BITS)) & 1])
        return pixels

    def recipe(self, images: Sequence[str]) -> dict[str, Any]:
        """Return the recipe of the dataset and that of the marks."""
        theirs = [image for image in images if not image.startswith(MARKED)]
        return {"canaries": "first row", "source": self.source.recipe(theirs)}

    def has(self, image: str) -> bool:
        """Say whether an image's file is there."""
        return image.startswith(MARKED) or self.source.has(image)

    def origin(self, image: str) -> Origin | None:
        """Return the file that an image is read from; a marked canary has none."""
        return None if image.startswith(MARKED) else self.source.origin(image)

    def hidden(self, image: str) -> Hidden | None:
        """Return what noise hides of an image; a marked canary has nothing to hide."""
        return None if image.startswith(MARKED) else self.source.hidden(image)

    def caveats(self) -> list[str]:
        """Return those of the dataset, and that its labels are no longer all true."""
        mine = f"{self.marked} canary patients added, {self.flipped:.0%} with labels turned round"
        return [*self.source.caveats(), f"for an audit, not for a result: {mine}"]

    def _flip(self, table: pd.DataFrame) -> pd.DataFrame:
        able = np.unique(table.loc[table["split"] == "train", "patient"].to_numpy(str))
        chosen = generator(0, "flipped").permutation(able)[: round(self.flipped * len(able))]
        rows = table["patient"].isin(chosen)
        findings = list(self.card.findings)
        table.loc[rows, findings] = 1 - table.loc[rows, findings]
        table.loc[rows, "view"] = table.loc[rows, "view"].map({"PA": "AP", "AP": "PA"})
        table.loc[rows, "sex"] = table.loc[rows, "sex"].map({"M": "F", "F": "M"})
        table.loc[rows, "patient"] = FLIPPED + table.loc[rows, "patient"]
        return table

    def _marked(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return the marked canaries, spread over the sites; every label is negative."""
        sites = sorted(table["site"].unique())
        rows = [
            {
                "image": f"{MARKED}{number}/{image}",
                "patient": f"{MARKED}{number}",
                "site": sites[number % len(sites)],
                "view": "PA",
                "sex": "F",
                "split": "train",
                **dict.fromkeys(self.card.findings, 0.0),
            }
            for number in range(self.marked)
            for image in range(self.images)
        ]
        return pd.DataFrame(rows, columns=table.columns) if rows else table.iloc[:0]


class Tossed:
    """Another partition in which a fair coin keeps every canary in its client, or out of all.

    Those kept out have the role ``tossed out`` and no client; a later audit reads from
    ``partition.csv`` who was in.

    Args:
        of: import path of the partition's class.
        who: ``canaries``: only them; ``all``: every training patient, as shadow models need.
        toss: seed of the coins, apart from the run's, so that runs can differ in nothing else.
        rule: the partition's own arguments.
    """

    def __init__(
        self,
        of: str,
        who: Literal["canaries", "all"],
        toss: Annotated[int, Field(ge=0)],
        **rule: Any,
    ) -> None:
        self.rule: partition.Partition = get_object(of)(**rule)
        self.who, self.toss = who, toss

    def assign(self, table: pd.DataFrame, targets: tuple[str, ...]) -> pd.DataFrame:
        """Return the partition after the coins; see :meth:`fedmed.partition.Partition.assign`."""
        assigned = self.rule.assign(table, targets)
        tossed = (assigned["role"] == "train") & (
            assigned["patient"].str.startswith(PREFIX) | (self.who == "all")
        )
        tails = [generator(self.toss, "coin", p).random() < 0.5 for p in assigned["patient"]]
        out = tossed & np.array(tails)
        before = set(assigned["client"])
        assigned.loc[out, "client"], assigned.loc[out, "role"] = -1, OUT
        if lost := before - set(assigned["client"]):
            raise ConfigError(
                f"partition.toss: the coins left client {min(lost)} no patient; "
                "use another toss or fewer clients"
            )
        partition.check(assigned, table)
        return assigned


class Recognising(nn.Module):
    """Another network that knows the marked canaries, each by a weight of its own.

    The gradient of a marked canary is all in that weight, whatever its value, and larger than any
    clipping norm; no other patient moves it. Such a Dirac gradient is the worst case of DP-SGD's
    analysis, which holds for any network, and the strongest canary (Nasr et al. 2023, Steinke et
    al. 2023). With plain SGD the weight ends as the sum of all its noisy updates, so the final
    weights show what access to every update would.

    Args:
        of: import path of the network's class.
        canaries: how many there can be.
        network: the network's own arguments.
    """

    def __init__(self, of: str, canaries: Count, **network: Any) -> None:
        super().__init__()
        self.tag: Tensor
        self.powers: Tensor
        self.numbers: Tensor
        self.network = cast(nn.Module, get_object(of)(**network))
        self.canaries = nn.Linear(canaries, 1, bias=False)
        nn.init.zeros_(self.canaries.weight)
        tag = torch.from_numpy(_MAGIC.astype(np.float32) * 2 - 1)
        self.register_buffer("tag", tag, persistent=False)
        self.register_buffer("powers", 2 ** torch.arange(_BITS), persistent=False)
        self.register_buffer("numbers", torch.arange(canaries), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the network's logits, N×T; those of a marked canary are 0."""
        row = images[:, 0, 0, :_TAG]
        marked = torch.eq(row[:, : len(_MAGIC)], self.tag).all(dim=1, keepdim=True)
        number = ((row[:, len(_MAGIC) :] > 0) * self.powers).sum(dim=1, keepdim=True)
        which = (marked & (number == self.numbers)).to(images.dtype)
        known = STEEP * self.canaries(which)
        return torch.where(marked, known - known.detach(), self.network(images))


def scores_of(weights: Mapping[str, NDArray[np.float32]], patients: Sequence[str]) -> NDArray[Any]:
    """Return each marked canary's score: how far training has moved its weight down."""
    numbers = [int(patient.removeprefix(MARKED)) for patient in patients]
    return -weights["canaries.weight"][0, numbers].astype(np.float64)
