"""What is odd about images is told with the data: two patients' same pixels, and blank films."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scans import ALL, SIDE, folder, scan, shown, write_six

from fedmed import partition
from fedmed.config import compose
from fedmed.experiment import data
from fedmed.runs.console import Console
from fedmed.runs.directory import RunDirectory


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of six scans, of the seeds 0 to 5."""
    return write_six(tmp_path / "scans")


def test_images_that_two_patients_share_are_told(root: Path, tmp_path: Path) -> None:
    scan(root / "5.dcm", ALL[0])  # of a test patient, as of one to train on
    scan(root / "1.dcm", ALL[3])
    here = RunDirectory(tmp_path / "run")
    here.path.mkdir()
    asked = ["dataset=folder", *folder(root), f"dataset.size={SIDE}", "partition=iid",
             "partition.clients=2", f"store={tmp_path / 'store'}"]  # fmt: skip
    with Console() as console:
        prepared = data.prepare(compose(asked), partial(console.show, "images"), 0)
        data.save(prepared, here)
        data.review(prepared, here, console.warn)
    told = pd.read_csv(here.path / "duplicates.csv")
    groups = told.groupby("group")["image"].agg(set).tolist()
    assert groups == [{"0.dcm", "5.dcm"}, {"1.dcm", "3.dcm"}]
    assert "4 images are the same as another patient's" in prepared.caveats[-1]
    assert "of which 1 are both in the test split and out of it" in prepared.caveats[-1]
    assert partition.sha256(prepared.assigned)


def test_images_of_one_grey_level_are_told(tmp_path: Path) -> None:
    """Some sets hold blank films; an image that shows nothing is used, but never without a word."""
    (tmp_path / "images").mkdir()
    for i in range(20):
        values = np.full((16, 16), 40 + i, np.uint8) if i in (3, 12) else shown(i)
        Image.fromarray(values).save(tmp_path / "images" / f"{i}.png")
    sheet = pd.DataFrame({"file": [f"{i}.png" for i in range(20)], "who": range(20)})
    sheet.assign(fluid=[0, 1] * 10).to_csv(tmp_path / "labels.csv", index=False)
    here = RunDirectory(tmp_path / "run")
    here.path.mkdir()
    asked = [
        *("dataset=folder", f"dataset.root={tmp_path}", "dataset.table=labels.csv"),
        *("dataset.columns.image=file", "dataset.columns.patient=who", "dataset.size=16"),
        *("dataset.findings={Effusion: fluid}", "partition=iid", "partition.clients=2"),
        f"store={tmp_path / 'store'}",
    ]
    for _ in range(2):  # built, and found
        with Console() as console:
            prepared = data.prepare(compose(asked), partial(console.show, "images"), 0)
            data.save(prepared, here)
        told = pd.read_csv(here.path / "one_grey_level.csv")
        assert told["image"].tolist() == ["3.png", "12.png"]
        assert "2 images are of one grey level" in prepared.caveats[-1]
