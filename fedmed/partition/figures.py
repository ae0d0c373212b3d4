"""Pictures in the run directory."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from fedmed.partition.measures import measure

NUMBERED = 30  # clients up to which each has its name and its figures
CELL = 0.24  # inches: the height of a client's row
LOWEST = 0.06  # of a row when there are many
TALLEST = 9.0  # inches of rows
BLUE = "#3b6fb6"


def draw_partition(
    clients: pd.DataFrame, targets: tuple[str, ...], path: Path, counted: str = "images"
) -> None:
    """Draw who has what: how often each client's images show each target, their number, the skew.

    Args:
        clients: as ``partition.describe`` makes it, one row a client; without a column
            ``js_divergence`` no skew is drawn.
        targets: the target columns of ``clients``, numbers of positive ``counted``.
        path: of the PNG.
        counted: the column of the totals: images, or patients.
    """
    n = len(clients)
    rows = min(max(n * CELL, 0.9), max(NUMBERED * CELL, min(n * LOWEST, TALLEST)))
    shares = max(0.42 * len(targets), 1.2)
    layout = ConstrainedLayoutEngine(w_pad=0.04, h_pad=0.05, wspace=0.02)
    figure = Figure(figsize=(shares + 3.6, rows + 1.75), dpi=150, layout=layout)
    skewed = "js_divergence" in clients
    widths = [shares, 1.4, 0.9][: 2 + skewed]
    heat, totals, *rest = figure.subplots(1, len(widths), width_ratios=widths, sharey=True)
    _draw_shares(heat, clients, targets, counted)
    _draw_bars(totals, clients[counted], counted)
    for skew in rest:
        _draw_bars(skew, clients["js_divergence"].fillna(0), "JS divergence\nto the pool, bits")
        figure.suptitle(_title(clients), fontsize=9, x=0.02, ha="left")
    figure.savefig(path)


def _title(clients: pd.DataFrame) -> str:
    measured = measure(clients)
    return (
        f"{len(clients):,} clients · {clients['patients'].sum():,} patients · "
        f"{clients['images'].sum():,} images\n"
        f"mean JS divergence {measured['js_divergence']['mean']:.3f} bits · "
        f"size Gini {measured['size_gini']:.2f}"
    )


def _draw_bars(axes: Axes, values: "pd.Series[float]", title: str) -> None:
    height = 0.8 if len(values) <= NUMBERED else 1.0
    axes.barh(range(len(values)), values, color=BLUE, height=height)
    axes.set_title(title, fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(2, min_n_ticks=2))
    if values.max() > 10:
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.tick_params(axis="x", labelsize=7)
    axes.tick_params(axis="y", which="both", left=False, labelleft=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlim(left=0)


def _draw_shares(axes: Axes, clients: pd.DataFrame, targets: tuple[str, ...], counted: str) -> None:
    """Draw a colour for each share, by its root, so that rare findings show their skew too."""
    totals = clients[[counted]].to_numpy(float)
    shares = 100 * clients[list(targets)].to_numpy(float) / np.maximum(totals, 1)
    norm = PowerNorm(0.5, vmin=0, vmax=float(shares.max()) or 1.0)
    drawn = axes.imshow(shares, aspect="auto", cmap="Blues", norm=norm)
    axes.set_xticks(
        range(len(targets)),
        [name.replace("$", r"\$") for name in targets],  # else it is read as mathematics
        rotation=45,
        ha="right",
        rotation_mode="anchor",
        fontsize=8,
    )
    axes.set_ylabel("client", fontsize=8)
    axes.set_title(f"positive, % of {counted}", fontsize=8)
    if len(clients) > NUMBERED:
        axes.yaxis.set_major_locator(MaxNLocator(10, integer=True))
        axes.tick_params(axis="y", labelsize=7)
        bar = axes.figure.colorbar(drawn, ax=axes, location="left", pad=0.02, aspect=40)
        bar.ax.tick_params(labelsize=7)
        return
    axes.set_yticks(range(len(clients)), clients["client"].astype(str).tolist(), fontsize=7)
    axes.set_xticks(np.arange(len(targets) - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(clients) - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=0.8)
    axes.tick_params(which="minor", length=0)
    for (row, column), share in np.ndenumerate(shares):
        color = "white" if norm(share) > 0.6 else "black"
        text = f"{share:.0f}" if share >= 0.95 or share == 0 else f"{share:.1f}"
        label = axes.text(column, row, text, ha="center", va="center", fontsize=7, color=color)
        label.set_in_layout(False)  # measuring hundreds of them takes a second
