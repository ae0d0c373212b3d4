"""DICOM files: radiographs of one frame, grey, in any transfer syntax that is still written.

Decoded by libjpeg-turbo (JPEG of 8 or 12 bits, or lossless), CharLS (JPEG-LS) and, through pydicom,
OpenJPEG (JPEG 2000), whatever else is installed; ``shown`` makes a picture of what is stored. Only
pixels leave this room, and the few attributes that a table needs: pydicom's errors and warnings
quote the header, which names people, and so none of them is passed on.
"""

import logging
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.encaps import get_frame
from pydicom.filereader import read_partial
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLELossless,
)

from fedmed.core.errors import UnreadableImage
from fedmed.data.pixels import jpeg, shown, window

SUFFIXES = (".dcm", ".dicom")
DEFLATED = DeflatedExplicitVRLittleEndian.encode()
HEAD = 1 << 16  # bytes that hold a header's attributes, which come long before its pixels
VIEW_POSITION = 0x00185101
FILE_BYTES = 4 * window.LARGEST
VIEWS = {"PA": "PA", "AP": "AP", "LL": "LATERAL", "RL": "LATERAL", "LATERAL": "LATERAL"}
YEARS = {"Y": 1.0, "M": 12.0, "W": 52.18, "D": 365.25}
LOSSY = (JPEGBaseline8Bit, JPEGExtended12Bit)  # whose bits are the scale of what they show
Patterns = NDArray[np.unsignedinteger[Any]]


def is_dicom(path: Path) -> bool:
    """Say whether a file is DICOM, by its content, or by its name where that lacks a preamble.

    Raises:
        OSError: if the file cannot be opened.
    """
    with path.open("rb") as file:
        start = file.read(132)
    return start[128:] == b"DICM" or path.suffix.lower() in SUFFIXES


def read(path: Path) -> NDArray[np.uint8]:
    """Return a radiograph's pixels, H×W, dark is air.

    Raises:
        UnreadableImage: with a reason that holds nothing of the header.
        OSError: if the file cannot be opened.
    """
    if path.stat().st_size > FILE_BYTES:
        raise UnreadableImage(f"is larger than {FILE_BYTES // 1_000_000} MB")
    content = path.read_bytes()
    with _discreet("its header is damaged"):
        header = _parsed(content)
        rows, columns = _checked(header)
    with _discreet("its pixel data is damaged, or of a kind that is not read"):
        patterns = _patterns(header, rows, columns)
    with _discreet("its header says nothing valid of how pixels are shown"):
        return shown.shown(header, patterns)


def attributes(path: Path) -> dict[str, object]:
    """Return ``sex``, ``age`` in years, ``view`` and ``scanner``; None where absent or invalid."""
    found: dict[str, object] = dict.fromkeys(("sex", "age", "view", "scanner"))
    try:
        with _discreet("its header is damaged"):
            with path.open("rb") as file:
                header = _parsed(file.read(HEAD), last=VIEW_POSITION)
            sex, view = _text(header, "PatientSex").upper(), _text(header, "ViewPosition").upper()
            found["sex"] = sex if sex in ("M", "F") else None
            found["age"] = _years(_text(header, "PatientAge").upper())
            found["view"] = VIEWS.get(view)
            found["scanner"] = _text(header, "Manufacturer") or None
    except (OSError, UnreadableImage):
        pass  # reading its pixels tells why
    return found


@contextmanager
def _discreet(reason: str) -> Iterator[None]:
    """Turn whatever pydicom and its decoders raise into ``reason``, and let none of them speak."""
    logged = logging.root.manager.disable
    logging.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (UnreadableImage, MemoryError, FileNotFoundError):
        raise
    except BaseException as error:
        # A decoder in Rust panics with what is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UnreadableImage(reason) from None
    finally:
        logging.disable(logged)


def _parsed(content: bytes, last: int | None = None) -> Dataset:
    """Return a data set, up to the tag ``last``.

    A length field that lies can take no more memory than the file's own bytes.
    """
    if DEFLATED in content:  # it would be inflated as a whole, to whatever size
        raise UnreadableImage("is deflated, which is not read")
    return read_partial(
        BytesIO(content),
        stop_when=None if last is None else lambda tag, vr, length: tag > last,
        force=True,
    )


def _text(header: Dataset, keyword: str) -> str:
    value = header.get(keyword)
    return value.strip() if isinstance(value, str) else ""


def _years(age: str) -> float | None:
    match = re.fullmatch(r"(\d{1,3})([YMWD])", age)
    return int(match[1]) / YEARS[match[2]] if match else None


def _checked(header: Dataset) -> tuple[int, int]:
    """Return rows and columns of what is a radiograph of one frame in grey; refuse what is not."""
    if "FloatPixelData" in header or "DoubleFloatPixelData" in header:
        raise UnreadableImage("has float pixel data; integers are read")
    if not header.get("PixelData"):
        raise UnreadableImage("has no pixel data")
    kind = header.get("PhotometricInterpretation")
    if kind == "PALETTE COLOR":
        raise UnreadableImage("has a colour palette; grey images are read")
    if header.get("SamplesPerPixel", 1) != 1:
        raise UnreadableImage("is in colour; grey images are read")
    if kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise UnreadableImage("does not say that it is MONOCHROME1 or MONOCHROME2")
    if int(header.get("NumberOfFrames") or 1) != 1:
        raise UnreadableImage("has several frames; images of one are read")
    if header.BitsAllocated not in (8, 16):
        raise UnreadableImage("has neither 8 nor 16 bits a pixel")
    if not 1 <= header.BitsStored <= header.BitsAllocated:
        raise UnreadableImage("stores no bits, or more than it has room for")
    high = header.get("HighBit", header.BitsStored - 1)
    if not header.BitsStored <= high + 1 <= header.BitsAllocated:
        raise UnreadableImage("its high bit is not one of those it has room for")
    cells = not _syntax(header).is_encapsulated or _syntax(header) == RLELossless
    if high != header.BitsStored - 1 and not cells:  # a codec has no bits below those stored
        raise UnreadableImage("is compressed and does not keep its pixels in the low bits")
    window.check_size(header.Columns, header.Rows)
    return header.Rows, header.Columns


def _patterns(header: Dataset, rows: int, columns: int) -> Patterns:
    """Return the bits of each pixel's cell, rows×columns, as they are stored."""
    syntax, stream = _syntax(header), b""
    if syntax.is_encapsulated:
        stream = get_frame(header.PixelData, 0, number_of_frames=1)
        if _stream_size(stream) not in (None, (rows, columns)):
            raise UnreadableImage("its compressed image is of another size than its header says")
    cells: NDArray[Any]
    if syntax in JPEGTransferSyntaxes:
        jpeg.check_complete(stream)
        if syntax in LOSSY and jpeg.frame(stream)[0] != header.BitsStored:
            raise UnreadableImage("its compressed pixels have other bits than its header says")
        cells = imagecodecs.jpeg8_decode(stream)
    elif syntax in JPEGLSTransferSyntaxes:
        cells = imagecodecs.jpegls_decode(stream)
    else:
        plugin = "pylibjpeg" if syntax.is_encapsulated else ""
        options: Any = {"correct_unused_bits": False}  # ``shown`` does so for each pattern once
        header.file_meta.TransferSyntaxUID = syntax
        cells, _ = get_decoder(syntax).as_array(header, decoding_plugin=plugin, **options)
    if cells.shape != (rows, columns) or cells.dtype.kind not in "iu":
        raise UnreadableImage("its pixel data is not what its header says")
    if 8 * cells.itemsize > header.BitsAllocated:
        raise UnreadableImage("its compressed pixels have more bits than its header makes room for")
    patterns: Patterns = cells.astype(cells.dtype.newbyteorder("="), copy=False).view(
        f"u{cells.itemsize}"
    )
    return patterns


def _syntax(header: Dataset) -> UID:
    """Return the transfer syntax, guessed as the parser did where a file does not give it."""
    implicit, little = header.original_encoding
    guess = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    given = header.file_meta.get("TransferSyntaxUID")
    return UID(given or (ImplicitVRLittleEndian if implicit else guess))


def _stream_size(stream: bytes) -> tuple[int, int] | None:
    """Return the rows and columns that a JPEG, JPEG-LS or JPEG 2000 stream claims; None for RLE.

    A decoder makes room for as many before it meets the first pixel.
    """
    if stream.startswith(jpeg.START):
        return jpeg.frame(stream)[1:]
    start = stream.find(b"\xff\x4f\xff\x51")  # JPEG 2000's SOC and SIZ, boxed or not
    if start < 0:
        return None
    width, height, left, top = struct.unpack_from(">4I", stream, start + 8)
    return height - top, width - left
