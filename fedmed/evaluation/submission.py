"""Anyone's predictions: a file of probabilities beside a file of labels, joined by an id."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from fedmed.errors import DataError
from fedmed.evaluation.predictions import ATTRIBUTES, Predictions
from fedmed.metrics import Floats


def read(
    predictions: Path, labels: Path, id_: str = "image", patient: str = "patient"
) -> Predictions:
    """Read predictions and labels, each a CSV or Parquet file with a row an image.

    Args:
        predictions: the id and a column a finding, of probabilities.
        labels: the same ids, 0, 1 or nothing in the columns of the same names, perhaps the patient
            and ``site view sex age``; findings that were not predicted are not scored.
        id_: the column of ids.
        patient: the column of patients; where there is none, each row is taken for a patient.

    Raises:
        DataError: in one line, naming the file, the column and the id.
    """
    scores, truth = _read(predictions, id_), _read(labels, id_)
    findings = [name for name in map(str, scores) if name != id_]
    known = [n for n in map(str, truth) if n not in (id_, patient, *ATTRIBUTES)]
    unknown = [name for name in findings if name not in known]
    if unknown or not findings:
        what = f"unknown column {', '.join(unknown)}" if unknown else "no column of a finding"
        raise DataError(f"{predictions}: {what}; {labels} has {', '.join(known)}")
    _check_ids(predictions, scores[id_], labels, truth[id_])
    scores = scores.set_index(id_).loc[truth[id_]].reset_index()
    images = truth.rename(columns={id_: "image", patient: "patient"})
    if "patient" not in images:
        images["patient"] = images["image"]
    kept = [name for name in ("image", "patient", *ATTRIBUTES) if name in images]
    return Predictions(
        tuple(findings),
        _probabilities(predictions, scores, id_, findings),
        _labels(labels, truth, id_, findings),
        images[kept],
    )


def _read(path: Path, id_: str) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, dtype=str)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from None
    if id_ not in frame:
        columns = ", ".join(map(str, frame))
        raise DataError(f"{path}: has no column {id_}; name the column of ids by --id ({columns})")
    frame[id_] = frame[id_].astype(str)
    twice = frame.loc[frame[id_].duplicated(), id_]
    if len(twice):
        raise DataError(f"{path}: {id_} {twice.iloc[0]} stands in more than one row")
    return frame


def _check_ids(
    predictions: Path, predicted: "pd.Series[str]", labels: Path, labelled: "pd.Series[str]"
) -> None:
    for path, mine, other, others in (
        (predictions, predicted, labels, labelled),
        (labels, labelled, predictions, predicted),
    ):
        missing = others[~others.isin(mine)]
        if len(missing):
            raise DataError(
                f"{path}: lacks {len(missing)} of the {len(others)} ids in {other}, "
                f"the first is {missing.iloc[0]}"
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
