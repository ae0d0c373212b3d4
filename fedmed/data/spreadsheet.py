"""Spreadsheets, CSV, XLSX or Parquet, as rows of text: what is not certain is not guessed.

Only an empty cell is empty: ``NA``, ``None`` and ``nan`` are words. A file whose rows are not as
long as its header, whose quotes are not closed or whose letters are not UTF-8 is refused.
"""

import bz2
import csv
import gzip
import lzma
from collections.abc import Iterator
from contextlib import closing
from datetime import date, time, timedelta
from io import StringIO
from itertools import repeat
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pandas as pd

ROUNDED = 10**15  # from which on a spreadsheet's numbers, of 15 digits, may be others than typed
_PACKED = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress}


class Odd(str):
    """What a workbook's cell holds instead of text, a number, TRUE, FALSE or nothing."""


def rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a spreadsheet that are not empty, each with its number, from 1.

    A cell is its text, "" where it is empty; see :func:`cell` for those of a workbook.

    Raises:
        OSError: if there is no such file.
        ValueError: in one line, if it cannot be read for certain.
    """
    reader = {".xlsx": _workbook, ".xlsm": _workbook, ".parquet": _parquet}.get(path.suffix, _text)
    return ((number, cells) for number, cells in reader(path) if any(cells))


def cell(value: Any, kind: str = "") -> str:
    """Return a typed cell as text: whole numbers without a point, Odd for what says two things.

    Args:
        value: a string, a number, a truth value, a date or nothing (NaN too).
        kind: openpyxl's type of the cell; ``e`` for an error.
    """
    if kind == "e":
        return Odd(f"the error {value}")
    if isinstance(value, str):
        return value
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, date | time | timedelta):
        return Odd(f"a date or time, {value}")
    if isinstance(value, int | float):
        if abs(value) >= ROUNDED:
            return Odd(f"the number {value}, whose last digits a spreadsheet rounds; make it text")
        return str(int(value) if value == int(value) else value)
    return str(value)


def _text(path: Path) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(StringIO(_decoded(_unpacked(path)), newline=""), strict=True)
    number = width = 0
    try:
        for number, cells in enumerate(reader, 1):
            width = width or len(cells)
            if any(cells) and len(cells) != width:
                raise ValueError(f"row {number} has {len(cells)} cells, the header has {width}")
            yield number, cells
    except csv.Error as error:
        raise ValueError(f"row {number + 1}: {error}; are its quotes closed?") from None


def _unpacked(path: Path) -> bytes:
    if path.suffix == ".zip":
        with ZipFile(path) as packed:
            names = packed.namelist()
            if len(names) != 1:
                raise ValueError(f"holds {len(names)} files; takes one")
            return packed.read(names[0])
    content = path.read_bytes()
    return _PACKED[path.suffix](content) if path.suffix in _PACKED else content


def _decoded(content: bytes) -> str:
    if content[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in content[:4]:
        raise ValueError("is in UTF-16; save it as CSV UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"row {row} is not in UTF-8; save it as CSV UTF-8") from None


def _workbook(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of the first sheet, each as long as the header."""
    from openpyxl import load_workbook  # slow, and seldom needed

    with ZipFile(path) as packed:
        sheets = [name for name in packed.namelist() if name.startswith("xl/worksheets/")]
        computed = any(b"<f" in packed.read(name) for name in sheets)
    with closing(load_workbook(path, read_only=True, data_only=True)) as book:
        sheet = book.worksheets[0]
        sheet.reset_dimensions()
        written = _formulas(path) if computed else repeat(set())
        width = 0
        for number, (row, formulas) in enumerate(zip(sheet.iter_rows(), written, strict=False), 1):
            cells = [cell(c.value, c.data_type) for c in row]
            for at in formulas:
                if not cells[at]:
                    cells[at] = Odd("a formula without its result; save it in a spreadsheet")
            width = width or len(cells)
            if any(cells[width:]):
                raise ValueError(f"row {number} has a cell beyond the header's {width} columns")
            yield number, (cells + [""] * width)[:width]


def _formulas(path: Path) -> Iterator[set[int]]:
    """Yield which cells of each row are formulas."""
    from openpyxl import load_workbook

    with closing(load_workbook(path, read_only=True)) as book:
        sheet = book.worksheets[0]
        sheet.reset_dimensions()
        for row in sheet.iter_rows():
            yield {at for at, c in enumerate(row) if c.data_type == "f"}


def _parquet(path: Path) -> Iterator[tuple[int, list[str]]]:
    table = pd.read_parquet(path)
    yield 1, [*map(str, table)]
    columns = [
        [cell(None if no else value) for value, no in zip(c.tolist(), c.isna(), strict=True)]
        for _, c in table.items()
    ]
    yield from enumerate(map(list, zip(*columns, strict=True)), 2)
