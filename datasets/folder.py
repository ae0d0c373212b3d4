"""Any hospital's own images: a folder, a spreadsheet, and which of its columns means what."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fedmed.core.errors import ConfigError
from fedmed.core.spelling import clean
from fedmed.data.card import Card
from fedmed.data.dicom_metadata import COLUMNS as HEADERS
from fedmed.data.dicom_metadata import headers
from fedmed.data.image_files import NamedFiles
from fedmed.data.label_files import LabelFile, check_header
from fedmed.data.table import COLUMNS, VALUES, Aspect, split_by_patient

#: What needs no telling in a column of a finding.
KNOWN = {"0": 0, "0.0": 0, "no": 0, "false": 0, "1": 1, "1.0": 1, "yes": 1, "true": 1}


class Folder(NamedFiles):
    """Images and a spreadsheet of one row an image.

    Args:
        targets: see Dataset.
        size: see Dataset.
        root: the folder; images may lie at any depth, DICOM, PNG or JPEG.
        table: the spreadsheet below the root, CSV or XLSX.
        columns: for ``image`` and ``patient``, and for any of ``site view sex age scanner split``,
            the spreadsheet's column. ``image`` holds a path below the root or the name of the
            only file that is called so, see NamedFiles.
        findings: for each finding, the spreadsheet's column.
        values: for any of ``view sex split finding``, what the spreadsheet's codes mean, beside
            those that need no telling (PA, F, train, …; 0, 1, yes, no, true, false).
        name: prefix of patient ids; folders of one federation need different ones.
        headers: whether view, sex, age and scanner without a column come from DICOM headers.
        distinct_ids: whether patients, and sites, whose ids differ only by case, blanks, leading
            zeros or a decimal point are several; else they are refused, with their rows.
        aspect: see Dataset.
    """

    def __init__(
        self,
        targets: Sequence[str],
        size: int,
        root: Path,
        table: str,
        columns: Mapping[str, str | None],
        findings: Mapping[str, str],
        values: Mapping[str, Mapping[Any, str | int | None]],
        name: str,
        headers: bool,
        distinct_ids: bool = False,
        aspect: Aspect = "squash",
    ) -> None:
        self.source, self.name, self.headers = table, clean(name), headers
        self.distinct_ids = distinct_ids
        self.columns = {ours: theirs for ours, theirs in columns.items() if theirs is not None}
        self.findings = dict(findings)
        self.values = values
        _refuse(columns, COLUMNS, "columns")
        _refuse(values, (*VALUES, "finding"), "values")
        for needed in ("image", "patient"):
            if needed not in self.columns:
                raise ConfigError(f"dataset.columns.{needed}: is missing; name your column for it")
        self.card = Card(
            title=f"folder {name}",
            findings=tuple(self.findings),
            images=None,
            patients=None,
            licence="the owner's",
            citation="",
            homepage="",
            how_to_get="it is your own",
        )
        super().__init__(targets, size, root, aspect)
        check_header(self.root / table, [*self.columns.values(), *self.findings.values()])

    def table(self) -> pd.DataFrame:
        """Return one row a row of the spreadsheet, in its order."""
        labels = LabelFile.read(
            self.root / self.source, [*self.columns.values(), *self.findings.values()]
        )
        table = pd.DataFrame({name: self._column(name, labels) for name in COLUMNS})
        table["patient"] = f"{self.name}:" + table["patient"]
        if "split" not in self.columns:
            table["split"] = split_by_patient(table["patient"])
        if self.headers:
            table = self._with_headers(table)
        meaning = {form(w): v for w, v in KNOWN.items() for form in (str, str.title, str.upper)}
        meaning |= self._told("finding")
        for finding, column in self.findings.items():
            table[finding] = labels.codes(column, meaning).astype(np.float32)
        return table

    def _column(self, name: str, labels: LabelFile) -> "pd.Series[Any] | str | None":
        if name not in self.columns:
            return self.name if name == "site" else None
        column = self.columns[name]
        if name == "age":
            return labels.ages(column)
        if name in VALUES:
            meaning = {word: word for word in sorted(VALUES[name])} | self._told(name)
            return labels.codes(column, meaning)
        if name == "image":
            return labels.text(column)
        if name == "scanner":  # of which validate makes one spelling
            return labels.names(column, distinct=True)
        unless = ", or say that they are not by dataset.distinct_ids=true"
        return labels.ids(column, self.distinct_ids, unless)

    def _told(self, name: str) -> dict[str, Any]:
        told: dict[str, Any] = {}
        for code, meaning in self.values.get(name, {}).items():
            if isinstance(code, bool) or code is None:  # what YAML makes of yes, no and null
                raise ConfigError(f"dataset.values.{name}: quote yes, no, true, false and null")
            word = clean(str(code))
            if told.setdefault(word, meaning) != meaning:
                raise ConfigError(
                    f"dataset.values.{name}: {word!r} is given two meanings, {told[word]!r} and "
                    f"{meaning!r}"
                )
        return told

    def _with_headers(self, table: pd.DataFrame) -> pd.DataFrame:
        """Fill the columns that the spreadsheet lacks from the headers of DICOM files."""
        absent = [name for name in HEADERS if name not in self.columns]
        return table.assign(**headers(self, table["image"])[absent]) if absent else table


def _refuse(given: Mapping[str, Any], known: Sequence[str], key: str) -> None:
    for name in given:
        if name not in known:
            raise ConfigError(f"dataset.{key}.{name}: unknown key; takes {', '.join(known)}")
