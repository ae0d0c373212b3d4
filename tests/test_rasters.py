"""PNG and JPEG: every depth and kind, as by hand and as libpng writes it, or one line."""

import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom.data
import pytest
from dicom_files import needs_dcmtk, phantom, scan
from numpy.typing import NDArray
from PIL import Image
from png_files import KINDS, chunk, png
from pydicom import dcmread
from pydicom.encaps import get_frame

from fedmed.core.errors import UnreadableImage
from fedmed.data import pixels

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


def samples_of(kind: str, depth: int, alike: bool = False) -> NDArray[np.int64]:
    """Draw opaque samples; ``alike``: grey stored as colour."""
    rng = np.random.default_rng(depth)
    dim = np.add.outer(np.arange(43), np.arange(37))[..., None] * 0.3 / 78  # high bytes are few
    count = KINDS[kind][1]
    drawn = (dim + rng.random((43, 37, 1 if alike else count)) * 0.02) * ((1 << depth) - 1)
    drawn = np.repeat(drawn, count, axis=2) if alike else drawn
    if "alpha" in kind or kind == "RGBA":
        drawn[..., -1] = (1 << depth) - 1
    return drawn.astype(np.int64) if depth > 4 else rng.integers(0, 1 << depth, (43, 37, count))


def by_hand(samples: NDArray[np.int64], depth: int) -> NDArray[np.float64]:
    """Return brightness, 0 to 255: luminance of ITU-R BT.601, and percentiles of 16 bits."""
    colour = samples.shape[2] > 2
    grey = samples[..., :3] @ (0.299, 0.587, 0.114) if colour else samples[..., 0].astype(float)
    if depth < 16:
        return grey * 255 / ((1 << depth) - 1)
    low, high = np.percentile(np.rint(grey), (0.5, 99.5), method="inverted_cdf")
    return np.asarray(np.clip((grey - low) / (high - low), 0, 1) * 255)


@pytest.mark.parametrize("woven", [False, True])
@pytest.mark.parametrize(
    ("kind", "depth"),
    [
        ("grey", 1),
        ("grey", 2),
        ("grey", 4),
        *((kind, depth) for kind in KINDS for depth in (8, 16)),
    ],
)
def test_every_kind_of_png(kind: str, depth: int, woven: bool, tmp_path: Path) -> None:
    samples = samples_of(kind, depth)
    content = png(samples, depth, kind, woven)
    (tmp_path / "a.png").write_bytes(content)
    shown = pixels.read(tmp_path / "a.png")
    assert np.abs(shown - by_hand(samples, depth)).max() <= (1 if depth == 16 else 0.6)
    assert np.ptp(shown) > 70


@pytest.mark.parametrize("kind", ["RGB", "grey and alpha", "RGBA"])
def test_16_bit_grey_stored_as_more_is_the_same_picture(kind: str, tmp_path: Path) -> None:
    samples = samples_of(kind, 16, alike=True)
    (tmp_path / "a.png").write_bytes(png(samples, 16, kind))
    (tmp_path / "b.png").write_bytes(png(samples[..., :1], 16, "grey"))
    shown = pixels.read(tmp_path / "a.png")
    np.testing.assert_array_equal(shown, pixels.read(tmp_path / "b.png"))
    assert len(np.unique(shown)) > 200


@needs_dcmtk
def test_48_bits_that_libpng_wrote(tmp_path: Path) -> None:
    stored = phantom(12)
    data = dcmread(scan(tmp_path / "a.dcm", stored, 16))
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
    data.PixelData = np.repeat(stored, 3).tobytes()
    data.save_as(tmp_path / "a.dcm")
    made = tmp_path / "a.png"
    subprocess.run(["dcm2pnm", "+on2", str(tmp_path / "a.dcm"), str(made)], check=True)
    assert made.read_bytes()[24:26] == bytes([16, 2]), "RGB of 16 bits"
    Image.fromarray(stored).save(tmp_path / "b.png")
    np.testing.assert_array_equal(pixels.read(made), pixels.read(tmp_path / "b.png"))


def refused(path: Path, content: bytes, reason: str) -> None:
    path.write_bytes(content)
    with pytest.raises(UnreadableImage, match=reason) as error:
        pixels.read(path)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("kind", ["grey and alpha", "RGBA"])
@pytest.mark.parametrize("depth", [8, 16])
def test_transparent_pixels_are_refused(kind: str, depth: int, tmp_path: Path) -> None:
    samples = samples_of(kind, depth)
    samples[5, 5, -1] -= 1  # of 16 bits the low byte alone
    refused(tmp_path / "a.png", png(samples, depth, kind), "transparent pixels")


def test_transparent_colours_are_refused_and_opaque_palettes_read(tmp_path: Path) -> None:
    for kind, depth in (("grey", 2), ("grey", 8), ("grey", 16), ("RGB", 8), ("RGB", 16)):
        samples = samples_of(kind, depth)
        named = chunk(b"tRNS", samples[3, 3].astype(">u2").tobytes())
        refused(tmp_path / "a.png", png(samples, depth, kind, extra=named), "that is transparent")
    palette = Image.fromarray(GREY).convert("P")
    palette.save(tmp_path / "b.png", transparency=b"\xff" * 256)
    np.testing.assert_array_equal(pixels.read(tmp_path / "b.png"), GREY)
    index = int(np.asarray(palette)[0, 0])
    palette.save(tmp_path / "b.png", transparency=index)
    refused(tmp_path / "b.png", (tmp_path / "b.png").read_bytes(), "transparent pixels")


def test_animations_damage_and_jpegs_of_12_bits_are_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    refused(tmp_path / "a.png", (tmp_path / "a.png").read_bytes(), "several frames")
    whole = png(samples_of("RGB", 16), 16, "RGB")
    refused(tmp_path / "a.png", whole[: len(whole) // 2], "truncated")
    refused(tmp_path / "a.png", whole[:500] + b"\xff\0\xff" + whole[503:], "broken|damaged")
    late = whole[:8] + chunk(b"gAMA", bytes(4)) + whole[8:]
    refused(tmp_path / "a.png", late, "does not begin with its header")
    lossy = dcmread(str(pydicom.data.get_testdata_file("JPEG-lossy.dcm")))
    jpeg = get_frame(lossy.PixelData, 0, number_of_frames=1)
    refused(tmp_path / "a.jpg", jpeg, "JPEG of 8 bits")


TURNED: dict[int, Callable[[Any], Any]] = {
    1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: np.transpose,
    6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).T, 8: np.rot90,
}  # fmt: skip


@pytest.mark.parametrize("orientation", TURNED)
def test_exif_orientation_is_applied(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turn = TURNED[orientation]
    Image.fromarray(GREY).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(pixels.read(tmp_path / "a.png"), turn(GREY))
    Image.fromarray(GREY).save(tmp_path / "a.jpg", exif=exif, quality=100)
    assert np.abs(pixels.read(tmp_path / "a.jpg") - turn(GREY).astype(int)).max() <= 4
    tiff = chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    for kind in KINDS:
        samples = samples_of(kind, 16)
        (tmp_path / "b.png").write_bytes(png(samples, 16, kind))
        (tmp_path / "c.png").write_bytes(png(samples, 16, kind, extra=tiff))
        upright = pixels.read(tmp_path / "b.png")
        np.testing.assert_array_equal(pixels.read(tmp_path / "c.png"), turn(upright))


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
