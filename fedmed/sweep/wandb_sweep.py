"""A grid as wandb's agents take it: a file for ``wandb sweep``, whose runs are our cells."""

from collections.abc import Sequence
from typing import Any

import yaml

from fedmed import config as cfg
from fedmed.core.errors import ConfigError
from fedmed.sweep.grid import Grid, axes_of


def wandb_sweep(arguments: Sequence[str]) -> dict[str, Any]:
    """Return the sweep configuration of a grid.

    An agent gives each cell the command that one would give for it alone, with
    ``tracking.mode=online``.

    Raises:
        ConfigError: if a cell cannot be run, or the grid has a single one.
    """
    grid = Grid.of(arguments)
    axes, hydra = axes_of(arguments)
    swept = {key: axis for key, axis in axes.items() if len(axis) > 1}
    if not swept:
        raise ConfigError("nothing is swept: give a key several values, as in seed=0,1,2")
    fixed = [axis[0] for axis in axes.values() if len(axis) == 1]
    tracking = cfg.compose(grid.cells[0].overrides).tracking
    values = {key: [_plain(o.partition("=")[2]) for o in axis] for key, axis in swept.items()}
    return {
        "name": grid.name,
        "project": tracking.project,
        "method": "grid",
        "metric": {"name": "test/macro_auroc", "goal": "maximize"},
        "program": "fedmed.run",
        "command": [
            "${env}",
            "python",
            "-m",
            "fedmed.run",
            *fixed,
            *hydra,
            "tracking.mode=online",
            "${args_no_hyphens}",
        ],
        "parameters": {key: {"values": choices} for key, choices in values.items()},
    }


def _plain(text: str) -> Any:
    """Return a number where wandb prints it as it was typed, and else the text."""
    value = yaml.safe_load(text)
    return value if isinstance(value, int | float) and str(value) == text else text
