"""Tables of recorded runs come out as they are recorded, so that what changes them is a diff.

``python tests/golden.py`` records them anew: look at the diff before it is committed.
"""

from pathlib import Path

import golden
import pandas as pd
import pytest


@pytest.mark.parametrize("name", golden.TABLES)
def test_a_table_is_as_it_is_recorded(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    golden.restore(tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    golden.make([name])
    *texts, cells = (name + end for end in golden.ENDS)
    for text in texts:
        made = (tmp_path / text).read_text(encoding="utf-8")
        assert made == (golden.RECORDED / text).read_text(encoding="utf-8")
    shown = (golden.RECORDED / texts[0]).read_text(encoding="utf-8")
    assert capsys.readouterr().out.startswith(shown)
    # Of these the last digit may be another processor's.
    found, recorded = (pd.read_csv(folder / cells) for folder in (tmp_path, golden.RECORDED))
    pd.testing.assert_frame_equal(found, recorded, rtol=1e-9)


def test_every_recorded_run_stands_in_a_table() -> None:
    folders = {f"runs/{path.name}" for path in (golden.RECORDED / "runs").iterdir()}
    cells = [pd.read_csv(golden.RECORDED / f"{name}.cells.csv") for name in golden.TABLES]
    assert folders == set(pd.concat(cells)["folder"].dropna())
    assert {path.name for path in golden.RECORDED.glob("*.*")} == {
        name + end for name in golden.TABLES for end in golden.ENDS
    }
