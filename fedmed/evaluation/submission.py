"""Anyone's predictions: a file of probabilities beside a file of labels, joined by an id."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fedmed.core.errors import DataError
from fedmed.core.spelling import key
from fedmed.data.label_files import LabelFile
from fedmed.evaluation.metrics import Floats
from fedmed.evaluation.predictions import ATTRIBUTES, Predictions


def read(
    predictions: Path,
    labels: Path,
    id_: str = "image",
    patient: str = "patient",
    distinct_ids: bool = False,
) -> Predictions:
    """Read predictions and labels, each a CSV, XLSX or Parquet file with a row an image.

    Args:
        predictions: the id and a column a finding, of probabilities.
        labels: the same ids, 0, 1 or nothing in the columns of the same names, perhaps the patient
            and ``site view sex age``; findings that were not predicted are not scored.
        id_: the column of ids.
        patient: the column of patients; where there is none, each row is taken for a patient.
        distinct_ids: whether ids, patients and sites that differ only by case, blanks, leading
            zeros or a decimal point are several; else they are refused, with their rows.

    Raises:
        DataError: in one line, naming the file, the column and the id or the row.
    """
    unless = ", or say that they are not by --distinct-ids"

    def named(file: LabelFile, column: str) -> "pd.Series[Any]":
        if column == "age":
            return file.ages(column)
        names = file.ids if column in (id_, patient) else file.names
        return names(column, distinct_ids, unless)

    scores, truth = _read(predictions, id_), _read(labels, id_)
    findings = [name for name in map(str, scores.cells) if name not in (id_, "")]
    known = [n for n in map(str, truth.cells) if n not in (id_, patient, "", *ATTRIBUTES)]
    unknown = [name for name in findings if name not in known]
    if unknown or not findings:
        what = f"unknown column {', '.join(unknown)}" if unknown else "no column of a finding"
        raise DataError(f"{predictions}: {what}; {labels} has {', '.join(known)}")
    columns = {id_: "image", patient: "patient"} | {name: name for name in ATTRIBUTES}
    images = pd.DataFrame(
        {ours: named(truth, name) for name, ours in columns.items() if name in truth.cells}
    )
    if "patient" not in images:
        images["patient"] = images["image"]
    scored, labelled = scores.cells.assign(**{id_: named(scores, id_)}), truth.cells
    labelled = labelled.assign(**{id_: images["image"]})
    _check_ids(predictions, scored[id_], labels, labelled[id_])
    scored = scored.set_index(id_).loc[labelled[id_]].reset_index()
    return Predictions(
        tuple(findings),
        _probabilities(predictions, scored, id_, findings),
        _labels(labels, labelled, id_, findings),
        images,
    )


def unpredicted(labels: Path, given: Predictions, id_: str, patient: str) -> list[str]:
    """Return the findings of a label file that nothing predicts, and so no mean knows.

    Args:
        labels: the file that was read.
        given: what :func:`read` made of it.
        id_: its column of ids.
        patient: its column of patients. Nor is a column with more than 0 and 1 a finding.
    """
    cells = _read(labels, id_).cells
    scored = {id_, patient, "", *ATTRIBUTES, *given.targets}
    return [
        name
        for name in map(str, cells)
        if name not in scored
        and len(marked := pd.to_numeric(cells[name], errors="coerce")[cells[name].notna()])
        and marked.isin((0, 1)).all()
    ]


def _read(path: Path, id_: str) -> LabelFile:
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    file = LabelFile.read(path, (), optional=None)
    if id_ not in file.cells:
        columns = ", ".join(map(str, file.cells))
        raise DataError(f"{path}: has no column {id_}; name the column of ids by --id ({columns})")
    return file


def _check_ids(
    predictions: Path, predicted: "pd.Series[str]", labels: Path, labelled: "pd.Series[str]"
) -> None:
    for path, mine, other, others in (
        (predictions, predicted, labels, labelled),
        (labels, labelled, predictions, predicted),
    ):
        twice = mine[mine.duplicated()]
        if len(twice):
            raise DataError(f"{path}: {mine.name} {twice.iloc[0]} stands in more than one row")
        missing = others[~others.isin(mine)]
        if len(missing):
            first = missing.iloc[0]
            like = next((f", here {name}" for name in mine if key(name) == key(first)), "")
            raise DataError(
                f"{path}: lacks {len(missing)} of the {len(others)} ids in {other}, "
                f"the first is {first}{like}"
            )


def _probabilities(path: Path, frame: pd.DataFrame, id_: str, findings: Sequence[str]) -> Floats:
    values = _numbers(frame, findings)
    _reject(
        path, frame, id_, findings, ~((values >= 0) & (values <= 1)), "probabilities lie in 0…1"
    )
    return values


def _labels(path: Path, frame: pd.DataFrame, id_: str, findings: Sequence[str]) -> Floats:
    values = _numbers(frame, findings)
    given = frame[list(findings)].notna().to_numpy()
    wrong = given & ~np.isin(values, (0, 1))
    _reject(path, frame, id_, findings, wrong, "labels are 0, 1 or nothing")
    return values


def _numbers(frame: pd.DataFrame, findings: Sequence[str]) -> Floats:
    columns = [pd.to_numeric(frame[finding], errors="coerce") for finding in findings]
    return np.stack([column.to_numpy(np.float64, na_value=np.nan) for column in columns], axis=1)


def _reject(
    path: Path,
    frame: pd.DataFrame,
    id_: str,
    findings: Sequence[str],
    wrong: "np.ndarray[tuple[int, ...], np.dtype[np.bool_]]",
    rule: str,
) -> None:
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise DataError(
            f"{path}: {findings[column]} of {id_} {frame[id_].iloc[row]} is "
            f"{frame[findings[column]].iloc[row]}: {rule} ({int(wrong.sum())} such cells)"
        )
