"""From stored bits to what is seen, as DICOM has it (PS3.3 C.7.6.3, C.11.1, C.11.2).

A cell has at most 16 bits, so what becomes of each of its patterns is worked out once, not for each
pixel.

pydicom 3.0.2 has functions for all of it, which were tried in place of these: of the 64 files of
``tests/test_pixels_matrix.py`` 29 were then not shown as the standard and dcmtk have it. Its
modality LUT takes no entries of 10 to 15 bits; its VOI LUT neither two entries of 8 bits in a word
nor a negative first value that is written unsigned, as makers do where a rescale makes values
negative. Its windows are right, and come as stored values, which would be scaled back.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from fedmed.core.errors import UnreadableImage
from fedmed.data.pixels import window

SHAPES = {"MONOCHROME1": "INVERSE", "MONOCHROME2": "IDENTITY"}  # PS3.3 C.8.11.3
TRANSFORMS = ("PixelValueTransformationSequence", "FrameVOILUTSequence")
WORD = 1 << 16
Integers = NDArray[np.int64]
Values = NDArray[np.float64]


def shown(header: Dataset, patterns: NDArray[np.unsignedinteger[Any]]) -> NDArray[np.uint8]:
    """Return pixels as they are shown, H×W, dark is air.

    Stored values pass the modality LUT or rescale; then the first VOI LUT, the first window or,
    where there is neither, a window of percentiles; then MONOCHROME1 is inverted. Padding is black.

    Args:
        header: of the file.
        patterns: H×W, the bits of each pixel's cell.

    Raises:
        UnreadableImage: if the header contradicts itself, or one grey level is all there is to see.
    """
    _check(header)
    stored = _stored(header, 8 * patterns.itemsize)
    padding = _padding(header, stored)
    values = _modality(header, stored)
    luts, given = header.get("VOILUTSequence"), _window(header)
    if luts:
        entries = _lut(luts[0], values, _little(header))
        # As many bits as are used: makers claim the 16 of their variables, whatever they hold.
        brightness = entries / ((1 << max(8, int(entries.max()).bit_length())) - 1)
    elif given:
        brightness = window.level(values, *given)
    else:
        counts = np.where(padding, 0, window.histogram(patterns)[: len(stored)])
        brightness = window.between(values, *window.percentiles(values, counts))
    if np.isnan(brightness).any():
        raise UnreadableImage("its header's numbers leave what computers can hold")
    if header.PhotometricInterpretation == "MONOCHROME1":
        brightness = 1 - brightness
    levels = window.to_uint8(np.where(padding, 0, np.clip(brightness, 0, 1)))
    pixels = np.take(levels, patterns)
    window.check_levels(pixels[~padding[patterns]] if padding.any() else pixels)
    return pixels


def _check(header: Dataset) -> None:
    """Refuse what decoders show in different ways, or keep where this room does not look."""
    shape = header.get("PresentationLUTShape")
    if shape and shape != SHAPES[header.PhotometricInterpretation]:
        raise UnreadableImage("its presentation LUT shape contradicts MONOCHROME1 or MONOCHROME2")
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in header.get(groups) or ():
            if any(transform in group for transform in TRANSFORMS):
                raise UnreadableImage("says in functional groups, not read, how it is shown")


def _stored(header: Dataset, cell: int) -> Integers:
    """Return the value that each pattern of a cell of so many bits stores (PS3.5 8.1.1).

    Other bits than those stored hold overlays or nothing at all.
    """
    bits = min(int(header.BitsStored), cell)  # a compressed stream may have fewer
    spare = max(int(header.get("HighBit", bits - 1)) + 1 - bits, 0) if bits < cell else 0
    values = np.arange(1 << cell) >> spare & (1 << bits) - 1
    return values - (values >> bits - 1 << bits) if header.PixelRepresentation else values


def _padding(header: Dataset, stored: Integers) -> NDArray[np.bool_]:
    first = header.get("PixelPaddingValue")
    if first is None:
        return np.zeros(len(stored), bool)
    last = header.get("PixelPaddingRangeLimit")
    signed = bool(header.PixelRepresentation)
    low, high = sorted(_word(end, signed) for end in (first, first if last is None else last))
    return (stored >= low) & (stored <= high)


def _modality(header: Dataset, stored: Integers) -> Values:
    luts = header.get("ModalityLUTSequence")
    if luts:
        return _lut(luts[0], stored.astype(np.float64), _little(header))
    slope, intercept = _number(header, "RescaleSlope"), _number(header, "RescaleIntercept")
    if slope is None and intercept is None:
        return stored.astype(np.float64)
    if slope is None or intercept is None:
        raise UnreadableImage("has a rescale slope without an intercept, or the reverse")
    if slope == 0:
        raise UnreadableImage("its rescale slope is 0, which would leave nothing to see")
    return stored.astype(np.float64) * slope + intercept


def _window(header: Dataset) -> tuple[float, float, window.Function] | None:
    """Return center, width and function of the first window, if it is one (PS3.3 C.11.2.1.2)."""
    center, width = _number(header, "WindowCenter"), _number(header, "WindowWidth")
    function: Any = header.get("VOILUTFunction") or "LINEAR"
    if function not in window.FUNCTIONS:
        raise UnreadableImage("its header names an unknown VOI LUT function")
    smallest = 1 if function == "LINEAR" else np.finfo(float).tiny
    if center is None or width is None or width < smallest:
        return None
    return center, width, function


def _number(header: Dataset, keyword: str) -> float | None:
    """Return the first of an attribute's numbers; None where it has none."""
    numbers = np.atleast_1d(np.asarray(header.get(keyword), dtype=np.float64))
    if header.get(keyword) is None or not numbers.size:
        return None
    if not np.isfinite(numbers[0]):
        raise UnreadableImage(f"its {keyword} is not a finite number")
    return float(numbers[0])


def _lut(lut: Dataset, values: Values, little: bool) -> Values:
    """Return values through a LUT; those beyond its ends become the first or the last entry.

    What enters says whether the first value mapped is signed (PS3.3 C.11.1.1, C.11.2.1.1), not
    whether the file has it as US or SS.
    """
    entries, first, bits = (_word(value, signed=False) for value in lut.LUTDescriptor)
    entries = entries or WORD
    data: Any = lut.LUTData
    words = (
        np.frombuffer(data, "<u2" if little else ">u2")
        if isinstance(data, bytes)
        else np.atleast_1d(np.asarray(data, np.int64)).astype(np.uint16)
    )
    if bits == 8 and len(words) == (entries + 1) // 2:  # two entries a word, the low byte first
        words = words.astype("<u2").view(np.uint8)[:entries]
    if len(words) != entries:
        raise UnreadableImage("its look-up table has not as many entries as it says")
    at = values - _word(first, signed=bool(values.min() < 0))
    return words.astype(np.float64)[np.clip(np.rint(at), 0, entries - 1).astype(np.intp)]


def _word(value: Any, signed: bool) -> int:
    """Return 16 bits as what they should have been read as, whether the file says US or SS."""
    bits = int(value) % WORD
    return bits - WORD if signed and bits >= WORD // 2 else bits


def _little(header: Dataset) -> bool:
    return bool(header.original_encoding[1])
