"""One experiment, from its configuration to its run directory: the natural way of the data."""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from flwr.serverapp import Grid

from fedmed import config as cfg
from fedmed.config import Config, Deployment, identity
from fedmed.engines.deployment import Hospitals, connect
from fedmed.engines.local import workers
from fedmed.experiment.accounts import open_accounts
from fedmed.experiment.assembly import built, opened_federation, run_context
from fedmed.experiment.callbacks import Callback, callbacks_of
from fedmed.experiment.data import Data, prepare, review, save
from fedmed.experiment.recording import Recorder
from fedmed.experiment.remote_data import connected
from fedmed.experiment.results import conclude
from fedmed.experiment.resume import checkpoint_of, finished, recorded
from fedmed.privacy.plan import privacy_plan
from fedmed.runs.console import Console, config_line
from fedmed.runs.directory import RunDirectory


def run(
    overrides: Sequence[str],
    folder: Path,
    console: Console,
    grid: Grid | None = None,
    own: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Run an experiment, or go on with it, or recognise that it is done.

    Args:
        overrides: what the configuration is composed from, as on the command line.
        folder: the run directory.
        console: where progress is shown.
        grid: Flower's, where Flower has started the run; else the runner makes its own.
        own: the user's callbacks; a run that is done already calls none.

    Returns:
        The content of ``summary.json``.

    Raises:
        FedmedError: in one line, when something is wrong that the user can mend.
    """
    config, run_dir = cfg.compose(overrides), RunDirectory(folder)
    with run_dir.locked():
        if summary := finished(config, overrides, run_dir):
            console.say(f"{folder} is finished; force=true runs it again")
            if idle := identity.undecisive(overrides):
                console.say(f"not looked at, since they decide no result: {' '.join(idle)}")
            console.report(summary | {"run_dir": folder})
            return summary
        with recorded(config, overrides, run_dir) as begun:
            began = time.perf_counter()
            console.say(config_line(config))
            strategy, arrays = built(config)
            data, hospitals = _data(config, console, grid)
            state = checkpoint_of(config, overrides, data.hashes, arrays, run_dir, console)
            save(data, run_dir)
            review(data, run_dir, console.warn)
            plan = privacy_plan(config, strategy, data)
            accounts = open_accounts(config, plan, data, state, run_dir)
            recorder = Recorder(config, data, accounts.ledger, run_dir, console.warn)
            callbacks = callbacks_of(config, data, accounts, recorder, run_dir, console, began, own)
            with (
                callbacks.following(state.metrics),
                opened_federation(
                    config, strategy, data, accounts, recorder, run_dir, console, grid, hospitals
                ) as federation,
            ):
                setup = time.perf_counter() - began
                state, scores = federation.run(state, callbacks.on_update, callbacks.on_round)
                known = begun | {"record": recorder.finish()}
                outcome = conclude(known, config, data, accounts, state, scores, setup, run_dir)
        callbacks.on_end(outcome)
        return outcome.summary


def _data(config: Config, console: Console, grid: Grid | None) -> tuple[Data, Hospitals | None]:
    """Return the data of a run, and the hospitals that keep theirs, where there are any."""
    if isinstance(config.runner, Deployment):
        hospitals = connect(grid, config.runner, run_context(config), console.say)
        return connected(config, hospitals.reports), hospitals
    return prepare(config, partial(console.show, "images"), workers(config.runner)), None
