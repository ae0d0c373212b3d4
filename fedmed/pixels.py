"""Image files to grey pixels, and grey pixels to the size the network sees."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedmed.errors import UnreadableImage

#: What :func:`fit` does, for the store's hash.
RECIPE = {"resize": "antialiased bilinear", "aspect": "squash", "depth": "uint8"}


def read_grey(path: Path) -> NDArray[np.uint8]:
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


def fit(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Return ``pixels`` resized to size×size."""
    if pixels.shape == (size, size):
        return pixels
    image = Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image)
