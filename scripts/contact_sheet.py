"""Draw a contact sheet of the embedded dataset: docs/phantom.png.

Rows: normal chests; one mild and one marked example of each finding, boxed where it was drawn; one
chest through the detectors of all six hospitals, and as a network sees it.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fedmed.data.phantom.findings import FINDINGS
from fedmed.data.phantom.sites import hospital
from fedmed.datasets.phantom import Phantom

Tile = tuple[str, NDArray[np.uint8], Sequence[tuple[float, float, float, float]]]
COLUMNS, CAPTION = 8, 13
BOX = (255, 190, 0)


def normal(dataset: Phantom) -> list[Tile]:
    """Return normal chests of men and women, young and old, upright and at the bedside."""
    table = dataset.table()
    healthy = table[(table[list(FINDINGS)] == 0).all(axis=1)]
    tiles: list[Tile] = []
    for view in ("PA", "AP"):
        for sex in ("M", "F"):
            group = healthy[(healthy["view"] == view) & (healthy["sex"] == sex)].sort_values("age")
            for share in (0.1, 0.9):
                row = group.iloc[int(share * len(group))]
                caption = f"{view} {sex} {row['age']:.0f} y"
                tiles.append((caption, dataset.read(row["image"]), ()))
    return tiles


def finding(dataset: Phantom, share: float) -> list[Tile]:
    """Return one image of each finding alone, ``share`` of the way from mildest to worst."""
    table, boxes = dataset.table(), dataset.boxes()
    alone = table[(table[list(FINDINGS)] == 1).sum(axis=1) == 1]
    tiles: list[Tile] = []
    for name in FINDINGS:
        images = alone.loc[(alone[name] == 1) & (alone["view"] == "PA"), "image"]
        degree = pd.Series({i: dataset.radiograph(i).findings[name].severity for i in images})
        image = str(degree.sort_values().index[int(share * len(degree))])
        mine = boxes[(boxes["image"] == image) & (boxes["finding"] == name)]
        corners = [tuple(row) for row in mine[["x0", "y0", "x1", "y1"]].to_numpy().tolist()]
        tiles.append((f"{name} {degree[image]:.2f}", dataset.read(image), corners))
    return tiles


def hospitals(dataset: Phantom) -> list[Tile]:
    """Return one chest as each hospital takes it, then at 64 and at 32 pixels."""
    table = dataset.table()
    image = str(table.loc[(table["view"] == "PA") & (table["Effusion"] == 1), "image"].iloc[3])
    tiles: list[Tile] = []
    for index in range(dataset.sites):
        radiograph = dataset.radiograph(image)
        radiograph.detector = hospital(dataset.seed, index).detector
        tiles.append((f"hospital-{index + 1}", radiograph.draw(dataset.size), ()))
    for size in (64, 32):
        small = Image.fromarray(dataset.radiograph(image).draw(size))
        large = small.resize((dataset.size, dataset.size), Image.Resampling.NEAREST)
        tiles.append((f"{size} px", np.asarray(large), ()))
    return tiles


def sheet(rows: list[list[Tile]], size: int) -> Image.Image:
    """Return the tiles on one sheet, each under its caption."""
    height = size + CAPTION
    page = Image.new("RGB", (COLUMNS * size, len(rows) * height))
    pen = ImageDraw.Draw(page)
    for row, tiles in enumerate(rows):
        for column, (caption, pixels, boxes) in enumerate(tiles):
            left, top = column * size, row * height + CAPTION
            page.paste(Image.fromarray(pixels), (left, top))
            pen.text((left + 3, top - CAPTION + 1), caption, fill=(230, 230, 230))
            for x0, y0, x1, y1 in boxes:
                corners = (left + x0 * size, top + y0 * size, left + x1 * size, top + y1 * size)
                pen.rectangle(corners, outline=BOX)
    return page


def main() -> None:
    """Read the command line and write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=160, help="side of a tile, pixels")
    parser.add_argument("--out", type=Path, default=Path("docs/phantom.png"))
    arguments = parser.parse_args()
    dataset = Phantom(list(FINDINGS), arguments.size)
    rows = [normal(dataset), finding(dataset, 0.4), finding(dataset, 0.85), hospitals(dataset)]
    # Few grey levels keep the file small; the eye sees no more of them.
    palette = Image.new("P", (1, 1))
    greys = np.linspace(0, 255, 48).astype(np.uint8).repeat(3).tolist()
    palette.putpalette([*greys, *BOX])
    page = sheet(rows, arguments.size).quantize(palette=palette, dither=Image.Dither.NONE)
    page.save(arguments.out, optimize=True)


if __name__ == "__main__":
    main()
