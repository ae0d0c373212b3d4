"""The run that a command line asks for, in this process: bad input ends in one line.

Light on purpose: worker processes are forked while the rest is still being imported.
"""

import gc
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from fedmed import config as cfg
from fedmed.core.errors import FedmedError, OutOfMemory, readable, starved
from fedmed.core.terminal import fail


def run_command_line() -> None:
    """Run what ``sys.argv`` asks for, where its run directory can be written."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that what it raises is known here
    logging.raiseExceptions = False  # a log that the disk does not take is no reason to end
    try:
        with enough_memory(), readable(Path("the run directory")):
            try:
                _run_composed()
            except ValueError as error:  # logging's, where run.log cannot be opened
                if isinstance(error.__cause__, OSError):
                    raise error.__cause__ from None
                raise
    except FedmedError as error:
        fail(error)


@contextmanager
def enough_memory() -> Iterator[None]:
    """End in one line where there is no memory, whatever the error that says so."""
    try:
        yield
    except Exception as error:
        if not starved(error):
            raise
        fail(OutOfMemory())


@hydra.main(version_base="1.3", config_path=str(cfg.CONF), config_name="config")
def _run_composed(_: DictConfig) -> None:
    from fedmed.experiment.run import run
    from fedmed.runs.console import Console

    gc.freeze()  # what has been imported is never garbage: looking through it costs a second
    settings = HydraConfig.get()
    try:
        with Console() as console:
            run(list(settings.overrides.task), Path(settings.runtime.output_dir), console)
    except FedmedError as error:
        fail(error)
    except KeyboardInterrupt:
        print("fedmed: interrupted; the same command goes on after the last round", file=sys.stderr)
        sys.exit(130)
