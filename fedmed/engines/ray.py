"""Flower's simulation engine over Ray, for as long as a run lasts.

``run_simulation`` is deprecated, and a server app in its thread could neither show progress nor
be interrupted. What it and ``flwr run`` drive is Flower's Virtual Client Engine; so does this
module, which alone knows of it. The engine runs in a thread beside the rounds.
"""

import logging
import os
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, cast

import ray
from flwr.app.typing import ConfigRecordValues
from flwr.proto.task_pb2 import Task
from flwr.server.superlink.fleet.vce import vce_api
from flwr.server.superlink.fleet.vce.backend.backend import Backend
from flwr.server.superlink.fleet.vce.backend.raybackend import RayBackend
from flwr.server.superlink.fleet.vce.metrics import VceMetrics
from flwr.server.superlink.linkstate import InMemoryLinkState, LinkStateFactory
from flwr.server.superlink.linkstate.in_memory_linkstate import RunRecord
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME, NOOP_FEDERATION_ID
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.grid import InMemoryGrid

from fedmed import config as cfg
from fedmed.client.app import app
from fedmed.core.errors import FedmedError
from fedmed.engines.flower_grid import GridEngine
from fedmed.engines.local import workers
from fedmed.engines.waiting import Say
from fedmed.flower import process

FLOWERS = 1  # run and task, as process.host() has them


class Killable(RayBackend):
    """Flower's Ray backend, whose clients can be stopped while they work."""

    def kill(self) -> None:
        """End all clients at once."""
        if self.pool:
            for actor in [*self.pool.pool, *self.pool._future_to_actor.values()]:
                ray.kill(actor)  # type: ignore[arg-type]


class Simulation:
    """Flower's Virtual Client Engine, with as many nodes as there are clients.

    Args:
        runner: what Ray may use.
        clients: how many.

    Attributes:
        grid: Flower's Grid to the nodes.

    Raises:
        FedmedError: if Ray does not start, or has no room for a single client.
    """

    def __init__(self, runner: cfg.Ray, clients: int) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="fedmed-ray-")
        _start_ray(runner, self._scratch.name)
        process.host()
        states = LinkStateFactory(
            FLWR_IN_MEMORY_DB_NAME, NoOpFederationManager(), ObjectStoreFactory()
        )
        run = _register(cast(InMemoryLinkState, states.state()))
        self.grid = InMemoryGrid(states)
        self.grid.set_run(run)
        self._clients = clients
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._backend: Killable | None = None
        self._engine = threading.Thread(target=self._drive, args=(runner, run, states))
        self._engine.start()

    def nodes(self) -> list[int]:
        """Return the nodes, once all of them are there."""
        while len(found := sorted(self.grid.get_node_ids())) < self._clients:
            self.check()
            self._stop.wait(0.05)
        return found

    def check(self) -> None:
        """Raise FedmedError if the engine has ended."""
        if self._error:
            raise FedmedError(
                f"runner=ray: Flower's engine ended: {self._error}; run.log says more"
            )

    def stop(self) -> None:
        """End the engine and all that it started."""
        self._stop.set()
        if self._backend:
            self._backend.kill()  # so that the engine waits for no client that is still at work
        self._engine.join()
        ray.shutdown()
        self._scratch.cleanup()

    def _drive(self, runner: cfg.Ray, run: Run, states: LinkStateFactory) -> None:
        nodes = vce_api._register_nodes(self._clients, states)
        stores = vce_api._register_node_info_stores(nodes, run)
        try:
            vce_api.run_api(
                lambda: app,
                lambda: self._make_backend(runner),
                nodes,
                states,
                stores,
                self._stop,
                VceMetrics(),
            )
        except Exception as error:
            self._error = error.__cause__ or error

    def _make_backend(self, runner: cfg.Ray) -> Backend:
        resources: dict[str, ConfigRecordValues] = {
            "num_cpus": runner.cpus,
            "num_gpus": runner.gpus,
        }
        self._backend = Killable({"client_resources": resources})
        return self._backend


class RayEngine(GridEngine):
    """The federation in Flower's simulation engine.

    Args:
        runner: what Ray may use.
        clients: how many.
        say: called with a line for a person who waits.
    """

    def __init__(self, runner: cfg.Ray, clients: int, say: Say) -> None:
        self._simulation = simulation = Simulation(runner, clients)
        try:
            super().__init__(simulation.grid, simulation.nodes(), say, simulation.check)
        except BaseException:
            simulation.stop()
            raise

    def __exit__(self, *_: object) -> None:
        self._simulation.stop()


def _start_ray(runner: cfg.Ray, scratch: str) -> None:
    """Start Ray for this run alone, or join the cluster at ``runner.address``.

    Runs on one machine are kept apart: each has its own Ray, files and ports, and sees no other
    GPUs than ``CUDA_VISIBLE_DEVICES`` grants.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing leaves without being asked
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    own: dict[str, Any] = {"address": "local", "_temp_dir": scratch, "include_dashboard": False}
    if runner.address is None:
        own["num_cpus"] = max(1, round(workers(runner) * runner.cpus))
    try:
        ray.init(
            **(own if runner.address is None else {"address": runner.address}),
            namespace=Path(scratch).name,
            log_to_driver=False,  # it would write across the progress bars
            logging_level=logging.ERROR,
            runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}},
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise FedmedError(f"runner=ray: Ray does not start: {error}") from None


def _register(state: InMemoryLinkState) -> Run:
    """Make the one run that the engine serves, as Flower's own entry points do."""
    run = Run.create_empty(FLOWERS)
    run.primary_task_id, run.federation_id = FLOWERS, NOOP_FEDERATION_ID
    state.run_ids[FLOWERS] = RunRecord(run=run)
    state.task_store[FLOWERS] = Task(task_id=FLOWERS, run_id=FLOWERS)
    return run
