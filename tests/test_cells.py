"""One rule for the cells of label files: what is certain is read, only the empty is empty."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from label_tables import FOLDER, folder, refused, rows, table_of
from openpyxl import Workbook
from standins_hospital import write_dicom

from fedmed.core.errors import ConfigError, DataError
from fedmed.data.label_files import years
from fedmed.evaluation.submission import read as submitted

NOTHING = ("none", "None", "NA", "N/A", "n/a", "nan", "NaN", "null", "NULL", "<NA>", "#N/A", "-")


def workbook(path: Path, cells: list[list[Any]]) -> None:
    """Write an XLSX file of typed cells."""
    book = Workbook()
    for row in cells:
        book.active.append(row)
    book.save(path)


XLSX = (*FOLDER, "dataset.table=labels.xlsx")


def test_a_number_is_one_id_however_a_workbook_holds_it(tmp_path: Path) -> None:
    ids = [12, 12.0, 1.2e1, "12", " 12 ", *range(100, 120)]
    cells: list[list[Any]] = [["image", "patient", "fluid"]]
    cells += [[f"{i}.png", name, (0, True, "1", None)[i % 4]] for i, name in enumerate(ids)]
    workbook(tmp_path / "labels.xlsx", cells)
    table = table_of(tmp_path, *XLSX)
    assert table["patient"].tolist() == [
        *["folder:12"] * 5,
        *(f"folder:{i}" for i in range(100, 120)),
    ]
    expected = [(0, 1, 1, np.nan)[i % 4] for i in range(len(ids))]
    np.testing.assert_array_equal(table["Effusion"], expected)
    cells[4][1] = "012"
    workbook(tmp_path / "labels.xlsx", cells)
    assert "rows 2 and 5, column 'patient': '12' and '012'" in refused(tmp_path, *XLSX)


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("#N/A", "holds the error #N/A"),
        (pd.Timestamp(2026, 1, 5), "holds a date or time"),
        ("=1+1", "holds a formula without its result"),
        (1234567890123456, "holds the number 1234567890123456, whose last digits"),
    ],
)
@pytest.mark.parametrize("column", [1, 2])
def test_cells_that_say_two_things(cell: Any, said: str, column: int, tmp_path: Path) -> None:
    cells: list[list[Any]] = [["image", "patient", "fluid"]]
    cells += [[f"{i}.png", f"q{i}", i % 2] for i in range(20)]
    cells[8][column] = cell
    workbook(tmp_path / "labels.xlsx", cells)
    assert f"row 9, column {cells[0][column]!r}: {said}" in refused(tmp_path, *XLSX)


PLAIN = "image,patient,fluid\n" + "".join(f"{i}.png,q{i},{i % 2}\n" for i in range(20))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.replace("fluid\n", "fluid,fluid\n"), "column 'fluid' stands 2 times"),
        (lambda t: t.replace("fluid", "fluid, fluid\u00a0"), "column 'fluid' stands 2 times"),
        (lambda t: t.replace(",q7,1", ",q7"), "row 9 has 2 cells, the header has 3"),
        (lambda t: t.replace(",q7,1", ",q7,1,0"), "row 9 has 4 cells, the header has 3"),
        (lambda t: t.replace(",q7,", ',"q7,'), "quotes"),
        (lambda t: t.replace(",q7,", ',"q"7,'), "row 9"),
        (lambda t: t.replace(",", ";"), "parted by semicolons"),
        (lambda t: t.replace(",", "\t"), "parted by tabs"),
        (lambda t: t.encode("utf-16"), "UTF-16"),
        (lambda t: t.encode("utf-16-le"), "UTF-16"),
        (lambda t: t.replace("q7", "Zo\u00eb").encode("latin-1"), "row 9 is not in UTF-8"),
        (lambda t: t.replace("q7", "nan"), "row 9, column 'patient': takes a name"),
        (lambda t: t.replace("q7", "#REF!"), "row 9, column 'patient': takes a name"),
        (lambda t: t.replace("q7", " \u200b"), "row 9, column 'patient': takes a value"),
        (lambda t: t.replace("q7", "8.39860E+35"), "row 9, column 'patient': takes an id, not"),
        (lambda t: t.replace("q7,1", "q7,nan"), "row 9, column 'fluid': takes '0'"),
        (lambda t: t.replace("q7,1", "q7,2"), "row 9, column 'fluid': takes '0'"),
    ],
)  # fmt: skip
def test_a_spreadsheet_that_is_not_certain_is_refused(
    change: Callable[[str], str | bytes], said: str, tmp_path: Path
) -> None:
    changed = change(PLAIN)
    content = changed if isinstance(changed, bytes) else changed.encode()
    (tmp_path / "labels.csv").write_bytes(content)
    assert said in refused(tmp_path, *FOLDER)


def test_marks_and_line_ends_of_editors_are_no_content(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(PLAIN)
    plain = table_of(tmp_path, *FOLDER)
    for change in ("\ufeff" + PLAIN, PLAIN.replace("\n", "\r\n"), PLAIN.replace("\n", " \n"),
                   PLAIN + ",,\n", PLAIN.replace("\n1.", "\n\n1.")):  # fmt: skip
        (tmp_path / "labels.csv").write_bytes(change.encode())
        pd.testing.assert_frame_equal(table_of(tmp_path, *FOLDER), plain)


@pytest.mark.parametrize("table", ["labels.csv", "labels.xlsx"])
def test_only_an_empty_cell_is_empty(table: str, tmp_path: Path) -> None:
    for i, word in enumerate(NOTHING):
        if (table, word) == ("labels.xlsx", "#N/A"):
            continue  # which a workbook holds as an error
        given = rows([f"q{j}" for j in range(20)], fluid=[word, "", "mild", "mild"] * 5)
        root = tmp_path / str(i)
        root.mkdir()
        if table.endswith(".csv"):
            given.to_csv(root / table, index=False)
        else:
            given.to_excel(root / table, index=False)
        meant = {"finding": {word: 0, "mild": 1}}
        effusion = folder(root, table, values=meant).table()["Effusion"]
        np.testing.assert_array_equal(effusion, [0, np.nan, 1, 1] * 5)
        with pytest.raises(DataError) as error:
            folder(root, table, values={"finding": {"mild": 1}}).table()
        said = str(error.value)
        assert "row 2, column 'fluid': takes '0'" in said
        assert f"got {word!r} (5 such rows)" in said
    empty = {"finding": {"": 0, "mild": 1, word: None}}
    effusion = folder(root, table, values=empty).table()["Effusion"]
    np.testing.assert_array_equal(effusion, [np.nan, 0, 1, 1] * 5)


def test_meanings_that_contradict_are_refused(tmp_path: Path) -> None:
    rows([f"q{i}" for i in range(20)]).to_csv(tmp_path / "labels.csv", index=False)
    twice = folder(tmp_path, values={"finding": {"mild": 1, "mild\u00a0": 0}})
    with pytest.raises(ConfigError, match="finding: 'mild' is given two meanings, 1 and 0"):
        twice.table()
    for override in ("dataset.values={finding: {mild: 1}}", "dataset.values.finding={mild: 1}"):
        said = refused(tmp_path, *FOLDER, override)
        assert f"is added to with a +, as in +{override.split('=')[0]}=" in said
        assert "unknown key" not in said


AGES = {"58": 58, "058Y": 58, "58.5": 58.5, "006M": 0.5, "005D": 5 / 365.25, "0": 0, "130": 130}


NO_AGES = ("411Y", "999Y", "131", "-3", "old", "1e3", "058Z", "nan", "0x3A", "3000M")


def test_an_age_is_one_age_whatever_file_it_is_in(tmp_path: Path) -> None:
    ids, column = [f"q{i}" for i in range(20)], ("dataset.columns.age=age",)
    labels = tmp_path / "labels.csv"
    rows(ids, age=[*AGES, *[""] * 13]).to_csv(labels, index=False)
    expected = [*AGES.values(), *[np.nan] * 13]
    np.testing.assert_allclose(table_of(tmp_path, *FOLDER, *column)["age"], expected)
    scores = rows(ids)[["image", "fluid"]].assign(fluid=0.5)
    scores.to_csv(tmp_path / "scores.csv", index=False)
    np.testing.assert_allclose(submitted(tmp_path / "scores.csv", labels).images["age"], expected)
    for age in NO_AGES:
        rows(ids, age=[*["40"] * 19, age]).to_csv(labels, index=False)
        assert "row 21, column 'age': takes an age of at most 130 years" in refused(
            tmp_path, *FOLDER, *column
        )
        with pytest.raises(DataError, match=f"row 21, column 'age': .*got '{age}'"):
            submitted(tmp_path / "scores.csv", labels)
    written = {"045Y": 45.0, "411Y": np.nan, "999Y": np.nan, "": np.nan, "130Y": 130.0}
    for i, age in enumerate(written):
        write_dicom(tmp_path / f"i{i}.dcm", PatientAge=age)
    images = [f"i{i}.dcm" for i in range(len(written))] + [f"i{i}.png" for i in range(5, 20)]
    rows(ids, image=images).to_csv(labels, index=False)
    told = table_of(tmp_path, *FOLDER[:2], "dataset.headers=true")["age"]
    np.testing.assert_array_equal(told[:5], list(written.values()))
    assert years("058Y") == years("58")
