"""Sums of updates whose run is killed at any moment: it goes on to the same weights."""

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import TINY, summary

from fedmed.experiment.run import run
from fedmed.runs.console import Console

#: How often a run is killed; FEDMED_KILLS says more.
KILLS = int(os.environ.get("FEDMED_KILLS", "3"))
CONFIG = (*TINY, "client=sgd", "client.steps=2", "rounds=4", "aggregation.threshold=0.5")
OTHERS = {"paillier": ("aggregation.key_bits=2048", "aggregation.blinding=full")}


def _run(overrides: Sequence[str], folder: Path) -> None:
    os.setpgrp()
    with Console() as console:
        run(overrides, folder, console)


NAMES = ("secagg", "bfv", *(("paillier", "ckks") if "FEDMED_KILLS" in os.environ else ()))


@pytest.mark.parametrize("name", NAMES)
def test_killed_at_any_moment_it_ends_in_the_same_weights(
    store: Path, tmp_path: Path, name: str
) -> None:
    """Masks and keys are others each time; their sums are not."""
    config = (*CONFIG, f"store={store}")
    started = time.monotonic()
    _run((*config, "aggregation=fixed"), tmp_path / "whole")
    took = time.monotonic() - started
    own = (*config, f"aggregation={name}", *OTHERS.get(name, ()))
    rng, cut, inside = random.Random(name), tmp_path / "cut", 0
    fork = multiprocessing.get_context("fork")
    for _ in range(KILLS):
        process = fork.Process(target=_run, args=(own, cut))
        process.start()
        process.join(rng.uniform(0.1, took))
        assert process.pid
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            inside += any(cut.rglob("secret-*"))
        elif (cut / "summary.json").exists():
            _force(cut)
    _run(own, cut)
    assert summary(cut)["model_sha256"] == summary(tmp_path / "whole")["model_sha256"]
    assert list(cut.rglob("secret-*")) == []
    print(f"{name}: {KILLS} kills, {inside} of them with a secret on the disk")


def _force(folder: Path) -> None:
    """Have a run that has ended begin again."""
    for file in sorted(folder.rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
