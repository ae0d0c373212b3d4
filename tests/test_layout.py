"""The checkout and the wheel: importable from anywhere, and nobody's name is taken."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from fedmed.deployment.flower_app import write_app

CHECK = (
    "import datasets, fedmed.datasets.nih, fedmed.strategies.fedprox; "
    "assert hasattr(datasets, 'load_dataset'), datasets"
)


@pytest.mark.parametrize("folder", [ROOT, ROOT.parent])
def test_datasets_stays_hugging_faces(folder: Path) -> None:
    subprocess.run([sys.executable, "-c", CHECK], cwd=folder, check=True)


def test_wheel_runs_the_quickstart_elsewhere(tmp_path: Path, store: Path) -> None:
    source = tmp_path / "source"
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    for name in tracked.stdout.split():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_symlink():
            (source / name).symlink_to((ROOT / name).readlink())
        else:
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "-w", tmp_path, source]
    subprocess.run([str(word) for word in build], check=True)
    (wheel,) = tmp_path.glob("fedmed-*.whl")
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "-t", site, wheel]
    subprocess.run([str(word) for word in install], check=True)
    shipped = {path.name for path in (site / "fedmed" / "report" / "templates").iterdir()}
    assert shipped == {"report.html", "report.css", "report.js"}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    run = [sys.executable, "-m", "fedmed.run", "+experiment=quickstart", "rounds=1"]
    small = ["dataset.patients=60", "dataset.size=32", "tracking.mode=disabled"]
    environment = os.environ | {
        "PYTHONPATH": str(site),
        "FEDMED_STORE": str(store),
        "COLUMNS": "200",
    }
    subprocess.run([*run, *small], cwd=elsewhere, env=environment, check=True, timeout=300)
    (run_directory,) = (elsewhere / "runs").iterdir()
    assert (run_directory / "summary.json").exists()

    def fedmed(*arguments: str) -> str:
        command = [str(site / "bin" / "fedmed"), *arguments]
        done = subprocess.run(
            command, cwd=elsewhere, env=environment, check=True, capture_output=True, text=True
        )
        return done.stdout

    assert "NIH ChestX-ray14" in fedmed("datasets")
    assert "| fedavg |" in fedmed("table", "runs", "--rows", "strategy")
    assert "wrote report.html" in fedmed("report", "runs")
    app = write_app(tmp_path / "app") / "pyproject.toml"
    assert _flower(app)["components"] == _flower(ROOT / "pyproject.toml")["components"]


def _flower(project: Path) -> dict[str, Any]:
    return dict(tomllib.loads(project.read_text())["tool"]["flwr"]["app"])
