"""PNG files for tests, written by hand: Pillow writes no 16 bits but of plain grey."""

import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

KINDS = {"grey": (0, 1), "RGB": (2, 3), "grey and alpha": (4, 2), "RGBA": (6, 4)}
SEVEN = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
         (1, 0, 2, 1))  # fmt: skip


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def filtered(samples: NDArray[np.int64], depth: int) -> bytes:
    """Return rows of samples as PNG has them, each filtered in another of its five ways."""
    flat = samples.reshape(len(samples), -1)
    if depth < 8:
        bits = (flat[..., None] >> np.arange(depth - 1, -1, -1)) & 1
        rows = np.packbits(bits.reshape(len(flat), -1).astype(np.uint8), axis=1).astype(np.int64)
    else:
        rows = flat.astype(f">u{depth // 8}").view(np.uint8).astype(np.int64)
    step = max(1, samples.shape[2] * depth // 8)
    above = np.vstack([0 * rows[:1], rows[:-1]])
    left, corner = (np.pad(some, ((0, 0), (step, 0)))[:, : rows.shape[1]] for some in (rows, above))
    guess = left + above - corner
    near = np.stack([abs(guess - some) for some in (left, above, corner)]).argmin(axis=0)
    paeth = np.choose(near, [left, above, corner])
    ways = [0 * rows, left, above, (left + above) // 2, paeth]
    return b"".join(
        bytes([i % 5]) + ((row - ways[i % 5][i]) % 256).astype(np.uint8).tobytes()
        for i, row in enumerate(rows)
    )


def png(
    samples: NDArray[Any], depth: int, kind: str, woven: bool = False, extra: bytes = b""
) -> bytes:
    """Return a PNG of samples, H×W×C."""
    samples = samples.astype(np.int64)
    height, width, _ = samples.shape
    passes = [samples[y::dy, x::dx] for y, x, dy, dx in SEVEN] if woven else [samples]
    raw = b"".join(filtered(some, depth) for some in passes if some.size)
    head = struct.pack(">IIBBBBB", width, height, depth, KINDS[kind][0], 0, 0, woven)
    body = chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body
