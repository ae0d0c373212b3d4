"""What the process of a cell does: the very command that one would give for the cell alone."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from fedmed import config as cfg
from fedmed.core.terminal import tolerate


def play(overrides: Sequence[str], folder: Path, slot: int, run_id: str | None = None) -> None:
    """Run a cell in this process.

    What it prints goes to its ``run.log``. GPUs are dealt out by ``slot``, the place of this
    process among those that share them.

    Args:
        overrides: of the cell.
        folder: its run directory.
        slot: see above.
        run_id: what the run is, as seen from where the grid was launched; None where that is here.

    Raises:
        SystemExit: if the run fails, as the command does, or is another one on this machine.
    """
    if torch.cuda.is_available():
        torch.cuda.set_device(slot % torch.cuda.device_count())
    os.environ.setdefault("TQDM_DISABLE", "1")
    tolerate()
    with _printing_to(folder / "run.log"):
        from fedmed.experiment.main import run_command_line

        if run_id is not None and (config := cfg.compose(overrides)).sha256[:16] != run_id:
            print(
                f"fedmed: runner.device: auto is {config.device} on this machine, and was not "
                f"where the grid was launched; launch it with runner.device={config.device}",
                file=sys.stderr,
            )
            sys.exit(2)
        sys.argv = ["fedmed.run", *overrides, f"hydra.run.dir={_quoted(folder)}"]
        run_command_line()


@contextmanager
def _printing_to(log: Path) -> Iterator[None]:
    """Send to a file what this process, libraries and interpreter included, prints."""
    log.parent.mkdir(parents=True, exist_ok=True)
    before = os.dup(1), os.dup(2)
    with log.open("a") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for stream, old in zip((1, 2), before, strict=True):
            os.dup2(old, stream)
            os.close(old)


def _quoted(path: Path) -> str:
    """Return a path as Hydra's grammar takes any text."""
    return "'" + str(path).replace("\\", "\\\\").replace("'", "\\'") + "'"
