"""The Flower ServerApp: ``flwr run`` starts it, with a Grid to simulated or to real hospitals.

The run config has one string, the overrides, as they stand after ``python -m fedmed.run``.
"""

import logging
from pathlib import Path
from shlex import split

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedmed import config as cfg
from fedmed.core.terminal import tolerate
from fedmed.core.texts import LogFormatter
from fedmed.experiment.run import run
from fedmed.runs.console import Console

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the experiment over the Grid, and leave its run directory."""
    tolerate()
    overrides = split(str(context.run_config["overrides"]))
    cfg.compose(overrides)  # what is wrong with them is told before a folder is made
    folder = Path(cfg.settings(overrides).run.dir).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    _log_to(folder / "run.log")
    with Console() as console:
        console.say(f"run directory: {folder}")
        run(overrides, folder, console, grid)


def _log_to(file: Path) -> None:
    handler = logging.FileHandler(file)
    handler.setFormatter(LogFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("fedmed")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
