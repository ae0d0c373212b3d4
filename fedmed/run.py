"""``python -m fedmed.run +experiment=NAME [key=value …]``: the command line.

Light on purpose: worker processes are forked while the rest is still being imported.
"""

import gc
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from fedmed import config as cfg
from fedmed import processes
from fedmed.errors import FedmedError, OutOfMemory, readable, starved
from fedmed.terminal import tolerate


def main() -> None:
    """Run what the command line asks for; bad input ends in one line and exit status 2."""
    tolerate()
    with _memory():
        _main()


def _main() -> None:
    arguments = get_args_parser().parse_args()
    if arguments.help:
        from fedmed.help import show

        show()
        return
    os.environ.setdefault("TQDM_DISABLE", "1")  # flwr-datasets' bars would cross ours
    asks = arguments.info or arguments.cfg
    try:
        if arguments.multirun and not asks:
            processes.warm_up("fedmed.experiment")  # each cell is a process that needs all of it
            from fedmed.sweep.launch import sweep

            sys.exit(sweep(arguments.overrides))
        processes.warm_up()
        if not asks:
            cfg.compose(arguments.overrides)
    except FedmedError as error:
        _fail(error)
    run_at_home()


def run_at_home() -> None:
    """Run what ``sys.argv`` asks for, where its run directory can be written."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that what it raises is known here
    logging.raiseExceptions = False  # a log that the disk does not take is no reason to end
    try:
        with _memory(), readable(Path("the run directory")):
            try:
                run_composed()
            except ValueError as error:  # logging's, where run.log cannot be opened
                if isinstance(error.__cause__, OSError):
                    raise error.__cause__ from None
                raise
    except FedmedError as error:
        _fail(error)


@contextmanager
def _memory() -> Iterator[None]:
    """End in one line where there is no memory, whatever the error that says so."""
    try:
        yield
    except Exception as error:
        if not starved(error):
            raise
        _fail(OutOfMemory())


@hydra.main(version_base="1.3", config_path=str(cfg.CONF), config_name="config")
def run_composed(config: DictConfig) -> None:
    """Run the experiment that Hydra composed from ``sys.argv``."""
    from fedmed.console import Console
    from fedmed.experiment import run

    gc.freeze()  # what has been imported is never garbage: looking through it costs a second
    settings = HydraConfig.get()
    try:
        with Console() as console:
            run(
                cfg.parse(config),
                list(settings.overrides.task),
                Path(settings.runtime.output_dir),
                console,
            )
    except FedmedError as error:
        _fail(error)
    except KeyboardInterrupt:
        print("fedmed: interrupted; the same command goes on after the last round", file=sys.stderr)
        sys.exit(130)


def _fail(error: FedmedError) -> None:
    with suppress(OSError):  # where even its log is full
        print(f"fedmed: {error}", file=sys.stderr, flush=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
