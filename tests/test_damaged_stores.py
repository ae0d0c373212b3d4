"""A store, or a hospital's folder, that is not as it was prepared is refused and not used."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scans import ALL, expect, prepare, scans, turn, write_six

from fedmed.core.errors import DataError
from fedmed.data import contents
from fedmed.deployment import node_data


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of six scans, of the seeds 0 to 5."""
    return write_six(tmp_path / "scans")


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a file's look be trusted at once, as if it had lain there for long."""
    monkeypatch.setattr(contents, "SETTLED", -1)


def flip(path: Path, at: int = -5) -> None:
    """Change one bit in place, and no time of writing."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def fewer(path: Path) -> None:
    np.save(path, np.load(path)[:-1])


DAMAGE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "bit": ("pixels.npy", flip),
    "bytes": ("pixels.npy", shorten),
    "rows": ("pixels.npy", fewer),
    "gone": ("pixels.npy", Path.unlink),
    "cut": ("meta.json", shorten),
    "empty": ("meta.json", lambda path: path.write_text("{}")),
    "no meta": ("meta.json", Path.unlink),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("of", ["store", "hospital"])
def test_damaged_pixels_are_refused(
    damage: str, of: str, root: Path, tmp_path: Path, trusting: None
) -> None:
    made, _ = prepare(scans(root), tmp_path / "store")
    folder = made.path
    if of == "hospital":
        folder = tmp_path / "hospital"
        whose = pd.DataFrame({"patient": made.table["patient"], "client": 0, "role": "train"})
        exported = node_data.export(made, whose, folder)
        assert node_data.read(folder).sha256 == exported.sha256
    else:
        prepare(scans(root), tmp_path / "store")
    time.sleep(0.02)
    name, change = DAMAGE[damage]
    change(folder / name)
    with pytest.raises(DataError, match="is not as it was prepared") as refused:
        node_data.read(folder) if of == "hospital" else prepare(scans(root), tmp_path / "store")
    assert "\n" not in str(refused.value)
    shutil.rmtree(folder)
    again, _ = prepare(scans(root), tmp_path / "store")
    expect(again, again.table, list(ALL))


def test_a_hospitals_folder_that_is_there_must_be_of_these_images(
    root: Path, tmp_path: Path
) -> None:
    """As deploy_local.py finds it at its second start."""
    made, _ = prepare(scans(root), tmp_path / "store")
    whose = pd.DataFrame({"patient": ["p0", "p2"], "client": 0, "role": "train"})
    node_data.export(made, whose, tmp_path / "hospital")
    assert node_data.holds(tmp_path / "hospital", made, whose)
    turn(root / "2.dcm")
    turned, _ = prepare(scans(root), tmp_path / "store")
    assert not node_data.holds(tmp_path / "hospital", turned, whose)
    assert not node_data.holds(tmp_path / "hospital", made, whose[:1])


def test_nothing_is_taken_over_from_a_damaged_store(root: Path, tmp_path: Path) -> None:
    made, _ = prepare(scans(root), tmp_path / "store")
    flip(made.path / "pixels.npy")
    turn(root / "0.dcm")
    again, _ = prepare(scans(root), tmp_path / "store")
    expect(again, again.table, [255 - ALL[0], *ALL[1:]])
