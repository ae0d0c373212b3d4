"""What an earlier process left of a run: a result, a checkpoint to go on from, or nothing."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from fedmed import config as cfg
from fedmed.config import Config, identity
from fedmed.core.errors import FedmedError, readable
from fedmed.experiment.accounts import check_ledger
from fedmed.federation.checkpoint import Checkpoint
from fedmed.federation.reply_filter import ClientFailure
from fedmed.models import Arrays
from fedmed.runs.console import Console
from fedmed.runs.directory import RunDirectory

log = logging.getLogger(__name__)
FINISHED = "finished"


def finished(
    config: Config, overrides: Sequence[str], run_dir: RunDirectory
) -> dict[str, Any] | None:
    """Return the summary of this run if the directory holds its result, None if it is to be run.

    With ``force`` nothing but what was spent counts, and the rest is deleted.

    Raises:
        FedmedError: if the directory holds another configuration's run, naming what differs; or a
            result of which a file is gone or damaged.
    """
    if config.force:
        check_ledger(config, run_dir)
        run_dir.clear()
        return None
    summary = run_dir.summary()
    if summary is None:
        return None
    if summary.get("config_sha256") != config.sha256:
        _refuse_another(config, overrides, run_dir, summary)
        run_dir.clear()
        return None
    if summary["status"] != FINISHED:
        return None
    check_ledger(config, run_dir)
    for name in summary.get("files", ()):
        run_dir.check(name)
    return summary


def _refuse_another(
    config: Config, overrides: Sequence[str], run_dir: RunDirectory, summary: dict[str, Any]
) -> None:
    """Refuse a directory of another configuration, unless it failed before anything came of it."""
    begun = (run_dir.checkpoint, run_dir.ledger)
    if summary["status"] != FINISHED and not any(path.exists() for path in begun):
        return
    differing = identity.differences(run_dir.composed(), cfg.tree(overrides))
    if (there := summary.get("device", config.device)) != config.device:
        differing.append(f"the device, {there} there, {config.device} here")
    raise FedmedError(
        f"{run_dir.path}: holds a run of another configuration (other: "
        f"{', '.join(differing) or 'the content of a file that it names'}); name another "
        "hydra.run.dir, or force=true deletes that run and begins this one"
    )


@contextmanager
def recorded(
    config: Config, overrides: Sequence[str], run_dir: RunDirectory
) -> Iterator[dict[str, Any]]:
    """Record which run it is, that it goes on, and how it ended if it is cut off.

    Yields:
        Which run it is: what every summary begins with.
    """
    if not run_dir.checkpoint.exists():
        run_dir.write_configuration(cfg.record(overrides))
    begun = {
        "run_id": config.sha256[:16],
        "name": config.name,
        "config_sha256": config.sha256,
        "device": config.device,
        "semantics": identity.SEMANTICS,
    }
    run_dir.write_summary(begun | {"status": "running"})
    try:
        with readable(run_dir.path):
            yield begun
    except BaseException as error:
        if isinstance(error, ClientFailure):
            log.error("client failed:\n%s", error.details)
        log.error("failed: %s", error)
        status = "failed" if isinstance(error, Exception) else "interrupted"
        failed = {"status": status, "error": f"{type(error).__name__}: {error}"}
        with suppress(FedmedError):  # a full disk must not hide the error that came before
            run_dir.write_summary(begun | failed)
        raise


def checkpoint_of(
    config: Config,
    overrides: Sequence[str],
    hashes: dict[str, str],
    arrays: Arrays,
    run_dir: RunDirectory,
    console: Console,
) -> Checkpoint:
    """Return where the run stands, having told of what it stands on now and did not before.

    Args:
        config: of the run.
        overrides: what it was composed from now; they may differ in what decides nothing.
        hashes: of the data, which a resumed run must share with the one that it resumes.
        arrays: the global arrays before the first round.
        run_dir: where a checkpoint may be.
        console: told that the run goes on, and on what.

    Raises:
        FedmedError: if the checkpoint is damaged, or was made with other data.
    """
    fresh = Checkpoint(hashes | {"config_sha256": config.sha256}, arrays)
    now = identity.surroundings(config)
    found = Checkpoint.load(run_dir.checkpoint)
    if found is None:
        fresh.surroundings.append(now)
        return fresh
    for name, value in fresh.data.items():
        if found.data[name] != value:
            raise FedmedError(
                f"{run_dir.path}: its checkpoint was made with another {name} "
                f"({found.data[name][:12]}, now {value[:12]}); force=true starts anew"
            )
    run_dir.write_configuration(cfg.record(overrides))
    console.say(f"resuming after round {found.round}")
    if now not in found.surroundings:
        new = identity.changed(found.surroundings[-1], now)
        console.warn(f"the rounds to come may differ in their last bits: {new}")
        found.surroundings.append(now)
    return found
