"""What the pixels themselves release, where they are seen behind noise only.

Two federations are neighbours if they differ in what the images of one patient show: another
picture in place of each (unit ``content``), or another one in some of its pixels (``detail``). Who
takes part, with how many images and which labels, is the same in both and not hidden: the relation
replaces what a patient shows and removes nobody, so that this ε is comparable with no other unit's.
Whatever is trained on the noisy pixels is post-processing and costs nothing more.
"""

from collections.abc import Iterable

import pandas as pd

from fedmed.core.units import named
from fedmed.data.table import Dataset, Hidden
from fedmed.privacy.events import Event


def pixel_releases(dataset: Dataset, table: pd.DataFrame, assigned: pd.DataFrame) -> list[Event]:
    """Return, of each client, the release of the images of its worst patient; none without noise.

    Each of a patient's images is a release, and their ε add up. A client with a single patient
    whose images are seen as they are has an infinite ε.

    Args:
        dataset: which says what is hidden of each image.
        table: one row an image that was decoded.
        assigned: columns ``patient`` and ``client``; -1, the test patients, are public.
    """
    rows = table.merge(assigned[assigned["client"] >= 0], on="patient")
    hidden = [dataset.hidden(image) for image in rows["image"]]
    events = []
    for unit in sorted({one.unit for one in hidden if one}):
        rows["loss"] = [_loss(one, unit) for one in hidden]
        patients = rows.groupby(["client", "patient"])["loss"].agg(["sum", "size"]).reset_index()
        worst = patients.loc[patients.groupby("client")["sum"].idxmax()]
        events += [
            Event(
                round=0,
                unit=unit,
                noise_multiplier=float(row["size"] / row["sum"]),
                rate=1.0,
                mechanism="laplace",
                neighbouring=named(unit).relation,
                client=int(row["client"]),
                steps=int(row["size"]),
            )
            for _, row in worst.iterrows()
        ]
    return events


def pixel_assumptions(dataset: Dataset, images: Iterable[str]) -> tuple[str, ...]:
    """Return what the guarantees of :func:`pixel_releases` rest on; nothing without noise."""
    hidden = {one for one in map(dataset.hidden, images) if one}
    if not hidden:
        return ()
    details = sorted({one.pixels for one in hidden if one.unit == "detail"})
    said = [
        "of noisy images: what they show is hidden; who takes part, with how many images and "
        "which labels, is public",
        "the noise of the images comes from dataset.seed: whoever knows it can subtract it; all "
        "runs with that seed use the same release, which counts once",
    ]
    return (
        *said,
        *(f"a detail is at most {m} pixels of each image; the rest is not hidden" for m in details),
    )


def _loss(hidden: Hidden | None, unit: str) -> float:
    return hidden.epsilon if hidden and hidden.unit == unit else float("inf")
