"""A run from Python: what ``fedmed run`` does, and what it leaves, as a :class:`Run`."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fedmed import config as cfg
from fedmed.core.errors import OutOfMemory, readable, starved
from fedmed.core.texts import LogFormatter
from fedmed.experiment.callbacks import Callback
from fedmed.experiment.run import run
from fedmed.runs.console import Console
from fedmed.runs.run import Run


def train(
    *overrides: str,
    folder: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    **keys: str | float | None,
) -> Run:
    """Train a federation as ``fedmed run`` does, and return what it has left.

    The run is the command's to the bit, with its directory and its id: one that was cut off goes
    on, a finished one is recognised. It works in a notebook and in a script, which need not ask
    whether it is ``__main__``; components of your own lie in a module that can be imported.

    Args:
        overrides: as after ``fedmed run``: ``"+experiment=quickstart"``, ``"client.lr=0.1"``.
        folder: the run directory; None for the command's, ``runs/RUN_ID`` below this folder.
        callbacks: your own, called beside the run's; they change neither its result nor its id,
            and a run that is finished already calls none.
        keys: overrides of keys and groups without a dot: ``seed=1``, ``strategy="fedprox"``.

    Returns:
        The finished run.

    Raises:
        FedmedError: in one line, when something is wrong that you can mend.
    """
    asked = [*overrides, *(f"{key}={_written(value)}" for key, value in keys.items())]
    cfg.compose(asked)  # refuse what is wrong before a folder is made
    where = Path(cfg.settings(asked).run.dir if folder is None else folder)
    with readable(where), _logged(where), Console() as console:
        try:
            run(asked, where, console, own=callbacks)
        except Exception as error:
            if starved(error):
                raise OutOfMemory from None
            raise
    return Run(where)


def _written(value: str | float | None) -> str:
    """Return a value as the command line has it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


@contextmanager
def _logged(folder: Path) -> Iterator[None]:
    """Write into ``run.log`` what fedmed logs, as the command does."""
    folder.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(folder / "run.log")
    handler.setFormatter(LogFormatter("[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"))
    logger = logging.getLogger("fedmed")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)
        handler.close()
