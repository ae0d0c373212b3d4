"""What is measured in a round, as it travels from clients to the loop, files, console and wandb."""

import csv
from collections.abc import Iterable
from io import StringIO
from typing import NamedTuple

EXAMPLES = "num-examples"  # what a client has trained on or validated with, in a reply's metrics
WEIGHT = "weight"  # of a client in the average, beside it
POOLED = -1  # the client of a metric that is of no one client


class MetricRow(NamedTuple):
    """A value of one round.

    Attributes:
        round: from 1; 0 is before the first.
        scope: ``train``, ``val``, ``test``, ``privacy``, ``cost``, ``faults``.
        client: whose, :data:`POOLED` for all of them together.
        metric: its name.
        value: of that name's unit.
    """

    round: int
    scope: str
    client: int
    metric: str
    value: float


def csv_lines(rows: Iterable[MetricRow]) -> str:
    """Return the lines of ``metrics.csv``, without its header.

    The client is empty where a metric is of no one client, and a value where it is NaN. Values are
    written so that reading them gives the same bits.
    """
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in rows:
        value = float(row.value)
        client = "" if row.client < 0 else row.client
        writer.writerow([row.round, row.scope, client, row.metric, "" if value != value else value])
    return text.getvalue()
