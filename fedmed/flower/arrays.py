"""Flower's arrays, encoded only where they leave the process.

Flower keeps an array as the bytes of a ``.npy`` file and decodes them at each use. A network has
hundreds of arrays that are used several times a round, so that took a tenth of a round.
"""

from collections.abc import Mapping
from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
from flwr.app import Array as FlowerArray
from flwr.app import ArrayRecord
from flwr.common.constant import SType
from numpy.typing import NDArray

HEADER = 1 << 16  # bytes to look for the header of a .npy file in; those of numbers take 128


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


def record_of(arrays: Mapping[str, NDArray[Any] | FlowerArray]) -> ArrayRecord:
    """Return a record of decoded arrays; Flower's own constructor would encode each."""
    record = ArrayRecord()
    for name, values in arrays.items():
        record[name] = values if isinstance(values, FlowerArray) else Array(np.asarray(values))
    return record


def size_of(record: ArrayRecord) -> int:
    """Return how many bytes the numbers of a record take, whatever it says of them."""
    return sum(_size(array) for array in record.values())


class Undecodable(ValueError):
    """An array whose bytes are not what they are said to be."""


def decoded(array: FlowerArray) -> NDArray[Any]:
    """Return what a received array holds, not to be changed.

    Nothing is unpickled, and no more memory is asked for than the bytes take that are there,
    whatever their header claims.

    Raises:
        Undecodable: if they are no ``.npy`` file of numbers, of the declared type and shape.
    """
    if isinstance(array, Array):
        return array._held
    if array.stype != SType.NUMPY:
        raise Undecodable("is of a kind that NumPy does not read")
    try:
        shape, fortran, dtype, start = _header(array.data)
    except Exception:  # of a file that is made to break its reader, anything may come
        raise Undecodable("is no .npy file") from None
    if dtype.hasobject or (str(dtype), shape) != (array.dtype, tuple(array.shape)):
        raise Undecodable("holds other than it says")
    count, size = len(array.data) - start, dtype.itemsize
    for length in shape:
        size *= length
    if min(shape, default=0) < 0 or count != size:
        raise Undecodable(f"has {count} bytes, where its shape takes {size}")
    return np.ndarray(shape, dtype, array.data, start, order="F" if fortran else "C")


def _size(array: FlowerArray) -> int:
    if isinstance(array, Array):
        return array._held.nbytes
    try:
        return len(array.data) - _header(array.data)[3]
    except Exception:
        return len(array.data)


def _header(data: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Return shape, order, type and length of the header of a ``.npy`` file."""
    file = BytesIO(data[:HEADER])
    one = np.lib.format.read_magic(file) == (1, 0)
    read = np.lib.format.read_array_header_1_0 if one else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    return shape, fortran, dtype, file.tell()
