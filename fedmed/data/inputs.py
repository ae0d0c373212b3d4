"""What the input of a network is: grey levels of an image, or features of a table.

Whoever treats one otherwise than the other (the store, batches, augmentation) asks here.
"""

from dataclasses import dataclass
from typing import Any, Literal, Self, cast, get_args

from numpy.typing import NDArray

from fedmed.core.errors import DataError

Stored = Literal["uint8", "float32"]


@dataclass(frozen=True)
class InputSpec:
    """What the store holds of a row, and so what a network is given of it.

    Attributes:
        shape: of a row in the store: H×W grey levels, or F features.
        dtype: ``uint8``: grey levels, which a network is given as 1×H×W in [-1, 1], and which may
            be augmented; ``float32``: features, which it is given as they are.
    """

    shape: tuple[int, ...]
    dtype: Stored

    @property
    def is_image(self) -> bool:
        """Whether rows are images."""
        return self.dtype == "uint8"

    @classmethod
    def of(cls, rows: NDArray[Any]) -> Self:
        """Return what rows are that a store holds, N×H×W or N×F.

        Raises:
            DataError: if no store holds such.
        """
        kind = str(rows.dtype)
        if kind not in get_args(Stored):
            raise DataError(f"store: holds uint8 grey levels or float32 features, not {kind}")
        return cls(rows.shape[1:], cast(Stored, kind))
