"""Flower's arrays, encoded only where they leave the process.

Flower keeps an array as the bytes of a ``.npy`` file and decodes them at each use. A network has
hundreds of arrays that are used several times a round, so that took a tenth of a round.
"""

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from flwr.app import Array as FlowerArray
from flwr.app import ArrayRecord
from flwr.common.constant import SType
from numpy.typing import NDArray


class Array(FlowerArray):
    """A Flower array that holds the array itself, and encodes it when its bytes are asked for.

    It travels as Flower's own, which is why it has the same name.

    Args:
        values: what it holds; not to be changed afterwards.
    """

    _held: NDArray[Any]

    def __init__(self, values: NDArray[Any]) -> None:
        self.__dict__.update(
            dtype=_name(values.dtype), shape=values.shape, stype=SType.NUMPY, _held=values
        )

    def __reduce__(self) -> tuple[type["Array"], tuple[NDArray[Any]]]:
        return Array, (self._held,)

    @property
    def data(self) -> bytes:  # type: ignore[override]
        """The bytes of a ``.npy`` file."""
        return FlowerArray(self._held).data

    def numpy(self) -> NDArray[Any]:
        """Return a copy of the array."""
        return self._held.copy()


@lru_cache
def _name(dtype: np.dtype[Any]) -> str:
    return str(dtype)  # which takes as long as to copy a small array


def record_of(arrays: Mapping[str, NDArray[Any] | Array]) -> ArrayRecord:
    """Return a record of decoded arrays; Flower's own constructor would encode each."""
    record = ArrayRecord()
    for name, values in arrays.items():
        record[name] = values if isinstance(values, Array) else Array(np.asarray(values))
    return record


def size_of(record: ArrayRecord) -> int:
    """Return how many bytes the numbers of a record take."""
    return sum(math.prod(a.shape) * np.dtype(a.dtype).itemsize for a in record.values())
