"""Which engine a run is played on."""

from collections.abc import Mapping, Sequence

from flwr.serverapp import Grid

from fedmed import config as cfg
from fedmed.client.context import at
from fedmed.core.errors import ConfigError
from fedmed.engines.deployment import Hospitals
from fedmed.engines.flower_grid import GridEngine, simulated
from fedmed.engines.local import LocalEngine
from fedmed.federation.engine import Engine

FILES = ("store", "table", "partition", "states")


def engine_for(
    runner: cfg.Runner,
    told: Mapping[str, str],
    sizes: Sequence[int],
    test_images: int,
    grid: Grid | None,
    hospitals: Hospitals | None,
) -> Engine:
    """Return the engine.

    Args:
        runner: what was configured; it has no say where Flower has started the run.
        told: what every client is told about the run.
        sizes: training images of each client.
        test_images: size of the test split.
        grid: Flower's, where it has.
        hospitals: behind it, in a deployment.

    Raises:
        ConfigError: if Ray is asked for and not installed.
    """
    if grid and hospitals:  # which know themselves where their files are
        return GridEngine(grid, hospitals.nodes, {**told, **dict.fromkeys(FILES, "")}, at(told))
    if grid:
        return GridEngine(grid, simulated(grid, len(sizes)), told, at(told))
    if isinstance(runner, cfg.Local):
        return LocalEngine(runner, dict(told), sizes, test_images)
    assert isinstance(runner, cfg.Ray)
    try:
        from fedmed.engines.ray import RayEngine  # slow to import, and an extra
    except ModuleNotFoundError:
        raise ConfigError("runner=ray: needs Ray: pip install 'fedmed[ray]'") from None
    return RayEngine(runner, len(sizes), told, at(told))
