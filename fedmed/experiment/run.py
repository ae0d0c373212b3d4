"""One experiment, from its configuration to its run directory: the natural way of the data."""

import logging
import shlex
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedmed import config as cfg
from fedmed import models
from fedmed.client.context import device
from fedmed.config import DPSGD, Config, Deployment, identity
from fedmed.core.errors import FedmedError, readable
from fedmed.core.records import MetricRow
from fedmed.core.seeding import fingerprint
from fedmed.engines.deployment import connect
from fedmed.engines.factory import engine_for
from fedmed.engines.local import workers
from fedmed.evaluation.bootstrap import score
from fedmed.evaluation.metrics import AUROC, POSITIVES, accuracy_by_group, by_group, macro
from fedmed.evaluation.predictions import Predictions
from fedmed.evaluation.subgroups import subgroups
from fedmed.evaluation.summary import summary as evaluation
from fedmed.experiment.data import Data, prepare
from fedmed.experiment.remote_data import connected
from fedmed.experiment.summary import summarise, with_scores
from fedmed.federation.checkpoint import Checkpoint
from fedmed.federation.faults import ClientFailure
from fedmed.federation.replies import TRAINED, VALIDATED, Terms
from fedmed.federation.rounds import Federation
from fedmed.privacy import Ledger, PrivateStrategy, Unit
from fedmed.privacy.assumptions import assumptions, caveats, guarantees
from fedmed.privacy.budget import Spending
from fedmed.privacy.pixel_release import pixel_assumptions, pixel_releases
from fedmed.runs.console import Console, config_line
from fedmed.runs.directory import RunDirectory
from fedmed.runs.tracking import Tracker, check_key
from fedmed.training.hooks import LocalHooks

log = logging.getLogger(__name__)


def run(
    config: Config,
    overrides: Sequence[str],
    folder: Path,
    console: Console,
    grid: Grid | None = None,
) -> dict[str, Any]:
    """Run an experiment, or go on with it, or recognise that it is done.

    Args:
        config: the parsed configuration.
        overrides: what it was composed from; all that a client is told.
        folder: the run directory.
        console: where progress is shown.
        grid: Flower's, where Flower has started the run; else the runner makes its own.

    Returns:
        The content of ``summary.json``.

    Raises:
        FedmedError: in one line, when something is wrong that the user can mend.
    """
    here = RunDirectory(folder)
    with here.locked():
        summary = _earlier(config, overrides, here)
        if summary and summary["status"] == "finished":
            _check_ledger(config, here)
            for name in summary.get("files", ()):
                here.check(name)
            console.say(f"{folder} is finished; force=true runs it again")
            if idle := identity.undecisive(overrides):
                console.say(f"not looked at, since they decide no result: {' '.join(idle)}")
            console.report(summary | {"run_dir": folder})
            return summary
        if not here.checkpoint.exists():
            here.write_configuration(cfg.record(overrides))
        begun = {
            "run_id": config.sha256[:16],
            "name": config.name,
            "config_sha256": config.sha256,
            "device": config.device,
            "semantics": identity.SEMANTICS,
        }
        here.write_summary(begun | {"status": "running"})
        try:
            with readable(folder):
                summary = begun | _run(config, overrides, here, console, grid)
        except BaseException as error:
            if isinstance(error, ClientFailure):
                log.error("client failed:\n%s", error.details)
            log.error("failed: %s", error)
            status = "failed" if isinstance(error, Exception) else "interrupted"
            failed = {"status": status, "error": f"{type(error).__name__}: {error}"}
            with suppress(FedmedError):  # a full disk must not hide the error that came before
                here.write_summary(begun | failed)
            raise
        here.write_summary(summary)
        console.report(summary | {"run_dir": folder})
        return summary


def _earlier(config: Config, overrides: Sequence[str], here: RunDirectory) -> dict[str, Any] | None:
    """Return the summary of what the directory holds of this run, None where nothing is.

    Raises:
        FedmedError: if what it holds is of another configuration, naming what differs.
    """
    if config.force:
        _check_ledger(config, here)
        here.clear()
        return None
    summary = here.summary()
    if summary is None or summary.get("config_sha256") == config.sha256:
        return summary
    begun = summary["status"] == "finished" or here.checkpoint.exists() or here.ledger.exists()
    if not begun:  # it failed before anything came of it
        here.clear()
        return None
    differing = identity.differences(here.composed(), cfg.tree(overrides))
    if (there := summary.get("device", config.device)) != config.device:
        differing.append(f"the device, {there} there, {config.device} here")
    raise FedmedError(
        f"{here.path}: holds a run of another configuration (other: "
        f"{', '.join(differing) or 'the content of a file that it names'}); name another "
        "hydra.run.dir, or force=true deletes that run and begins this one"
    )


def _run(
    config: Config,
    overrides: Sequence[str],
    here: RunDirectory,
    console: Console,
    grid: Grid | None,
) -> dict[str, Any]:
    started = time.perf_counter()
    device(config.runner)  # refuse early what it cannot be run on
    check_key(config.tracking)
    console.say(config_line(config))
    strategy = config.strategy.server.build()
    network = models.build(config.model, config.seed, config.norm)
    if isinstance(config.privacy, DPSGD):
        models.check_private(network)
    hospitals = None
    if isinstance(config.runner, Deployment):
        hospitals = connect(grid, config.runner, overrides, console.say)
        data: Data = connected(config, here, hospitals.told)
    else:
        data = prepare(config, here, console, workers(config.runner))
    parameters_only = config.strategy.state == "parameters"
    bound = data.hashes | {"config_sha256": config.sha256}
    fresh = Checkpoint(bound, models.arrays_of(network, parameters_only))
    state = _resume(here, fresh, identity.surroundings(config), console)
    here.write_configuration(cfg.record(overrides))
    ledger, spending = _accounts(config, strategy, data, state, here)
    for caveat in ledger.caveats if ledger else ():
        console.say(caveat, "red")
    sizes = data.clients["train_images"].tolist()
    told = _told(overrides, data, here)
    engine = engine_for(config.runner, told, sizes, len(data.test), grid, hospitals)
    with engine, Tracker(config, here.path, config.sha256[:16], console.warn) as tracker:
        if not config.withholds:  # who has how many of what is private too
            tracker.log_federation(data.clients, here.picture)
        tracker.replay(state.metrics)
        rows: list[MetricRow] = list(state.metrics)

        def on_round(round_: int, new: Sequence[MetricRow]) -> None:
            rows.extend(new)
            here.write_metrics(rows)
            tracker.log_round(round_, new)
            console.round(round_, config.rounds, new, time.perf_counter() - started)
            log.info("round %d: %s", round_, [tuple(row[2:]) for row in new if row.client < 0])

        validating = data.clients.query("val_images > 0")["client"]
        federation = Federation(
            config,
            strategy,
            engine,
            _terms(config, data),
            data.truth,
            frozenset() if config.withholds else frozenset(validating),
            ledger,
            spending,
            fingerprint(config.sha256, data.clients[["train_images", "val_images"]].to_numpy()),
            here.checkpoint,
            console.client_done,
            console.warn,
        )
        setup = time.perf_counter() - started
        state, scores = federation.run(state, on_round)
        targets = tuple(config.dataset.arguments["targets"])
        predictions = Predictions(targets, scores, data.truth, data.test)
        clients, test = _results(data, state, predictions, here)
        summary = summarise(config, data, state, test, clients, ledger, setup)
        summary["files"] = here.digests()
        tracker.finish(summary, None if config.withholds else clients)
    return summary


def _accounts(
    config: Config, strategy: Strategy, data: Data, state: Checkpoint, here: RunDirectory
) -> tuple[Ledger | None, Spending | None]:
    """Return the ledger of a run that releases anything privately, and who pays in it.

    Raises:
        FedmedError: if the ledger of a run that has begun is gone, or another's, or damaged.
    """
    dataset, images = data.dataset, data.store.table
    of_pixels = pixel_releases(dataset, images, data.assigned) if dataset else []
    deltas = guarantees(config, strategy, of_pixels)
    if not deltas:
        return None, None
    of_images = pixel_assumptions(dataset, images["image"]) if dataset else ()
    stated = (*of_images, *assumptions(config, strategy))
    if state.round and not here.ledger.exists():
        raise _ledger_gone(here)
    said = caveats(deltas, _protected(config, strategy, data))
    ledger = Ledger.open(
        here.ledger,
        deltas,
        stated,
        config.repeatable,
        said,
        config_sha256=config.sha256,
        basis=identity.basis(state.data, state.surroundings[-1]),
    )
    if not state.round:
        ledger.begin_anew()
    spending = None
    if isinstance(config.privacy, DPSGD):
        units = data.units(config.privacy.unit)
        spending = Spending(config, units, ledger, begins=not state.round)
    ledger.record_lasting(data.hashes["data_sha256"], *of_pixels)
    return ledger, spending


def _protected(config: Config, strategy: Strategy, data: Data) -> dict[Unit, int]:
    """Return how many units of each kind a run's training protects."""
    found: dict[Unit, int] = {}
    if isinstance(config.privacy, DPSGD):
        found[config.privacy.unit] = sum(data.units(config.privacy.unit))
    if isinstance(strategy, PrivateStrategy):
        nominal = getattr(strategy, "nominal_clients", None)
        found["client"] = nominal or len(data.clients)
    return found


def _terms(config: Config, data: Data) -> dict[str, Terms]:
    """Return what is known of the clients' replies before any comes: their sizes above all."""
    unit = config.privacy.unit if isinstance(config.privacy, DPSGD) else "image"
    validated = dict(zip(data.clients["client"], data.clients["val_images"].tolist(), strict=True))
    rule = config.strategy.local.build() if config.strategy.local else LocalHooks()
    withheld = {"loss"} if config.withholds else set()
    weighting, targets = config.strategy.weighting, len(config.dataset.arguments["targets"])
    return {
        "train": Terms(
            dict(enumerate(data.units(unit))),
            weighting,
            frozenset(TRAINED - withheld | rule.metrics),
            extras=rule.records,
        ),
        "val": Terms(validated, weighting, VALIDATED, dict.fromkeys((AUROC, POSITIVES), targets)),
    }


def _check_ledger(config: Config, here: RunDirectory) -> None:
    """Refuse to go by what was spent, or to begin anew over it, where that is not known."""
    Ledger.check(here.ledger, config.sha256)
    spent: Any = None
    with suppress(FedmedError):  # a damaged summary tells nothing
        spent = (here.summary() or {}).get("privacy", {}).get("unit")
    if spent and not here.ledger.exists():
        raise _ledger_gone(here)


def _ledger_gone(here: RunDirectory) -> FedmedError:
    return FedmedError(
        f"{here.ledger}: is gone, and with it what the run has spent; put back a copy of it, or "
        "name another hydra.run.dir and count what was released from here as well"
    )


def _told(overrides: Sequence[str], data: Data, here: RunDirectory) -> dict[str, str]:
    """Return what every client is told about the run."""
    return {
        "overrides": shlex.join(overrides),
        "store": str(data.store.path.resolve()),
        "table": str(here.table.resolve()),
        "partition": str(here.partition.resolve()),
        "states": str(here.states.resolve()),
    }


def _results(
    data: Data, state: Checkpoint, predictions: Predictions, here: RunDirectory
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Write the files of a finished run; return its clients' scores and the test's."""
    here.write_metrics(state.metrics)
    here.write_model(state.arrays)
    here.write_predictions(predictions)
    seconds = pd.DataFrame({"round": range(1, state.round + 1), "seconds": state.seconds})
    here.write_csv(seconds, "time.csv")
    scores, targets = predictions.scores, predictions.targets
    at_sites = by_group(scores, data.truth, targets, data.test["site"], data.test["patient"])
    clients = with_scores(data, state.metrics, state.round, at_sites.macro)
    here.write_csv(clients, "clients.csv")
    test = evaluation(score(predictions))
    accuracy = accuracy_by_group(scores, data.truth, data.test["site"])
    sites = {
        "by_site": at_sites.macro,
        "by_site_findings": at_sites.findings,
        "by_site_positives": at_sites.positives,
        "accuracy_by_site": accuracy,
        "mean_site_accuracy": macro(accuracy),
    }
    return clients, test | {"subgroups": subgroups(predictions), **sites}


def _resume(
    here: RunDirectory, fresh: Checkpoint, now: dict[str, str], console: Console
) -> Checkpoint:
    """Return where the run stands, having told of what it stands on now and did not before."""
    found = Checkpoint.load(here.checkpoint)
    if found is None:
        fresh.surroundings.append(now)
        return fresh
    for name, value in fresh.data.items():
        if found.data[name] != value:
            raise FedmedError(
                f"{here.path}: its checkpoint was made with another {name} "
                f"({found.data[name][:12]}, now {value[:12]}); force=true starts anew"
            )
    console.say(f"resuming after round {found.round}")
    if now not in found.surroundings:
        new = identity.changed(found.surroundings[-1], now)
        console.warn(f"the rounds to come may differ in their last bits: {new}")
        found.surroundings.append(now)
    return found
