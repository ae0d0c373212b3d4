"""What leaves a hospital under differential privacy: images, label counts, the best round.

Images are pixelated (Fan, Image Pixelization with Differential Privacy, DBSec 2018): the mean of
each block of b×b pixels gets Laplace noise. Two images are neighbours if they differ, by whatever
amount, in at most m pixels. A pixel is between 0 and 255, so it moves its block's mean by at most
255/b², and m of them all the means together by at most Δ₁ = 255·m/b². That bound is of every
image, whatever it shows; it needs no look at any.

With m as many as an image has, what is hidden is the image: any other may have been released.
With fewer it is a detail of m pixels, and *not* the image, let alone the patient.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
from hydra.utils import get_object
from numpy.typing import NDArray
from pydantic import Field

from fedmed.config import Config
from fedmed.core.errors import ConfigError
from fedmed.core.seeding import fingerprint, generator
from fedmed.core.units import named
from fedmed.data.pixels import fit
from fedmed.data.table import Dataset, Hidden, Origin, labels
from fedmed.privacy.disclosure import Disclosure
from fedmed.privacy.mechanisms import geometric, laplace, report_noisy_max

WHITE = 255
PATIENTS = "patients"  # the column of patient_counts that is no target
Positive = Annotated[int, Field(ge=1)]


def pixelate(
    image: NDArray[np.uint8], block: int, epsilon: float, rng: np.random.Generator, changed: int
) -> NDArray[np.uint8]:
    """Return an image whose blocks have their noisy mean: (ε, 0)-private, see above.

    Args:
        image: H×W, both multiples of ``block``.
        block: b, the side of a block in pixels.
        epsilon: of this one release of this one image.
        rng: where the noise comes from.
        changed: m, in how many pixels two neighbouring images differ.
    """
    height, width = image.shape
    means = image.reshape(height // block, block, width // block, block).mean(axis=(1, 3))
    noisy = laplace(means, WHITE * changed / block**2, epsilon, rng)
    coarse = noisy.round().clip(0, WHITE).astype(np.uint8)
    return coarse.repeat(block, axis=0).repeat(block, axis=1)


class Released(Dataset):
    """Another dataset, of which only what :func:`pixelate` makes of its images is seen.

    The noise of an image is always the same: the release is made once, and all runs use it. Labels
    and all else in the table are not protected.

    Args:
        targets: see Dataset.
        size: see Dataset; images are released at this size.
        of: the dataset, as a component; its own targets and size do not count.
        epsilon: of each image's release; a patient's is the sum over its images.
        block: b, the side of a block in pixels; it divides ``size``.
        pixels: m, in how many pixels two neighbouring images differ; None: in any number.
        images_per_patient: how many images of a patient are released, the first ones; None: all.
        seed: of the noise.
    """

    def __init__(
        self,
        targets: Sequence[str],
        size: int,
        of: Mapping[str, Any],
        epsilon: Annotated[float, Field(gt=0)],
        block: Positive,
        pixels: Positive | None = None,
        images_per_patient: Positive | None = None,
        seed: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        if size % block:
            raise ConfigError(f"dataset.block: must divide dataset.size ({size}), got {block}")
        if pixels is not None and pixels > size**2:
            raise ConfigError(f"dataset.pixels: an image has {size**2}, got {pixels}; null: all")
        arguments = {key: value for key, value in of.items() if key != "_target_"}
        shared = {"targets": targets, "size": size}
        self.of: Dataset = get_object(of["_target_"])(**(arguments | shared))
        self.card = self.of.card
        self.distinct_ids = self.of.distinct_ids
        super().__init__(targets, size, self.of.aspect)
        self.epsilon = epsilon
        self.block = block
        self.pixels = pixels
        self.images_per_patient = images_per_patient
        self.seed = seed

    def table(self) -> pd.DataFrame:
        """Return the table, of each patient as many images as are released."""
        table = self.of.table()
        if self.images_per_patient is None:
            return table
        return table.groupby("patient").head(self.images_per_patient).reset_index(drop=True)

    def read(self, image: str) -> NDArray[np.uint8]:
        """Return an image as it is released, size×size. Raises UnreadableImage."""
        fitted = fit(self.of.read(image), self.size, self.aspect)
        # Two releases with the same draws and other scales, or of a file that has been edited in
        # between, would add up to the image or to what has changed in it.
        key = (self.card.title, image, self.size, repr(self._noise()), fingerprint(fitted))
        rng = generator(self.seed, "release", *key)
        return pixelate(fitted, self.block, self.epsilon, rng, self.pixels or self.size**2)

    def recipe(self, images: Sequence[str]) -> dict[str, Any]:
        """Return the recipe of the dataset and that of the noise."""
        return {"of": self.of.recipe(images), "noise": self._noise(), "seed": self.seed}

    def has(self, image: str) -> bool:
        """Say whether an image's file is there."""
        return self.of.has(image)

    def origin(self, image: str) -> Origin | None:
        """Return the file that an image is read from."""
        return self.of.origin(image)

    def hidden(self, image: str) -> Hidden:
        """Return what the release hides of an image: all that it shows, or a detail."""
        if self.pixels is None:
            return Hidden("content", self.epsilon, self.size**2)
        return Hidden("detail", self.epsilon, self.pixels)

    def caveats(self) -> list[str]:
        """Return those of the dataset, and what the release hides."""
        hides = "the image" if self.pixels is None else f"{self.pixels} pixels of it, not the image"
        times = self.images_per_patient or "the number of its images"
        return [
            *self.of.caveats(),
            f"{self.card.title}: each image is released once with ε = {self.epsilon:g}, which "
            f"hides {hides}; a patient's ε is that times {times}",
        ]

    def _noise(self) -> dict[str, float | int | None]:
        return {"epsilon": self.epsilon, "block": self.block, "pixels": self.pixels}


def patient_counts(
    table: pd.DataFrame,
    assigned: pd.DataFrame,
    targets: Sequence[str],
    epsilon: float,
    seed: int,
) -> pd.DataFrame:
    """Return who has what, so that it may be shown: (ε, 0)-private for each patient.

    Patients are counted, not images: a patient adds 1 to its client's number of patients and at
    most 1 to the number with each of T targets, whatever its images. One patient more or less
    therefore changes the T + 1 counts of one client by at most 1 each, Δ₁ = T + 1, and those of
    no other client, so that the whole table costs ε once. The number of clients is public, and
    who is whose depends on nobody else, as in hospitals.

    Args:
        table: one row an image.
        assigned: columns ``patient`` and ``client``; -1, the test patients, are not counted.
        targets: the columns that are counted.
        epsilon: of the whole table.
        seed: of the noise, which is that of these patients, labels and clients alone.

    Returns:
        One row a client: ``client``, ``patients`` and each target, whole numbers from 0.
    """
    rows = table[["patient"]].assign(**dict.fromkeys(targets, False))
    rows[list(targets)] = labels(table, targets) == 1
    positive = rows.groupby("patient").any().assign(**{PATIENTS: True})
    of_patient = assigned[assigned["client"] >= 0].set_index("patient")["client"]
    columns = [PATIENTS, *targets]
    counted = positive.join(of_patient, how="inner").sort_index()
    counts = counted.groupby("client")[columns].sum()
    counts = counts.reindex(range(int(assigned["client"].max()) + 1), fill_value=0)
    who = (counted.index.astype(str), counted["client"].to_numpy(), counted[columns].to_numpy(bool))
    rng = generator(seed, "label counts", fingerprint(*who, columns))
    noisy = geometric(counts.to_numpy(), len(columns), epsilon, rng)
    released = pd.DataFrame(noisy.clip(min=0), columns=columns)  # to cut what is impossible is free
    return released.rename_axis("client").reset_index()


def utility(
    scores: NDArray[np.float32], truth: NDArray[np.float32], patients: Sequence[str]
) -> float:
    """Return how well patients are served: the sum over them of 1 - Brier score.

    A patient's Brier score is the mean of (label - probability)² over the known labels of all its
    images, so it lies between 0 and 1. One patient more adds between 0 and 1 to the sum: its
    sensitivity is 1, it is monotonic, and sums of several clients are so too. No such bound holds
    for AUROC, which one patient can move by any amount if there are few.

    Args:
        scores: probabilities, N×T.
        truth: labels, N×T; NaN where not known.
        patients: whose image each row is.
    """
    errors = pd.DataFrame(np.square(truth - scores)).groupby(np.asarray(patients))
    mean = errors.sum().sum(axis=1) / errors.count().sum(axis=1)
    return float((1 - mean).sum())  # a patient without any known label adds nothing


class Release(NamedTuple):
    """Something that was released.

    Attributes:
        what: it is.
        epsilon: of (ε, 0), None if it was not released.
        whom: the ε is of.
        result: the value, or the file that holds it.
    """

    what: str
    epsilon: float | None
    whom: str
    result: int | str | None

    def __str__(self) -> str:
        if self.epsilon is None:
            return f"{self.what}: not released, to {self.whom}"
        return f"{self.what}: {self.result}, with ε = {self.epsilon:g} for {self.whom}"


def unreleasable(config: Config, utilities: pd.Series) -> str:
    """Return why no round can be chosen by the utilities that clients told; empty if one can."""
    if not Disclosure.of(config).validation:
        return "clients keep their validation scores (privacy.release_metrics=false)"
    return "" if len(utilities) else "no client has patients for validation"


def promised_by_training(claimed: Mapping[str, Any]) -> str:
    """Return what a choice among a run's models costs those whom it was trained on.

    Args:
        claimed: the run's statement of its privacy.
    """
    if claimed["unit"] is None or not named(claimed["unit"]).hides_presence:
        return "whoever is trained on is promised nothing, as the run adds no noise to training"
    spent = claimed["epsilon"]
    shown = "∞" if isinstance(spent, str) else f"{spent:.3g}"
    return (
        f"whoever is trained on is promised no more than by the run (unit {claimed['unit']}, "
        f"ε = {shown}, δ = {claimed['delta']:g}), and pays nothing more"
    )


def best_round(utilities: pd.Series, epsilon: float, rng: np.random.Generator) -> int:
    """Return a good round: (ε, 0)-private for each validation patient, and for nobody else.

    Whoever was trained on has moved the models of all rounds, and so every utility by more than 1.
    What protects them is the noise of training, if there was any: of what that has released, the
    choice is post-processing.

    Args:
        utilities: by round, :func:`utility` over all validation patients.
        epsilon: of the choice.
        rng: where the noise comes from.
    """
    chosen = report_noisy_max(utilities.to_numpy(np.float64), 1.0, epsilon, rng, monotonic=True)
    return int(utilities.index[chosen])
