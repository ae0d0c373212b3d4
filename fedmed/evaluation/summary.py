"""What ``summary.json`` says under ``test``, and ``scripts/score.py`` of anyone's predictions."""

from typing import Any

from fedmed.evaluation.bootstrap import LEVEL, Scored, interval
from fedmed.evaluation.ranked import METRICS


def summary(scored: Scored) -> dict[str, Any]:
    """Return every metric, macro and by finding, with its interval.

    Macro is the unweighted mean over the findings with both classes; the others are named under
    ``without_both_classes`` and are in no figure.
    """
    values: dict[str, Any] = {f"macro_{metric}": scored.value(metric) for metric in METRICS}
    intervals: dict[str, Any] = {
        "level": LEVEL,
        "method": "percentile bootstrap over patients",
        "replicates": scored.replicates["auroc"].shape[1],
        "patients": int(scored.predictions.images["patient"].nunique()),
    }
    for metric in METRICS:
        values[metric] = {f: scored.value(metric, f) for f in scored.findings}
        intervals[f"macro_{metric}"] = interval(scored.drawn(metric))
        intervals[metric] = {f: interval(scored.drawn(metric, f)) for f in scored.findings}
    absent = [target for target in scored.predictions.targets if target not in scored.findings]
    return {**values, "without_both_classes": absent, "intervals": intervals}
