"""The picture of an audit."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from fedmed.audit.findings import Audit, Scored, claim

_BLUE, _ORANGE, _GREY = "#3b6fb6", "#d9822b", "#888888"


def draw(found: Audit, path: Path) -> None:
    """Draw claimed beside audited ε, the canaries' scores, and the attacks' ROC curves."""
    panels = 2 * bool(found.bounds) + 1
    figure = Figure(figsize=(4.2 * panels, 3.4), dpi=130, layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    if found.bounds:
        _draw_bounds(axes[0], found)
        access = next(iter(found.canaries))
        _draw_scores(axes[1], found.canaries[access], access)
    _draw_roc(axes[-1], found.attacked)
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
        each.tick_params(labelsize=8)
    figure.savefig(path)


def _draw_bounds(axes: Axes, found: Audit) -> None:
    names, values, colors = [], [], []
    for access, bound in found.bounds.items():
        kinds = {"one run": bound.epsilon, "f-DP": bound.gaussian, "independent": bound.independent}
        for kind, value in kinds.items():
            names.append(f"{access}, {kind}")
            values.append(value)
            colors.append(_BLUE if kind == "one run" else "#a9c1e0")
    axes.barh(names, values, color=colors, height=0.7)
    axes.invert_yaxis()
    for row, value in enumerate(values):
        axes.text(value, row, f" {value:.2f}", va="center", fontsize=8)
    claimed = claim(found)
    if claimed is not None:
        axes.axvline(claimed, color=_ORANGE, linewidth=1.5)
    axes.set_xlim(0, 1.18 * max(0.1, *values, claimed or 0.0))
    shown = "no finite claim" if claimed is None else f"claimed {claimed:.2f} (line)"
    axes.set_title(f"audited ε, at least; {shown}", fontsize=9)


def _draw_scores(axes: Axes, scored: Scored, access: str) -> None:
    bins = np.histogram_bin_edges(scored.scores, 40).tolist()
    for members, label, color in ((True, "in", _BLUE), (False, "out", _GREY)):
        mine = scored.scores[scored.members == members]
        axes.hist(mine, bins, color=color, alpha=0.6, label=f"{label} ({len(mine)})")
    axes.legend(fontsize=8, frameon=False)
    axes.set_title(f"canaries' scores, {access}", fontsize=9)
    axes.set_ylabel("canaries", fontsize=8)


def _draw_roc(axes: Axes, attacked: Mapping[str, Scored]) -> None:
    least = 0.5 / max(int((~s.members).sum()) for s in attacked.values())
    for name, scored in attacked.items():
        false, true, _ = roc_curve(scored.members, scored.scores, drop_intermediate=False)
        axes.plot(np.maximum(false, least), np.maximum(true, least), label=name, linewidth=1.3)
    axes.plot([least, 1], [least, 1], color=_GREY, linewidth=0.8, linestyle=":")
    axes.set(xscale="log", yscale="log", xlim=(least, 1), ylim=(least, 1))
    axes.set_xlabel("false-positive rate", fontsize=8)
    axes.set_ylabel("true-positive rate", fontsize=8)
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    axes.set_title("membership inference, patients", fontsize=9)
