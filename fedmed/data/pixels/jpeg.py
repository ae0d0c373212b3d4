"""What a JPEG or JPEG-LS stream says of itself, before a decoder sees it (ITU-T T.81, Annex B)."""

import struct
from collections.abc import Iterator

from fedmed.core.errors import UnreadableImage

START = b"\xff\xd8"
END = b"\xff\xd9"
SCAN = 0xDA
FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # SOF markers, and JPEG-LS's
LONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length


def frame(stream: bytes) -> tuple[int, int, int]:
    """Return the bits of a sample, the rows and the columns that a stream claims.

    Raises:
        UnreadableImage: if it has no frame.
        struct.error: if it ends before one.
    """
    for marker, at in _segments(stream):
        if marker in FRAMES:
            bits, rows, columns = struct.unpack_from(">BHH", stream, at + 4)
            return bits, rows, columns
    raise UnreadableImage("its JPEG stream has no frame")


def check_complete(stream: bytes) -> None:
    """Refuse a JPEG stream whose end is not where its data end.

    Decoders fill what is missing with grey, and say nothing. Among a scan's data the bytes of the
    end marker do not occur; after it there is padding alone.

    Raises:
        UnreadableImage: if the stream is cut off, or has ended before.
        struct.error: if it has no data at all.
    """
    at = max(at for _, at in _segments(stream))
    end = stream.find(END, at)
    if end < 0 or stream[end + len(END) :].strip(b"\0\xff"):
        raise UnreadableImage("its JPEG stream is cut off")


def _segments(stream: bytes) -> Iterator[tuple[int, int]]:
    """Yield the markers with a length and where they are, to the head of the first scan."""
    at, marker = len(START), 0
    while marker != SCAN:
        marker, length = struct.unpack_from(">xBH", stream, at)
        if marker not in (0xFF, *LONE):
            yield marker, at
            at += 2 + length
        else:
            at += 1 if marker == 0xFF else 2
