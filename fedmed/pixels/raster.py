"""PNG and JPEG files of any depth and number of channels."""

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from fedmed.errors import UnreadableImage
from fedmed.pixels import window

FORMATS = ("PNG", "JPEG")
ALL = np.arange(1 << 16, dtype=np.float64)


def read(path: Path) -> NDArray[np.uint8]:
    """Return a PNG's or JPEG's pixels, H×W, upright.

    Colour becomes luminance and transparency is ignored. Grey of more than 8 bits comes without a
    window and gets one of percentiles.

    Raises:
        UnreadableImage: with the decoder's reason.
        OSError: if the file cannot be opened.
    """
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes, which are checked here, and damaged metadata
        try:
            with Image.open(file, formats=FORMATS) as image:
                window.check_size(*image.size)
                upright = ImageOps.exif_transpose(image)
                if upright.mode.startswith("I"):
                    return _from_16_bits(np.asarray(upright).astype(np.uint16))
                return np.asarray(upright.convert("L"))
        except (UnreadableImage, MemoryError):
            raise
        except UnidentifiedImageError:
            raise UnreadableImage("cannot identify it as DICOM, PNG or JPEG") from None
        except Exception as error:  # Pillow's plugins raise whatever a damaged file leads them to
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UnreadableImage(reason) from None


def _from_16_bits(stored: NDArray[np.uint16]) -> NDArray[np.uint8]:
    low, high = window.percentiles(ALL, window.histogram(stored))
    return window.to_uint8(window.between(ALL, low, high))[stored]
