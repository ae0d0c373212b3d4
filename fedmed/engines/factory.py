"""Which engine carries a run's messages, and what scores its test split."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from flwr.serverapp import Grid
from hydra.utils import get_object

from fedmed import config as cfg
from fedmed.core.errors import ConfigError
from fedmed.engines.deployment import Hospitals
from fedmed.engines.flower_grid import GridEngine, simulated
from fedmed.engines.local import LocalEngine
from fedmed.engines.pool import Inline
from fedmed.engines.scoring import TestScorer
from fedmed.engines.waiting import Say
from fedmed.federation.engine import Engine
from fedmed.federation.messages import RunContext


@contextmanager
def opened(
    runner: cfg.Runner,
    run: RunContext,
    sizes: Sequence[int],
    test_images: int,
    say: Say,
    grid: Grid | None = None,
    hospitals: Hospitals | None = None,
) -> Iterator[tuple[Engine, TestScorer]]:
    """Open the engine of a run, and what scores its test split, for as long as the block lasts.

    Args:
        runner: what was configured; it has no say where Flower has started the run.
        run: where the server's own files are.
        sizes: training images of each client.
        test_images: size of the test split.
        say: called with a line for a person who waits.
        grid: Flower's, where Flower has started the run.
        hospitals: behind it, in a deployment.

    Raises:
        ConfigError: if Ray is asked for and not installed, or ``runner.engine`` is no engine.
    """
    engine = _engine(runner, sizes, say, grid, hospitals)
    pool = engine.pool if isinstance(engine, LocalEngine) else Inline()
    with engine, TestScorer(run, test_images, pool, say) as scorer:
        yield engine, scorer


def _engine(
    runner: cfg.Runner,
    sizes: Sequence[int],
    say: Say,
    grid: Grid | None,
    hospitals: Hospitals | None,
) -> Engine:
    if grid:
        nodes = hospitals.nodes if hospitals else simulated(grid, len(sizes))
        deadline = runner.deadline if isinstance(runner, cfg.Deployment) else None
        return GridEngine(grid, nodes, say, deadline=deadline)
    if isinstance(runner, cfg.Local):
        return LocalEngine(runner, sizes, say)
    if isinstance(runner, cfg.Custom):
        kind = get_object(runner.engine.target)
        if not (isinstance(kind, type) and issubclass(kind, Engine)):
            raise ConfigError(f"runner.engine: {runner.engine.target} is no Engine")
        return kind(clients=len(sizes), **runner.engine.arguments)
    assert isinstance(runner, cfg.Ray)
    try:
        from fedmed.engines.ray import RayEngine  # slow to import, and an extra
    except ModuleNotFoundError:
        raise ConfigError("runner=ray: needs Ray: pip install 'fedmed[ray]'") from None
    return RayEngine(runner, len(sizes), say)
