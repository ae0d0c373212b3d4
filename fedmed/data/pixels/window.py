"""What of a picture's range of values is shown: the window of a header, or one of percentiles."""

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fedmed.core.errors import UnreadableImage

#: The window of pictures that come without one, in percent of their pixels.
PERCENTILES = (0.5, 99.5)
#: Pixels a picture may have: six times the largest detector's, a fraction of a bomb's.
LARGEST = 100_000_000

Function = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]
FUNCTIONS = get_args(Function)
Floats = NDArray[np.float64]


def check_size(width: int, height: int) -> None:
    """Raise UnreadableImage if a picture is empty or too large to be decoded."""
    if width < 1 or height < 1:
        raise UnreadableImage("has no pixels")
    if width * height > LARGEST:
        raise UnreadableImage(
            f"claims {width:,}×{height:,} pixels; up to {LARGEST // 1_000_000} million are read"
        )


def check_levels(shown: NDArray[np.uint8]) -> None:
    """Raise UnreadableImage if there is one grey level, which no radiograph has, or no pixel."""
    if not shown.size or shown.min() == shown.max():
        raise UnreadableImage("comes out in one grey level")


def level(values: Floats, center: float, width: float, function: Function) -> Floats:
    """Return how bright values are under a window, 0 to 1 (DICOM PS3.3 C.11.2.1.2 and .3)."""
    if function == "SIGMOID":
        with np.errstate(
            over="ignore"
        ):  # far below the window, where 1 / inf is the 0 it should be
            return 1 / (1 + np.exp(-4 * (values - center) / width))
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    return between(values, center - width / 2, center + width / 2)


def between(values: Floats, low: float, high: float) -> Floats:
    """Return how bright values are, 0 up to ``low`` and 1 from ``high``; all 0 where they meet."""
    if high <= low:
        return (values > high).astype(np.float64)
    return np.clip((values - low) / (high - low), 0, 1)


def percentiles(values: Floats, counts: NDArray[np.int64]) -> tuple[float, float]:
    """Return the low and the high end of the window of a picture that comes without one.

    Args:
        values: what pixels may be.
        counts: how many of them are.

    Raises:
        UnreadableImage: if both ends are the same value, which nearly all pixels then have.
    """
    order = np.argsort(values, kind="stable")
    up_to = np.cumsum(counts[order])
    ends = (np.searchsorted(up_to, up_to[-1] * p / 100) for p in PERCENTILES)
    low, high = (float(values[order[end]]) for end in ends)
    if low == high:
        raise UnreadableImage("comes out in one grey level, but for a few pixels at most")
    return low, high


def to_uint8(brightness: Floats) -> NDArray[np.uint8]:
    """Return 0 to 1 as 0 to 255, rounded."""
    return np.rint(brightness * 255).astype(np.uint8)


def histogram(stored: NDArray[np.unsignedinteger[Any]]) -> NDArray[np.int64]:
    """Return how many pixels have each of the 65,536 values, a few rows at a time."""
    counts = np.zeros(1 << 16, np.int64)
    for row in range(0, len(stored), 256):
        counts += np.bincount(stored[row : row + 256].ravel(), minlength=1 << 16)
    return counts
