"""``python -m fedmed.run +experiment=NAME [key=value …]``: the command line.

Light on purpose: worker processes are forked while the rest is still being imported.
"""

import gc
import os
import sys
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from fedmed import config as cfg
from fedmed import processes
from fedmed.errors import FedmedError


def main() -> None:
    """Run what the command line asks for; bad input ends in one line and exit status 2."""
    arguments = get_args_parser().parse_args()
    if arguments.help:
        from fedmed.help import show

        show()
        return
    os.environ.setdefault("TQDM_DISABLE", "1")  # flwr-datasets' bars would cross ours
    processes.warm_up()
    if not (arguments.multirun or arguments.info or arguments.cfg):
        try:
            cfg.compose(arguments.overrides)
        except FedmedError as error:
            _fail(error)
    _hydra_main()


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def _hydra_main(config: DictConfig) -> None:
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
        if settings.mode == RunMode.MULTIRUN:
            raise  # Hydra goes on with the other jobs
        _fail(error)


def _fail(error: FedmedError) -> None:
    print(f"fedmed: {error}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
