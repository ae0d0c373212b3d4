"""``fedmed run +experiment=NAME [key=value …]``, and ``python -m fedmed.run``: a run, or a grid.

Light on purpose: worker processes are forked while the rest is still being imported.
"""

import os
import sys
from argparse import ArgumentParser
from collections.abc import Sequence

from hydra._internal.utils import get_args_parser

from fedmed import config as cfg
from fedmed.core import processes
from fedmed.core.errors import FedmedError
from fedmed.core.terminal import fail, tolerate
from fedmed.experiment.main import enough_memory, run_command_line


def parser() -> ArgumentParser:
    """Return what reads the arguments: Hydra's."""
    return get_args_parser()


def main(argv: Sequence[str]) -> None:
    """Run what the arguments ask for; bad input ends in one line and exit status 2.

    Args:
        argv: overrides and Hydra's own options.
    """
    tolerate()
    sys.argv[1:] = argv  # Hydra reads its arguments there
    with enough_memory():
        _main()


def _main() -> None:
    arguments = parser().parse_args()
    os.environ.setdefault("TQDM_DISABLE", "1")  # flwr-datasets' bars would cross ours
    asks = arguments.info or arguments.cfg
    try:
        if arguments.help:
            from fedmed.cli.help import show

            show(arguments.overrides)
            return
        if arguments.multirun and not asks:
            processes.warm_up("fedmed.experiment.run")  # each cell is a process that needs it
            from fedmed.sweep.launch import sweep

            sys.exit(sweep(arguments.overrides))
        if "runner.workers=0" not in arguments.overrides:  # else there are none to import for
            processes.warm_up()
        if not asks:
            cfg.compose(arguments.overrides)
    except FedmedError as error:
        fail(error)
    run_command_line()
