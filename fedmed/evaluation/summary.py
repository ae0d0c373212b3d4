"""What ``summary.json`` says under ``test``, and ``fedmed score`` of anyone's predictions."""

from typing import Any

from fedmed.evaluation.bootstrap import DEBIASED, Scored
from fedmed.evaluation.intervals import LEAST, LEVEL, METHOD
from fedmed.evaluation.ranked import METRICS


def summary(scored: Scored) -> dict[str, Any]:
    """Return every metric, macro and by finding, with its interval.

    Macro is the unweighted mean over the findings with both classes; the others are named under
    ``without_both_classes`` and are in no figure.
    """
    named = (*METRICS, DEBIASED)
    values: dict[str, Any] = {f"macro_{metric}": scored.value(metric) for metric in named}
    intervals: dict[str, Any] = {
        "level": LEVEL,
        "method": METHOD,
        "replicates": scored.replicates["auroc"].shape[1],
        "patients": int(scored.predictions.images["patient"].nunique()),
        "least_patients": LEAST,
    }
    for metric in named:
        values[metric] = {f: scored.value(metric, f) for f in scored.findings}
        intervals[f"macro_{metric}"] = scored.interval(metric)
        intervals[metric] = {f: scored.interval(metric, f) for f in scored.findings}
    counts = dict(zip(scored.findings, scored.patients, strict=True))
    absent = [target for target in scored.predictions.targets if target not in scored.findings]
    return {
        **values,
        "patients_with": {finding: ill for finding, (ill, _) in counts.items()},
        "patients_without": {finding: well for finding, (_, well) in counts.items()},
        "without_both_classes": absent,
        "intervals": intervals,
    }
