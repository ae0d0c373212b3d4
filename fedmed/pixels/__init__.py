"""Image files to grey pixels, and grey pixels to the size the network sees."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fedmed.errors import UnreadableImage
from fedmed.table import Aspect

#: What :func:`fit` does, for the store's hash.
RECIPE = {"resize": "antialiased bilinear", "depth": "uint8"}


def read(path: Path) -> NDArray[np.uint8]:
    """Return an 8-bit image file's pixels, H×W; colour becomes luminance, transparency is ignored.

    Raises:
        UnreadableImage: with the decoder's reason, if the file is absent, truncated or no image.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("L"))
    except FileNotFoundError:
        raise UnreadableImage("absent") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise UnreadableImage(str(error).replace(str(path), path.name)) from None


def fit(pixels: NDArray[np.uint8], size: int, aspect: Aspect) -> NDArray[np.uint8]:
    """Return ``pixels`` resized to size×size, squashed or padded with black."""
    if pixels.shape == (size, size):
        return pixels
    image = Image.fromarray(pixels)
    if aspect == "keep":
        return np.asarray(ImageOps.pad(image, (size, size), Image.Resampling.BILINEAR))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
