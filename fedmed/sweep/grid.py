"""The grid of a sweep: which cells it has, where each one lives, and how far it is."""

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import OverrideParseException

from fedmed import config as cfg
from fedmed.config.messages import malformed
from fedmed.core import formats
from fedmed.core.errors import ConfigError, readable
from fedmed.core.files import write_atomically
from fedmed.runs.directory import RunDirectory

State = Literal["done", "running", "failed", "interrupted", "missing"]
FORMAT = 1  # of the file of a grid
LONGEST = 100  # letters of a grid's name in that of its file
GRIDS = "grids"  # the folder, beside the run directories, of the files that tell which cells are


@dataclass(frozen=True)
class Cell:
    """A run of a grid.

    Attributes:
        run_id: names the run directory.
        overrides: what ``python -m fedmed.run`` takes for this cell alone.
        varied: those of them in which the cells of the grid differ.
        folder: the run directory.
        force: whether it is run even if it is done.
    """

    run_id: str
    overrides: tuple[str, ...]
    varied: tuple[str, ...]
    folder: Path
    force: bool = False

    def __str__(self) -> str:
        return f"{' '.join(self.varied) or 'the only cell'}, {self.folder}"

    def state(self) -> State:
        """Return how far the cell is, as its run directory tells."""
        directory = RunDirectory(self.folder)
        if directory.in_use():
            return "running"
        summary = directory.summary()
        if summary is None or not str(summary.get("config_sha256")).startswith(self.run_id):
            return "missing"  # or another run's, which will refuse this one
        status = summary["status"]
        return "done" if status == "finished" else "failed" if status == "failed" else "interrupted"


@dataclass(frozen=True)
class Grid:
    """The cells of a sweep, all different.

    Attributes:
        name: of the experiment.
        folder: of the run directories: ``hydra.sweep.dir``.
        hydra: overrides of Hydra itself, the same for all cells.
        cells: at least one.
    """

    name: str
    folder: Path
    hydra: tuple[str, ...]
    cells: tuple[Cell, ...]

    @classmethod
    def of(cls, arguments: Sequence[str]) -> "Grid":
        """Return the grid of a command line, every cell of it checked.

        Raises:
            ConfigError: naming a cell that cannot be run, and why.
        """
        axes, hydra = axes_of(arguments)
        points = list(itertools.product(*axes.values()))
        settings = cfg.settings([*hydra, *points[0]])
        folder = Path(settings.sweep.dir)
        cells: dict[str, Cell] = {}
        names: dict[str, None] = {}
        for point in points:
            varied = tuple(o for o, axis in zip(point, axes.values(), strict=True) if len(axis) > 1)
            try:
                config = cfg.compose(point)
            except ConfigError as error:
                raise ConfigError(f"{error} (in the cell {' '.join(varied)})") from None
            run_id = config.sha256[:16]
            names[config.name] = None
            cells[run_id] = Cell(run_id, point, varied, folder / run_id, config.force)
        return cls("+".join(names), folder, tuple(hydra), tuple(cells.values()))

    def save(self) -> Path:
        """Write ``grids/NAME-HASH.json``; the same cells have the same file.

        Raises:
            FedmedError: if the folder cannot be written.
        """
        ids = " ".join(sorted(cell.run_id for cell in self.cells))
        name = re.sub(r"[^\w.+-]", "_", self.name)[:LONGEST]
        hashed = hashlib.sha256(ids.encode()).hexdigest()[:8]
        path = self.folder / GRIDS / f"{name}-{hashed}.json"
        cells = [
            {k: v for k, v in asdict(cell).items() if k in ("run_id", "overrides", "varied")}
            for cell in self.cells
        ]
        text = json.dumps({formats.KEY: FORMAT, "name": self.name, "cells": cells}, indent=1)
        with readable(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda new: new.write_text(text + "\n"))
        return path

    @classmethod
    def load(cls, path: Path) -> "Grid":
        """Read what :meth:`save` wrote.

        Raises:
            FedmedError: if it is no such file, or of a newer format.
        """
        folder = path.parent.parent
        try:
            saved = json.loads(path.read_text())
            formats.check(path, saved.get(formats.KEY), FORMAT)
            cells = [
                Cell(c["run_id"], (*c["overrides"],), (*c["varied"],), folder / c["run_id"])
                for c in saved["cells"]
            ]
            return cls(saved["name"], folder, (), tuple(cells))
        except (ValueError, LookupError, TypeError, AttributeError):
            raise ConfigError(f"{path}: is not the file of a grid") from None


def axes_of(arguments: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Return the choices of each key, as overrides, and the overrides of Hydra itself.

    What an experiment sweeps by itself (``hydra.sweeper.params``) comes first, and the command line
    goes over it.
    """
    given = _parse(arguments)
    hydra = [o.input_line or "" for o in given if o.is_hydra_override()]
    own = _axes(o for o in given if not o.is_hydra_override())
    first = [axis[0] for axis in own.values()]
    params: dict[str, Any] = cfg.settings([*hydra, *first]).sweeper.params or {}
    return _axes(_parse([f"{key}={value}" for key, value in params.items()])) | own, hydra


def _parse(arguments: Sequence[str]) -> list[Override]:
    try:
        return OverridesParser.create().parse_overrides(list(arguments))
    except OverrideParseException as error:
        raise ConfigError(malformed(error)) from None


def _axes(overrides: Iterable[Override]) -> dict[str, list[str]]:
    axes: dict[str, list[str]] = {}
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            axes[key] = [override.input_line or ""]
        elif override.is_discrete_sweep():
            axes[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            raise ConfigError(
                f"{key}: a grid takes a,b,c or range(a,b) or choice(a,b), no interval"
            )
    return axes
