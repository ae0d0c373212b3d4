"""PNG and JPEG: every depth and kind, as libpng shows it, or one line."""

import zlib
from pathlib import Path

import numpy as np
import pytest
from dicom_files import phantom
from PIL import Image

from fedmed import pixels
from fedmed.errors import UnreadableImage

GREY = (phantom(8) // 16 * 17).astype(np.uint8)  # 16 levels, which 4 bits and a palette can hold


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P"])
def test_png_channels(mode: str, tmp_path: Path) -> None:
    Image.fromarray(GREY).convert(mode).save(tmp_path / "a.png")
    np.testing.assert_array_equal(pixels.read(tmp_path / "a.png"), GREY)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg_channels(mode: str, tmp_path: Path) -> None:
    grey = Image.fromarray(GREY)
    image = grey if mode == "L" else grey.convert("RGB").convert(mode)
    image.save(tmp_path / "a.jpg", quality=100)
    assert np.abs(pixels.read(tmp_path / "a.jpg") - GREY.astype(int)).max() <= 4


def test_png_of_one_bit_and_of_constant_16(tmp_path: Path) -> None:
    Image.fromarray(GREY > 99).save(tmp_path / "a.png")
    np.testing.assert_array_equal(pixels.read(tmp_path / "a.png"), (GREY > 99) * np.uint8(255))
    Image.fromarray(np.full((9, 9), 300, np.uint16)).save(tmp_path / "b.png")
    with pytest.raises(UnreadableImage, match="one grey level"):
        pixels.read(tmp_path / "b.png")


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    Image.fromarray(GREY).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(pixels.read(tmp_path / "a.png"), np.rot90(GREY, -1))


def test_rasters_are_refused_with_the_reason(tmp_path: Path) -> None:
    png = tmp_path / "a.png"
    Image.fromarray(GREY).save(png)
    header = png.read_bytes()
    side = (60000).to_bytes(4)
    ihdr = b"IHDR" + side + side + header[24:29]
    png.write_bytes(header[:12] + ihdr + zlib.crc32(ihdr).to_bytes(4) + header[33:])
    with pytest.raises(UnreadableImage, match="3600000000 pixels"):
        pixels.read(png)
    Image.fromarray(GREY).save(tmp_path / "a.gif")
    with pytest.raises(UnreadableImage, match="cannot identify it"):
        pixels.read(tmp_path / "a.gif")
    with pytest.raises(UnreadableImage, match="absent"):
        pixels.read(tmp_path / "absent.png")
