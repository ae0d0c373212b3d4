"""Evaluations of a finished run: each leaves one file, ``evaluations/NAME.json`` in its directory.

What the file holds is known to every reader: ``NAME.key`` is a key of ``fedmed table``, and its
section stands in ``fedmed report``. Neither imports the evaluation, which may be anybody's.
"""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from fedmed.core import formats, jsontext
from fedmed.core.errors import FedmedError
from fedmed.core.files import damaged, write_atomically
from fedmed.runs.directory import RunDirectory

if TYPE_CHECKING:
    from fedmed.runs.run import Run

FOLDER = "evaluations"
FORMAT = 1  # of the files
_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Section:
    """What a report shows of an evaluation: a table below a line or two.

    Attributes:
        title: its heading.
        text: what the figures are, and what a reader must know.
        columns: the heads of the table.
        rows: its cells: numbers, texts, or None where nothing is known.
    """

    title: str
    text: str
    columns: Sequence[str]
    rows: Sequence[Sequence[float | str | None]]


class Evaluation(ABC):
    """One question to a finished run.

    Attributes:
        name: of its file and of its keys; lower case, and no key of a summary or configuration.
    """

    name: ClassVar[str]

    @abstractmethod
    def __call__(self, run: "Run") -> Mapping[str, Any]:
        """Return the answer, for JSON: figures by name, nested as one likes.

        Args:
            run: that is finished.

        Raises:
            FedmedError: in one line, if the run does not hold what it takes.
        """

    def section(self, result: Mapping[str, Any]) -> Section | None:
        """Return what a report shows of an answer; None for nothing."""
        return None

    def leave(  # noqa: B027, most leave nothing else
        self, run_dir: RunDirectory, result: Mapping[str, Any]
    ) -> None:
        """Leave what else there is in the run directory, which is locked meanwhile."""


class Attack(Evaluation):
    """An evaluation that is an attacker.

    Attributes:
        access: what the attacker sees and knows, in words; it stands in the file.
    """

    access: ClassVar[str]


def evaluate(evaluation: Evaluation, run: "Run") -> Mapping[str, Any]:
    """Put a question to a run, write the answer into its directory, and return it.

    Args:
        evaluation: the question.
        run: that is finished.

    Raises:
        FedmedError: if the run is not finished, was begun anew meanwhile, or does not hold what the
            evaluation takes; or if its name is taken.
    """
    name, run_dir = evaluation.name, RunDirectory(run.folder)
    if not _NAME.fullmatch(name) or name in {*run.summary, *run.config}:
        raise FedmedError(f"{name}: is no name for an evaluation: lower case, and not taken yet")
    _check_finished(run_dir, run)
    result = evaluation(run)
    section = evaluation.section(result)
    content = {
        formats.KEY: FORMAT,
        "name": name,
        "access": getattr(evaluation, "access", None),
        "model_sha256": run.summary["model_sha256"],
        "result": dict(result),
        "section": section and asdict(section),
    }
    with run_dir.locked():
        _check_finished(run_dir, run)
        path = run_dir.path / FOLDER / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, lambda new: new.write_text(jsontext.dumps(content)))
        evaluation.leave(run_dir, result)
    return result


def read(folder: Path, model_sha256: str | None) -> dict[str, dict[str, Any]]:
    """Return what was written into a run directory, by name of the evaluation.

    Args:
        folder: the run directory.
        model_sha256: of its summary.

    Raises:
        FedmedError: if a file is damaged, of a newer format, or of another model.
    """
    found = {}
    for path in sorted((folder / FOLDER).glob("*.json")):
        try:
            content = cast(dict[str, Any], json.loads(path.read_text(encoding="utf-8")))
            formats.check(path, content.get(formats.KEY), FORMAT)
            model = content["model_sha256"]
            found[path.stem] = {key: content[key] for key in ("access", "result", "section")}
        except (ValueError, LookupError, TypeError, AttributeError):
            raise damaged(path, "it is no evaluation") from None
        if model != model_sha256:
            raise FedmedError(f"{path}: is of another model than the run's; evaluate it again")
    return found


def _check_finished(run_dir: RunDirectory, run: "Run") -> None:
    summary = run_dir.summary() or {}
    if summary.get("status") != "finished":
        status = summary.get("status", "not begun")
        raise FedmedError(f"{run_dir.path}: the run is {status}; finish it first")
    if summary["model_sha256"] != run.summary["model_sha256"]:
        raise FedmedError(f"{run_dir.path}: the run was begun anew during its evaluation")
