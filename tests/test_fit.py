"""Resizing: antialiased, as worked out in floats, for sides of one pixel and of thousands."""

import numpy as np
import pytest
from numpy.typing import NDArray

from fedmed.core.errors import UnreadableImage
from fedmed.data import pixels

SHAPES = [(1, 1), (1, 9), (9, 1), (3, 2000), (2000, 3), (2, 31), (31, 32), (33, 32), (300, 310),
          (32, 33), (64, 32), (700, 40)]  # fmt: skip


def noise(shape: tuple[int, int]) -> NDArray[np.uint8]:
    rng = np.random.default_rng(sum(shape))
    return (rng.random(shape) < np.linspace(0, 1, shape[1])).astype(np.uint8) * 255


def triangles(old: int, new: int) -> NDArray[np.float64]:
    """Return the weights of old pixels in new ones: a tent, as wide as the coarser grid's step."""
    scale = old / new
    centers = (np.arange(new) + 0.5) * scale
    away = np.abs(np.arange(old) + 0.5 - centers[:, None]) / max(scale, 1)
    tent = np.maximum(1 - away, 0)
    return np.asarray(tent / tent.sum(axis=1, keepdims=True))


def resized(image: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.float64]:
    rows, columns = (triangles(*sides) for sides in zip(image.shape, shape, strict=True))
    return np.asarray(rows @ image.astype(float) @ columns.T)


@pytest.mark.parametrize("size", [1, 32, 45])
@pytest.mark.parametrize("shape", SHAPES)
def test_squashed_is_antialiased(shape: tuple[int, int], size: int) -> None:
    ours = pixels.fit(noise(shape), size, "squash")
    assert ours.dtype == np.uint8
    # Rounded twice, once a direction: by a half each.
    assert np.abs(ours - resized(noise(shape), (size, size))).max() <= 1.01


@pytest.mark.parametrize("size", [1, 32, 45])
@pytest.mark.parametrize("shape", SHAPES)
def test_kept_is_centred_in_black(shape: tuple[int, int], size: int) -> None:
    long = max(shape)
    if min(shape) * size < long:
        with pytest.raises(UnreadableImage, match="too narrow"):
            pixels.fit(noise(shape), size, "keep")
        return
    ours = pixels.fit(noise(shape), size, "keep")
    assert ours.shape == (size, size)
    inner = tuple(round(side * size / long) for side in shape)
    top, left = (round((size - side) / 2) for side in inner)
    right = np.zeros((size, size))
    right[top : top + inner[0], left : left + inner[1]] = resized(noise(shape), inner)
    assert np.abs(ours - right).max() <= 1.01


def test_aspect_is_kept_or_squashed() -> None:
    bright = np.full((40, 80), 255, np.uint8)
    assert (pixels.fit(bright, 20, "squash") == 255).all()
    kept = pixels.fit(bright, 20, "keep")
    assert (kept[5:15] == 255).all()
    assert not kept[:5].any()
    assert not kept[15:].any()
    checks = (np.indices((512, 512)).sum(axis=0) % 2 * 255).astype(np.uint8)
    assert np.abs(pixels.fit(checks, 32, "squash").astype(int)[1:-1, 1:-1] - 127).max() <= 2
