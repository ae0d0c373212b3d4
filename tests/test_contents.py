"""A store knows its images by their bytes: whatever is done to a file is seen in the pixels.

The oracle of pixels is NumPy's: 8-bit DICOM under the window 0 to 255 shows its stored values,
turned round for MONOCHROME1. That of hashes is hashlib on those arrays and on the table's CSV.
"""

import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scans import (
    ALL,
    SIDE,
    N,
    Pixels,
    Scans,
    expect,
    folder,
    prepare,
    scan,
    scans,
    shown,
    turn,
    write_six,
)

from fedmed.config import compose
from fedmed.data import contents, decoding, store
from fedmed.data.store import pixels_of


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of six scans, of the seeds 0 to 5."""
    return write_six(tmp_path / "scans")


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a file's look be trusted at once, as if it had lain there for long."""
    monkeypatch.setattr(contents, "SETTLED", -1)


@pytest.mark.parametrize("workers", [0, 2])
def test_folders_of_one_naming_and_one_size_are_two(
    workers: int, root: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    for i in range(N):
        scan(other / f"{i}.dcm", shown(100 + i))
        assert (other / f"{i}.dcm").stat().st_size == (root / f"{i}.dcm").stat().st_size
    table = scans(root).table()
    first, _ = prepare(scans(root), tmp_path / "store", workers)
    second, _ = prepare(scans(other), tmp_path / "store", workers)
    expect(first, table, list(ALL))
    expect(second, table, [shown(100 + i) for i in range(N)])
    assert first.path != second.path


@pytest.mark.parametrize("settled", [True, False])
def test_a_header_put_right_in_place_is_seen(
    settled: bool, root: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if settled:
        request.getfixturevalue("trusting")
    first, _ = prepare(scans(root), tmp_path / "store")
    if settled:
        time.sleep(0.05)  # several ticks of the file system's clock
    turn(root / "2.dcm")
    second, steps = prepare(scans(root), tmp_path / "store")
    expect(second, scans(root).table(), [*ALL[:2], 255 - ALL[2], *ALL[3:]])
    assert second.sha256 != first.sha256
    assert steps[-2:] == [(N - 1, N), (N, N)]  # the others are not decoded again
    expect(first, scans(root).table(), list(ALL))  # a run that goes on has what it had
    turned, _ = prepare(scans(root), tmp_path / "fresh")
    assert (turned.path.name, turned.sha256) == (second.path.name, second.sha256)


def test_files_that_look_the_same_are_not_read_again(
    root: Path, tmp_path: Path, trusting: None
) -> None:
    first, steps = prepare(scans(root), tmp_path / "store")
    assert steps[-1] == (N, N)
    again, steps = prepare(scans(root), tmp_path / "store")
    assert (again.path, again.sha256, steps) == (first.path, first.sha256, [])


def test_what_is_touched_is_hashed_and_what_is_copied_is_known(root: Path, tmp_path: Path) -> None:
    first, _ = prepare(scans(root), tmp_path / "store")
    for file in root.iterdir():
        file.touch()
    touched, steps = prepare(scans(root), tmp_path / "store")
    assert steps[-1] == (N, N)
    assert (0, N) not in steps  # where decoding would begin
    copied = shutil.copytree(root, tmp_path / "copy")
    elsewhere, _ = prepare(scans(copied), tmp_path / "store")
    assert {s.path for s in (first, touched, elsewhere)} == {first.path}
    assert len([p for p in (tmp_path / "store").iterdir() if p.is_dir()]) == 1


def test_a_file_that_goes_bad_leaves_no_pixels_and_comes_back(root: Path, tmp_path: Path) -> None:
    prepare(scans(root), tmp_path / "store")
    sound = (root / "1.dcm").read_bytes()
    (root / "1.dcm").write_bytes(sound[:-9])
    (root / "3.dcm").unlink()
    broken, _ = prepare(scans(root), tmp_path / "store")
    expect(broken, scans(root).table(), [ALL[0], None, ALL[2], None, *ALL[4:]])
    assert broken.unreadable["image"].tolist() == ["1.dcm", "3.dcm"]
    fresh, _ = prepare(scans(root), tmp_path / "fresh")
    assert (fresh.path.name, fresh.sha256) == (broken.path.name, broken.sha256)
    (root / "1.dcm").write_bytes(sound)
    scan(root / "3.dcm", ALL[3])
    whole, _ = prepare(scans(root), tmp_path / "store")
    expect(whole, scans(root).table(), list(ALL))


def test_a_read_that_failed_is_tried_again(root: Path, tmp_path: Path) -> None:
    """Reading /proc/self/mem from its start is an error of input and output; 4.dcm is a circle."""
    for name, target in (("0.dcm", "/proc/self/mem"), ("4.dcm", "4.dcm")):
        (root / name).unlink()
        (root / name).symlink_to(target)
    away, _ = prepare(scans(root), tmp_path / "store")
    reasons = away.unreadable.set_index("image")["reason"].to_dict()
    assert reasons == {"0.dcm": os.strerror(errno.EIO), "4.dcm": os.strerror(errno.ELOOP)}
    _, steps = prepare(scans(root), tmp_path / "store")
    assert steps[-1] == (N, N)
    for i in (0, 4):
        (root / f"{i}.dcm").unlink()
        scan(root / f"{i}.dcm", ALL[i])
    back, _ = prepare(scans(root), tmp_path / "store")
    expect(back, scans(root).table(), list(ALL))


class Hiccup(Scans):
    """Scans whose decoder hangs, or takes too much, as long as the network is down."""

    def read(self, image: str) -> Pixels:
        if (self.root.parent / "down").exists():
            if image == "2.dcm":
                time.sleep(60)
            if image == "3.dcm":
                raise MemoryError
        return super().read(image)


def test_an_image_that_took_too_long_is_tried_again(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusting: None
) -> None:
    dataset = Hiccup(["Effusion"], SIDE, root)
    (tmp_path / "down").touch()
    monkeypatch.setattr(decoding, "SECONDS", 3.0)  # enough for the others, on any machine
    away, _ = prepare(dataset, tmp_path / "store", workers=1)
    assert away.unreadable["image"].tolist() == ["2.dcm", "3.dcm"]
    expect(away, dataset.table(), [*ALL[:2], None, None, *ALL[4:]])
    still, _ = prepare(dataset, tmp_path / "store", workers=1)
    assert (still.path, still.sha256) == (away.path, away.sha256)
    (tmp_path / "down").unlink()
    monkeypatch.setattr(decoding, "SECONDS", 60.0)
    back, steps = prepare(dataset, tmp_path / "store", workers=1)
    expect(back, dataset.table(), list(ALL))
    assert steps[0] == (N - 2, N)
    _, steps = prepare(dataset, tmp_path / "store", workers=1)
    assert steps == []


class Exported(Scans):
    """Scans of which one is written anew while it is read, so many times."""

    times = 1

    def read(self, image: str) -> Pixels:
        pixels = super().read(image)
        if image == "2.dcm" and self.times:
            self.times -= 1
            turn(self.path(image))
            if self.times:
                scan(self.path(image), ALL[2])
        return pixels


def test_a_file_that_changes_while_it_is_read_is_read_anew(root: Path, tmp_path: Path) -> None:
    made, _ = prepare(Exported(["Effusion"], SIDE, root), tmp_path / "store")
    expect(made, made.table, [*ALL[:2], 255 - ALL[2], *ALL[3:]])
    scan(root / "2.dcm", ALL[2])
    restless = Exported(["Effusion"], SIDE, root)
    restless.times = 100
    made, _ = prepare(restless, tmp_path / "other")
    expect(made, restless.table(), [*ALL[:2], None, *ALL[3:]])
    assert made.unreadable["reason"].tolist() == ["changes while it is read"]
    scan(root / "2.dcm", ALL[2])
    made, _ = prepare(scans(root), tmp_path / "other")
    expect(made, made.table, list(ALL))


class Bug(Scans):
    """Scans of which the last cannot be read for a bug."""

    def read(self, image: str) -> Pixels:
        if image == f"{N - 1}.dcm":
            raise ZeroDivisionError
        return super().read(image)


def test_a_build_that_goes_on_does_not_keep_what_has_changed(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedmed.data.building.CHUNK", 2)
    with pytest.raises(ZeroDivisionError):
        prepare(Bug(["Effusion"], SIDE, root), tmp_path / "store")
    turn(root / "1.dcm")
    (partial,) = (tmp_path / "store").glob("*.partial")
    monkeypatch.setattr(Bug, "read", Scans.read)  # mended; its recipe is the same
    made, steps = prepare(Bug(["Effusion"], SIDE, root), tmp_path / "store")
    expect(made, made.table, [ALL[0], 255 - ALL[1], *ALL[2:]])
    assert (3, N) in steps  # of four that were decoded
    assert not partial.exists()


def test_another_decoder_is_another_store(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = prepare(scans(root), tmp_path / "store")
    monkeypatch.setattr(store, "version", lambda name: "0" if name == "pillow" else "1")
    second, _ = prepare(scans(root), tmp_path / "store")
    assert second.path != first.path
    assert second.sha256 == first.sha256  # for the pixels are the same


def federated(root: Path) -> list[str]:
    sets = ["+dataset@dataset.sets.a=folder", "+dataset@dataset.sets.b=phantom"]
    few = ["dataset.sets.b.patients=20", "dataset.targets=[Effusion]"]
    return ["dataset=federation", *sets, *few, *folder(root, "dataset.sets.a")]


def released(root: Path) -> list[str]:
    noise = ["dataset.epsilon=1e9", "dataset.block=1", "dataset.pixels=1"]
    targets = ["dataset.targets=[Effusion]"]
    return ["dataset=released", "dataset@dataset.of=folder", *folder(root, "dataset.of"), *noise,
            *targets]  # fmt: skip


@pytest.mark.parametrize("within", [federated, released, lambda r: ["dataset=folder", *folder(r)]])
def test_what_is_made_of_files_follows_them(
    within: Callable[[Path], list[str]], root: Path, tmp_path: Path
) -> None:
    composed = [*within(root), f"dataset.size={SIDE}"]
    first, _ = prepare(compose(composed).dataset.build(), tmp_path / "store")
    turn(root / "2.dcm")
    second, _ = prepare(compose(composed).dataset.build(), tmp_path / "store")
    for made, two in ((first, ALL[2]), (second, 255 - ALL[2])):
        np.testing.assert_array_equal(pixels_of(made.path)[:N], [*ALL[:2], two, *ALL[3:]])
    assert first.sha256 != second.sha256


def test_an_archive_that_is_replaced_is_another(tmp_path: Path) -> None:
    """One file holds all images; an open one that was read from before must not be read on."""

    def write(key: int) -> dict[str, NDArray[Any]]:
        rng = np.random.default_rng(key)
        arrays: dict[str, Any] = {}
        for split in ("train", "val", "test"):
            arrays[f"{split}_images"] = rng.integers(0, 256, (4, 28, 28), dtype=np.uint8)
            arrays[f"{split}_labels"] = np.array([[0], [1]] * 2, np.uint8)
        np.savez(tmp_path / "pneumoniamnist.npz", **arrays)
        return arrays

    asked = ["dataset=pneumoniamnist", f"dataset.root={tmp_path}"]
    hashes = set()
    for key in (0, 1, 2):
        arrays = write(key)
        made, _ = prepare(compose(asked).dataset.build(), tmp_path / "store")
        images = [arrays[f"{split}_images"] for split in ("train", "val", "test")]
        np.testing.assert_array_equal(pixels_of(made.path), np.concatenate(images))
        hashes.add(made.sha256)
    assert len(hashes) == 3
    assert made.repeated().empty
