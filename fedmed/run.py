"""``python -m fedmed.run +experiment=NAME [key=value …]``: the command line.

Light on purpose: worker processes are forked while the rest is still being imported.
"""

import os
import sys

from hydra._internal.utils import get_args_parser

from fedmed import config as cfg
from fedmed.core import processes
from fedmed.core.errors import FedmedError
from fedmed.core.terminal import tolerate
from fedmed.experiment.main import enough_memory, fail, run_command_line


def main() -> None:
    """Run what the command line asks for; bad input ends in one line and exit status 2."""
    tolerate()
    with enough_memory():
        _main()


def _main() -> None:
    arguments = get_args_parser().parse_args()
    if arguments.help:
        from fedmed.cli.help import show

        show()
        return
    os.environ.setdefault("TQDM_DISABLE", "1")  # flwr-datasets' bars would cross ours
    asks = arguments.info or arguments.cfg
    try:
        if arguments.multirun and not asks:
            processes.warm_up("fedmed.experiment.run")  # each cell is a process that needs it
            from fedmed.sweep.launch import sweep

            sys.exit(sweep(arguments.overrides))
        processes.warm_up()
        if not asks:
            cfg.compose(arguments.overrides)
    except FedmedError as error:
        fail(error)
    run_command_line()


if __name__ == "__main__":
    main()
