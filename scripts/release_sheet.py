"""Draw what a release under differential privacy leaves of an image: docs/release.png.

Pairs of rows: whole images are hidden; details of 64 of the 4,096 pixels are hidden; and the
copied recipe whose noise is scaled by the image's own largest step between neighbouring pixels.
The last looks best because it hides nothing: its ε is a claim, and docs/privacy.md refutes it.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fedmed.core.seeding import generator
from fedmed.datasets.phantom import Phantom
from fedmed.privacy.release import pixelate

SIZE, BLOCK, DETAIL = 64, 8, 64
EPSILONS = (1, 10, 100, 1_000, 10_000)
TILE, CAPTION = 128, 13


def copied(image: NDArray[np.uint8], epsilon: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return an image with the noise of the copied recipe, which is not differentially private."""
    grey = image.astype(float)
    step = max(np.abs(np.diff(grey, axis=0)).max(), np.abs(np.diff(grey, axis=1)).max())
    noisy: NDArray[np.float64] = grey + rng.laplace(0.0, step / epsilon, grey.shape)
    return noisy.round().clip(0, 255).astype(np.uint8)


def row(image: NDArray[np.uint8], kind: str, number: int) -> list[tuple[str, NDArray[np.uint8]]]:
    """Return an image and its releases, by one of three rules."""
    tiles = [("original" if kind == "image" else kind, image)]
    for epsilon in EPSILONS:
        rng = generator(0, "sheet", kind, epsilon, number)
        if kind == "copied recipe":
            tiles.append((f"claims {epsilon:,}", copied(image, epsilon, rng)))
        else:
            changed = image.size if kind == "image" else DETAIL
            tiles.append((f"epsilon {epsilon:,}", pixelate(image, BLOCK, epsilon, rng, changed)))
    return tiles


def sheet(rows: list[list[tuple[str, NDArray[np.uint8]]]]) -> Image.Image:
    """Return the tiles on one sheet, each under its caption."""
    height = TILE + CAPTION
    page = Image.new("L", (len(rows[0]) * TILE, len(rows) * height))
    pen = ImageDraw.Draw(page)
    for at, tiles in enumerate(rows):
        for column, (caption, pixels) in enumerate(tiles):
            left, top = column * TILE, at * height
            large = Image.fromarray(pixels).resize((TILE, TILE), Image.Resampling.NEAREST)
            page.paste(large, (left, top + CAPTION))
            pen.text((left + 3, top + 1), caption, fill=230)
    return page


def main() -> None:
    """Read the command line and write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/release.png"))
    arguments = parser.parse_args()
    dataset = Phantom(["Effusion"], SIZE)
    table = dataset.table()
    frontal = table[table["view"] == "PA"]
    chosen = [frontal[frontal["Effusion"] == label]["image"].iloc[3] for label in (0, 1)]
    images = [dataset.read(image) for image in chosen]
    kinds = ("image", f"{DETAIL} pixels", "copied recipe")
    rows = [row(image, kind, i) for kind in kinds for i, image in enumerate(images)]
    sheet(rows).quantize(48, dither=Image.Dither.NONE).save(arguments.out, optimize=True)


if __name__ == "__main__":
    main()
