"""CheXpert's fourteen labels, as its labeler writes them for CheXpert, MIMIC-CXR and BRAX.

A cell is 1 (present), 0 (absent), -1 (uncertain) or blank (not mentioned). What uncertain labels
are taken for is a choice with names of its own: U-Ignore, U-Zeros and U-Ones (Irvin et al.,
CheXpert, AAAI 2019, section 3).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from fedmed.core.errors import ConfigError
from fedmed.data.image_files import ImageFiles
from fedmed.data.label_files import LabelFile
from fedmed.data.table import NO_FINDING, Aspect
from fedmed.data.views import Views
from fedmed.data.vocabulary import common

LABELS = (
    NO_FINDING,
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
#: The same in the common vocabulary.
FINDINGS = tuple(common(label) for label in LABELS)

Policy = Literal["ignore", "zeros", "ones"]
#: One policy for all findings, or one for some and another, ``default``, for the rest.
Uncertain = Policy | dict[str, Policy]
Blank = Literal["negative", "ignore"]

_TAKEN_FOR: dict[Policy, float] = {"ignore": np.nan, "zeros": 0, "ones": 1}


class CheXpertLabelled(ImageFiles):
    """A dataset whose findings are CheXpert's labels.

    Args:
        targets, size, root, aspect: see ImageFiles.
        uncertain: what uncertain labels are taken for: ``ignore`` (not known), ``zeros`` or
            ``ones``; or a policy by finding, with one for ``default``.
        blank: what a finding that a report does not mention is taken for: ``negative``, as
            published work trains, or ``ignore``; a report with No Finding says that the others
            are absent, support devices excepted, and one without it that there is a finding.
        views: the views to keep; see :data:`fedmed.data.views.Views`.
    """

    def __init__(
        self,
        targets: Sequence[str],
        size: int,
        root: Path,
        uncertain: Uncertain,
        blank: Blank,
        views: Views,
        aspect: Aspect = "squash",
    ) -> None:
        super().__init__(targets, size, root, aspect)
        self.uncertain = _by_finding(uncertain)
        self.blank = blank
        self.views = views

    def findings(self, labels: LabelFile) -> pd.DataFrame:
        """Return a column a finding, 1, 0 or NaN; one that the file lacks is not known.

        Raises:
            DataError: naming the row and the column of a cell that is no label.
        """
        written = pd.DataFrame(
            {name: _cells(labels, name) for name in LABELS if name in labels.cells}
        )
        healthy = written.get(NO_FINDING) == 1
        columns = {}
        for label, values in written.items():
            absent = values.isna()
            if self.blank == "ignore" and label != NO_FINDING:
                absent &= healthy & (label != "Support Devices")
            finding = common(str(label))
            taken_for = _TAKEN_FOR[self.uncertain[finding]]
            columns[finding] = values.mask(values == -1, taken_for).mask(absent, 0)
        return pd.DataFrame(columns).reindex(columns=FINDINGS)


def _cells(labels: LabelFile, label: str) -> "pd.Series[float]":
    values = labels.numbers(label, -1, 1)
    labels.refuse(values.notna() & ~values.isin([-1, 0, 1]), label, "1, 0, -1 or nothing")
    return values


def _by_finding(uncertain: Uncertain) -> dict[str, Policy]:
    if isinstance(uncertain, str):
        return dict.fromkeys(FINDINGS, uncertain)
    for name in uncertain:
        if name not in (*FINDINGS, "default"):
            raise ConfigError(
                f"dataset.uncertain.{name}: no finding; takes default, {', '.join(FINDINGS)}"
            )
    if "default" not in uncertain:
        raise ConfigError("dataset.uncertain.default: is missing; give the other findings a policy")
    return {finding: uncertain.get(finding, uncertain["default"]) for finding in FINDINGS}
