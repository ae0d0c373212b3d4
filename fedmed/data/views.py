"""Which views of the chest are kept of datasets that hold several."""

from collections.abc import Sequence
from typing import Literal

import pandas as pd

from fedmed.core.errors import DataError

#: The views to keep; None keeps every image, also those whose view is not known.
Views = Sequence[Literal["PA", "AP", "LATERAL"]] | None


def keep(
    table: pd.DataFrame, views: Views, frontal: "pd.Series[bool] | None" = None
) -> pd.DataFrame:
    """Return the rows of a common table that show one of ``views``.

    Args:
        table: a common table.
        views: what to keep.
        frontal: for each row, whether it is known to be PA or AP though perhaps not which; such
            a row is kept with either.

    Raises:
        DataError: if no row is left.
    """
    if views is None:
        return table
    kept = table["view"].isin(views)
    if frontal is not None and not {"PA", "AP"}.isdisjoint(views):
        kept |= frontal & table["view"].isna()
    if not kept.any():
        raise DataError(f"dataset.views: none of {len(table):,} images is {' or '.join(views)}")
    return table[kept].reset_index(drop=True)
