"""The store: decoded once, whole or not there, and never mistaken for another."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fedmed.core.errors import DataError
from fedmed.data import decoding
from fedmed.data.store import Store, pixels_of, prepare
from fedmed.datasets.phantom import Phantom

BUILD = """
from pathlib import Path; import os, signal, sys
from fedmed.datasets.phantom import Phantom
from fedmed.data.store import prepare
data = Phantom(["Effusion"], 48, patients=1000)
def told(done, total):
    print(done, flush=True)
    if done >= float(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGSTOP)
prepare(data, data.table(), Path(sys.argv[1]), 0, told)
"""


def build(root: Path, workers: int = 0, **changed: int) -> tuple[Store, list[int]]:
    data = Phantom(["Effusion"], **{"size": 32, "patients": 100} | changed)
    steps: list[int] = []
    store = prepare(data, data.table(), root, workers, lambda done, _: steps.append(done))
    return store, steps


def test_pixels_are_the_datasets(tmp_path: Path) -> None:
    store, steps = build(tmp_path)
    data = Phantom(["Effusion"], 32, patients=100)
    table = data.table()
    assert steps[0] == 0
    assert steps[-1] == len(table)
    assert list(store.table["image"]) == list(table["image"])
    pixels = pixels_of(store.path)
    for row in (0, 57, len(table) - 1):
        np.testing.assert_array_equal(pixels[row], data.read(table["image"][row]))
    assert isinstance(pixels.base, np.memmap) or isinstance(pixels, np.memmap)


def test_address_is_the_content(tmp_path: Path) -> None:
    first, _ = build(tmp_path)
    again, steps = build(tmp_path)
    assert again.path == first.path
    assert steps == []
    parallel, _ = build(tmp_path / "parallel", workers=2)
    assert parallel.sha256 == first.sha256
    others = [build(tmp_path, **c)[0] for c in ({"size": 40}, {"seed": 1}, {"patients": 101})]
    assert len({first.path, *(o.path for o in others)}) == 4
    assert len({first.sha256, *(o.sha256 for o in others)}) == 4


def test_a_build_that_was_killed_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BUILD, str(tmp_path / "killed")]
    killed = subprocess.Popen([*command, "400"], stdout=subprocess.PIPE, text=True)
    assert killed.stdout is not None
    while int(killed.stdout.readline()) < 400:
        pass
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not [p for p in (tmp_path / "killed").iterdir() if p.is_dir() and not p.suffix]
    resumed = subprocess.run([*command, "inf"], capture_output=True, text=True, check=True)
    assert int(resumed.stdout.split()[0]) >= 384
    (path,) = [p for p in (tmp_path / "killed").iterdir() if p.is_dir()]
    whole, _ = build(tmp_path / "whole", size=48, patients=1000)
    assert path.name == whole.path.name
    assert (path / "meta.json").read_text() == (whole.path / "meta.json").read_text()


def test_two_builders_do_not_collide(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BUILD, str(tmp_path), "inf"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0].split() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(bool(output) for output in outputs) == [False, True]  # one built, one waited
    assert len([p for p in tmp_path.iterdir() if p.is_dir()]) == 1


def test_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="store: cannot write"):
        build(tmp_path / "file" / "store")


class Hostile(Phantom):
    """A phantom of which some images do to the process that reads them what a decoder may do."""

    def read(self, image: str) -> NDArray[np.uint8]:
        row = int(self.table().query("image == @image").index[0])
        if row in (3, 4, 70):
            os.kill(os.getpid(), signal.SIGSEGV)
        if row == 10:
            threading.Event().wait()
        if row == 11:
            np.empty(2 * decoding.MEMORY, np.uint8)
        if row == 12:
            time.sleep(1.5)  # slow, but in time
        return super().read(image)


def test_a_decoder_that_dies_hangs_or_eats_costs_its_image_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "SECONDS", 8.0)
    data = Hostile(["Effusion"], 32, patients=60)
    table = data.table()
    store = prepare(data, table, tmp_path, 2, lambda done, total: None)
    images = table["image"]
    assert store.unreadable.set_index("image")["reason"].to_dict() == {
        images[3]: "the decoder crashed",
        images[4]: "the decoder crashed",
        images[70]: "the decoder crashed",
        images[10]: "decoding took more than 8 s",
        images[11]: "needs more than 4 GiB of memory",
    }
    assert len(store.table) == len(table) - 5
    pixels = pixels_of(store.path)
    for row in (0, 5, 12, 69, 71):
        np.testing.assert_array_equal(pixels[row], data.read(images[row]))


class Broken(Phantom):
    """A dataset with a bug."""

    def read(self, image: str) -> NDArray[np.uint8]:
        raise ZeroDivisionError("a bug")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bug_is_not_taken_for_a_broken_image(workers: int, tmp_path: Path) -> None:
    data = Broken(["Effusion"], 32, patients=5)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        prepare(data, data.table(), tmp_path, workers, lambda done, total: None)
