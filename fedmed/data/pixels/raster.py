"""PNG and JPEG files: of any depth and number of channels, opaque, of one frame."""

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from fedmed.core.errors import UnreadableImage
from fedmed.data.pixels import window

FORMATS = ("PNG", "JPEG")
ORIENTATION = 0x0112  # its tag in EXIF
LUMINANCE = (19595, 38470, 7471)  # of red, green and blue, in 65,536ths: Pillow's, ITU-R BT.601
ALL = np.arange(1 << 16, dtype=np.float64)


def read(path: Path) -> NDArray[np.uint8]:
    """Return a PNG's or JPEG's pixels, H×W, upright.

    Colour becomes luminance. 8 bits are shown as they are; 16 come without a window and get one of
    percentiles.

    Raises:
        UnreadableImage: with the decoder's reason, or if what is seen depends on the viewer.
        OSError: if the file cannot be opened.
    """
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes, which are checked here, and damaged metadata
        try:
            with Image.open(file, formats=FORMATS) as image:
                window.check_size(*image.size)
                _check(image)
                if image.format == "PNG" and _depth(path) == 16:
                    return _windowed(_upright_16_bits(image, path))
                return np.asarray(ImageOps.exif_transpose(image).convert("L"))
        except (UnreadableImage, MemoryError):
            raise
        except UnidentifiedImageError:
            raise UnreadableImage("cannot identify it as DICOM, PNG or JPEG of 8 bits") from None
        except Exception as error:  # decoders raise whatever a damaged file leads them to
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UnreadableImage(reason) from None


def _check(image: Image.Image) -> None:
    """Refuse frames to choose from, and pixels through which a viewer's background is seen."""
    if image.format == "PNG" and getattr(image, "is_animated", False):
        raise UnreadableImage("has several frames; images of one are read")
    if "transparency" in image.info and image.mode != "P":
        raise UnreadableImage("names a grey or a colour that is transparent; opaque ones are read")
    if image.has_transparency_data:
        _check_opaque(np.asarray(image.convert("RGBA").getchannel("A")))


def _check_opaque(alpha: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
    if alpha.min() < np.iinfo(alpha.dtype).max:
        raise UnreadableImage("has transparent pixels; opaque images are read")


def _depth(path: Path) -> int:
    """Return the bits of a PNG's samples, which its first chunk gives (PNG 11.2.1)."""
    with path.open("rb") as file:
        start = file.read(25)
    if start[12:16] != b"IHDR":
        raise UnreadableImage("does not begin with its header")
    return start[24]


def _upright_16_bits(image: Image.Image, path: Path) -> NDArray[np.uint16]:
    """Return the luminance of a PNG, of which Pillow keeps all 16 bits where it is plain grey."""
    stored = np.asarray(image) if image.mode.startswith("I") else _luminance(path)
    upright = Image.fromarray(stored.astype(np.uint16))
    upright.getexif()[ORIENTATION] = image.getexif().get(ORIENTATION)
    return np.asarray(ImageOps.exif_transpose(upright))


def _luminance(path: Path) -> NDArray[np.uint16]:
    channels = _channels(path)  # grey or RGB; alpha
    if channels.shape[2] in (2, 4):
        _check_opaque(channels[..., -1])
    if channels.shape[2] < 3:
        return channels[..., 0]
    weighted = np.full(channels.shape[:2], 1 << 15, np.uint32)  # a half, to round
    for i, weight in enumerate(LUMINANCE):
        weighted += channels[..., i] * np.uint32(weight)
    return (weighted >> 16).astype(np.uint16)


def _channels(path: Path) -> NDArray[np.uint16]:
    """Return a PNG's 16-bit channels, H×W×C.

    Pillow has 8-bit channels only, which can be filled with either byte of what is stored.
    """
    with Image.open(path, formats=("PNG",)) as image:
        raw = str(image.tile[0].args)
    if raw == "LA;16B":
        return _raw(path, "RGBA").view(">u2").astype(np.uint16)
    pairs = np.stack([_raw(path, raw.removesuffix("B") + end) for end in "BL"], axis=-1)
    return pairs.view(">u2")[..., 0].astype(np.uint16)


def _raw(path: Path, mode: str) -> NDArray[np.uint8]:
    """Decode a PNG, its samples unpacked in another of Pillow's raw modes than it would choose."""
    with Image.open(path, formats=("PNG",)) as image:
        image.tile = [image.tile[0]._replace(args=mode)]
        return np.asarray(image)


def _windowed(stored: NDArray[np.uint16]) -> NDArray[np.uint8]:
    low, high = window.percentiles(ALL, window.histogram(stored))
    return window.to_uint8(window.between(ALL, low, high))[stored]
