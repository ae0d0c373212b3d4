"""Image files to grey pixels, and grey pixels to the size the network sees.

``dicom`` and ``raster`` decode; ``shown`` and ``window`` make 8 bits of more.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fedmed.core.errors import UnreadableImage
from fedmed.data.pixels import dicom, raster
from fedmed.data.pixels.window import LARGEST, PERCENTILES
from fedmed.data.table import Aspect

#: What :func:`read` and :func:`fit` do, for the store's hash; ``version`` counts up with the code.
RECIPE = {
    "version": 3,
    "percentiles": PERCENTILES,
    "largest": LARGEST,
    "resize": "antialiased bilinear",
    "depth": "uint8",
}


def read(path: Path) -> NDArray[np.uint8]:
    """Return a DICOM, PNG or JPEG file's pixels, H×W, dark is air.

    Raises:
        UnreadableImage: with a reason in one line that holds nothing of a DICOM header.
    """
    try:
        return dicom.read(path) if dicom.is_dicom(path) else raster.read(path)
    except FileNotFoundError:
        raise UnreadableImage("absent") from None
    except OSError as error:
        raise UnreadableImage(error.strerror or "cannot be read") from None


def fit(pixels: NDArray[np.uint8], size: int, aspect: Aspect) -> NDArray[np.uint8]:
    """Return ``pixels`` resized to size×size, squashed or padded with black.

    Raises:
        UnreadableImage: if the aspect is to be kept and nothing would be left of the shorter side.
    """
    if pixels.shape == (size, size):
        return pixels
    image = Image.fromarray(pixels)
    if aspect == "squash":
        return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
    if min(pixels.shape) * size < max(pixels.shape):
        raise UnreadableImage(f"{image.width}×{image.height} pixels: too narrow")
    return np.asarray(ImageOps.pad(image, (size, size), Image.Resampling.BILINEAR))
