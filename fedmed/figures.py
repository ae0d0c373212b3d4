"""Pictures in the run directory."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

NUMBERED = 30  # clients up to which each has its name and its figures


def draw_partition(
    clients: pd.DataFrame, targets: tuple[str, ...], path: Path, counted: str = "images"
) -> None:
    """Draw who has what: the share of each client's images with each target, and their number.

    Args:
        clients: ``clients.csv``, one row a client.
        targets: the target columns of ``clients``, numbers of positive images.
        path: of the PNG.
        counted: the column of the totals: images, or patients.
    """
    n = len(clients)
    width = 3.5 + 0.45 * max(len(targets), 3)
    height = 1.8 + 0.28 * min(n, NUMBERED)
    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    heat, bars = figure.subplots(1, 2, width_ratios=[max(len(targets), 3), 3], sharey=True)
    _draw_shares(heat, clients, targets, counted)
    bars.barh(range(n), clients[counted], color="#3b6fb6", height=0.8)
    bars.set_title(counted, fontsize=9)
    bars.tick_params(axis="x", labelsize=8)
    bars.tick_params(axis="y", left=False)
    bars.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def _draw_shares(axes: Axes, clients: pd.DataFrame, targets: tuple[str, ...], counted: str) -> None:
    shares = 100 * clients[list(targets)].to_numpy(float) / clients[[counted]].to_numpy(float)
    top = float(shares.max()) or 1.0
    image = axes.imshow(shares, aspect="auto", cmap="viridis", vmin=0, vmax=top)
    axes.set_xticks(range(len(targets)), list(targets), rotation=60, ha="right", fontsize=8)
    axes.set_ylabel("client")
    axes.set_title(f"positive, % of {counted}", fontsize=9)
    if len(clients) > NUMBERED:
        axes.figure.colorbar(image, ax=axes, location="left", pad=0.02)
        return
    axes.set_yticks(range(len(clients)), clients["client"].astype(str).tolist(), fontsize=8)
    for (row, column), share in np.ndenumerate(shares):
        color = "white" if share < 0.6 * top else "black"
        axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=7, color=color)
