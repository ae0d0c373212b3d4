"""A name is not a file: which file an image is, and that it is one image's alone."""

import os
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fedmed.cli.main import main
from fedmed.config import compose
from fedmed.core.errors import DataError, FedmedError
from fedmed.data.store import pixels_of, prepare
from fedmed.data.table import Dataset, validate
from fedmed.datasets.folder import Folder

SIDE = 16
PATIENTS = 6


def draw(path: Path, level: int) -> None:
    """Write an image of one grey level, which tells it from all others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((SIDE, SIDE), level, np.uint8)).save(path)


def spreadsheet(root: Path, files: Sequence[str], patients: Sequence[str] | None = None) -> None:
    """Write the labels of ``files``, of a patient each unless it is said whose they are."""
    rows = {
        "image": files,
        "patient": patients or [f"p{i}" for i in range(len(files))],
        "fluid": [i % 2 for i in range(len(files))],
    }
    pd.DataFrame(rows).to_csv(root / "labels.csv", index=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A hospital of ``images/0.png`` to ``images/5.png``, of the grey levels 0 to 50."""
    for i in range(PATIENTS):
        draw(tmp_path / "hospital" / "images" / f"{i}.png", 10 * i)
    spreadsheet(tmp_path / "hospital", [f"{i}.png" for i in range(PATIENTS)])
    return tmp_path / "hospital"


def build(root: Path, name: str = "folder") -> Folder:
    made = compose(["dataset=folder", f"dataset.root={root}", f"dataset.name={name}",
                    "dataset.findings={Effusion: fluid}", f"dataset.size={SIDE}"])  # fmt: skip
    dataset: Folder = made.dataset.build()
    return dataset


def levels(dataset: Dataset, store: Path) -> list[int]:
    """Return the grey level that the store holds of each image."""
    table = validate(dataset.table(), dataset)
    prepared = prepare(dataset, table, store, 0, lambda done, total: None)
    assert prepared.unreadable.empty
    return [int(image.mean()) for image in pixels_of(prepared.path)]


LEVELS = [10 * i for i in range(PATIENTS)]


@pytest.mark.parametrize("other", ["a_masks", "zz_thumbs", "images/224", "."])
@pytest.mark.parametrize("headers", [True, False])
def test_a_name_that_two_files_have_is_refused(
    other: str, headers: bool, root: Path, tmp_path: Path
) -> None:
    draw(root / other / "3.png", 255)
    dataset = build(root)
    dataset.headers = headers  # reading them needs the file before the store does
    with pytest.raises(DataError, match=r"3\.png is in 2 places") as refused:
        levels(dataset, tmp_path / "store")
    places = {"images/3.png", "./3.png" if other == "." else f"{other}/3.png"}
    assert all(place in str(refused.value) for place in places)
    assert "\n" not in str(refused.value)


def test_a_path_says_which_of_them(root: Path, tmp_path: Path) -> None:
    draw(root / "3.png", 255)
    draw(root / "masks" / "4.png", 254)
    absolute = str(root / "images" / "1.png")
    files = ["images/0.png", absolute, "2.png", "./3.png", "images/../images/4.png", "5.png"]
    spreadsheet(root, files)
    assert levels(build(root), tmp_path / "store") == [0, 10, 20, 255, 40, 50]


def test_files_of_one_name_that_no_row_asks_for_do_no_harm(root: Path, tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        draw(root / folder / "unused.png", 99)
    assert levels(build(root), tmp_path / "store") == LEVELS


@pytest.mark.parametrize("image", ["../outside.png", "images/../../outside.png", "{}/outside.png"])
def test_a_path_out_of_the_root_is_refused(image: str, root: Path, tmp_path: Path) -> None:
    draw(tmp_path / "outside.png", 9)
    spreadsheet(root, ["0.png", "1.png", image.format(tmp_path)])
    with pytest.raises(DataError, match=r"outside\.png is not below it"):
        levels(build(root), tmp_path / "store")


def hard(root: Path) -> str:
    os.link(root / "images" / "0.png", root / "images" / "copy.png")
    return "copy.png"


def soft(root: Path) -> str:
    (root / "copy.png").symlink_to("images/0.png")
    return "copy.png"


def linked_folder(root: Path) -> str:
    (root / "more").symlink_to("images")
    return "more/0.png"


def dotted(root: Path) -> str:
    return "images/./0.png"


@pytest.mark.parametrize("again", [hard, soft, linked_folder, dotted, lambda _: "images/0.png"])
@pytest.mark.parametrize("whose", ["p0", "p9"])
def test_a_file_that_two_rows_are_is_refused(
    again: Callable[[Path], str], whose: str, root: Path, tmp_path: Path
) -> None:
    other = again(root)
    spreadsheet(root, ["0.png", "1.png", other], ["p0", "p1", whose])
    with pytest.raises(DataError, match="are one file") as refused:
        levels(build(root), tmp_path / "store")
    assert f"0.png and {other} " in str(refused.value)


def test_roots_of_a_federation_that_overlap_are_refused(root: Path, tmp_path: Path) -> None:
    """Two names make two hospitals of one folder, whose patients would be in both."""
    inner = root / "images"
    spreadsheet(inner, [f"{i}.png" for i in range(PATIENTS)])
    linked = tmp_path / "link"
    linked.symlink_to(root)
    for second in (root, inner, linked):
        sets = "dataset.sets."
        made = compose(
            ["dataset=federation", "dataset.targets=[Effusion]", f"dataset.size={SIDE}"]
            + [f"+dataset@{sets}{name}=folder" for name in "ab"]
            + [f"{sets}{name}.root={folder}" for name, folder in (("a", root), ("b", second))]
            + [f"{sets}{name}.name={name}" for name in "ab"]
            + [f"{sets}{name}.findings={{Effusion: fluid}}" for name in "ab"]
        )
        with pytest.raises(DataError, match=r"a/0\.png and b/0\.png are one file"):
            levels(made.dataset.build(), tmp_path / "store")


def test_folders_that_are_links_are_entered(root: Path, tmp_path: Path) -> None:
    far = tmp_path / "far"
    (root / "images").rename(far)
    (far / "deep").mkdir()
    (far / "5.png").rename(far / "deep" / "5.png")
    (root / "images").symlink_to(far)
    (far / "around").symlink_to(root)  # a circle
    (root / "up").symlink_to(tmp_path)  # what is around the root is none of it
    draw(tmp_path / "other" / "0.png", 255)
    (root / "itself").symlink_to("itself")
    (root / "gone").symlink_to(tmp_path / "nothing")
    (root / "0.png").symlink_to(tmp_path / "nothing.png")
    assert levels(build(root), tmp_path / "store") == LEVELS


def test_the_same_file_by_two_ways_is_one_place(root: Path, tmp_path: Path) -> None:
    (root / "a_link").symlink_to("images")
    (root / "by_patient").mkdir()
    (root / "by_patient" / "3.png").symlink_to("../images/3.png")
    assert levels(build(root), tmp_path / "store") == LEVELS


def test_a_name_may_be_written_in_either_unicode_form(root: Path, tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "Jürgen.png")
    (root / "images" / "0.png").rename(root / "images" / decomposed)
    for image in ("Jürgen.png", "images/Jürgen.png"):
        composed = unicodedata.normalize("NFC", image)
        spreadsheet(root, [composed, *(f"{i}.png" for i in range(1, PATIENTS))])
        assert levels(build(root), tmp_path / "store") == LEVELS
    draw(root / "images" / unicodedata.normalize("NFC", "Jürgen.png"), 255)
    spreadsheet(root, [unicodedata.normalize("NFC", "Jürgen.png"), "1.png"])
    with pytest.raises(DataError, match="is in 2 places"):
        levels(build(root), tmp_path / "store")


def test_what_is_no_file_is_listed(root: Path, tmp_path: Path) -> None:
    os.mkfifo(root / "pipe.png")  # to open it would be to wait for ever
    files = ["0.png", "images", ".", "pipe.png", "x" * 300 + ".png", "0.PNG"]
    spreadsheet(root, files)
    dataset = build(root)
    table = validate(dataset.table(), dataset)
    prepared = prepare(dataset, table, tmp_path / "store", 0, lambda done, total: None)
    assert prepared.unreadable["image"].tolist() == files[1:]
    assert [dataset.has(image) for image in files] == [True] + 5 * [False]


def test_two_copies_of_chexpert_are_refused(tmp_path: Path) -> None:
    for folder in ("CheXpert-v1.0-small", "CheXpert-v1.0"):
        (tmp_path / folder).mkdir()
    made = compose(["dataset=chexpert", f"dataset.root={tmp_path}"])
    with pytest.raises(FedmedError, match=r"holds CheXpert-v1\.0-small and CheXpert-v1\.0"):
        made.dataset.build().table()


def test_the_check_of_a_download_names_both_places(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(root / "masks" / "3.png", 255)
    asked = ["datasets", "check", "folder", str(root), "dataset.findings={Effusion: fluid}"]
    with pytest.raises(SystemExit, match="1"):
        main([*asked, "dataset.headers=false"])
    assert "3.png is in 2 places, images/3.png and masks/3.png" in capsys.readouterr().out
