"""Who follows a run: its files, the terminal, the log, wandb, and the privacy that is spent.

None of them knows of another, and none changes the result. An error of :class:`MetricsFile` ends
the run, whose metrics would be lost; one of wandb's ends the mirror alone (see ``runs.tracking``).
"""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pandas as pd

from fedmed.config import Config
from fedmed.core.records import POOLED, MetricRow
from fedmed.experiment.accounts import Accounts
from fedmed.experiment.data import Data
from fedmed.experiment.recording import Recorder
from fedmed.privacy import Ledger
from fedmed.runs.console import Console
from fedmed.runs.directory import RunDirectory
from fedmed.runs.tracking import Tracker

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What came of a run that reached its end.

    Attributes:
        summary: the content of ``summary.json``.
        clients: one row a client with its scores; ``clients.csv``.
    """

    summary: dict[str, Any]
    clients: pd.DataFrame


class Callback:
    """What happens beside the rounds; one overrides what it needs."""

    def on_start(self, rows: Sequence[MetricRow]) -> None:
        """See what is known before the first round to come.

        Args:
            rows: of the rounds that an earlier process has done; none where the run is new.
        """

    def on_update(self, round_: int) -> list[MetricRow]:
        """Return what is to be recorded of a round whose aggregate stands.

        The rows go into its checkpoint, and from there wherever the round's metrics go.
        """
        return []

    def on_round(self, round_: int, rows: Sequence[MetricRow]) -> None:
        """See a round's metrics, once its checkpoint is on the disk; 0 is before the first."""

    def on_end(self, outcome: Outcome | None) -> None:
        """See what came of the run, None where it was cut off or failed."""


class Callbacks(Callback):
    """Several callbacks as one.

    Args:
        callbacks: called in this order; the result does not depend on it.
    """

    def __init__(self, *callbacks: Callback) -> None:
        self._callbacks = callbacks

    @contextmanager
    def following(self, rows: Sequence[MetricRow]) -> Iterator["Callbacks"]:
        """Follow a run: begin with the block, and end with it where it fails.

        Args:
            rows: see :meth:`Callback.on_start`.
        """
        try:
            self.on_start(rows)
            yield self
        except BaseException:
            self.on_end(None)
            raise

    def on_start(self, rows: Sequence[MetricRow]) -> None:  # noqa: D102
        for callback in self._callbacks:
            callback.on_start(rows)

    def on_update(self, round_: int) -> list[MetricRow]:  # noqa: D102
        return [row for callback in self._callbacks for row in callback.on_update(round_)]

    def on_round(self, round_: int, rows: Sequence[MetricRow]) -> None:  # noqa: D102
        for callback in self._callbacks:
            callback.on_round(round_, rows)

    def on_end(self, outcome: Outcome | None) -> None:  # noqa: D102
        for callback in self._callbacks:
            callback.on_end(outcome)


class MetricsFile(Callback):
    """Writes ``metrics.csv`` anew after each round, so that it is whole whenever the run ends."""

    def __init__(self, run_dir: RunDirectory) -> None:
        self._run_dir = run_dir
        self._rows: list[MetricRow] = []

    def on_start(self, rows: Sequence[MetricRow]) -> None:
        """Write what the checkpoint holds: the file may be a round behind it."""
        if rows:
            self.on_round(rows[-1].round, rows)

    def on_round(self, round_: int, rows: Sequence[MetricRow]) -> None:  # noqa: D102
        self._rows.extend(rows)
        self._run_dir.write_metrics(self._rows)


class PrivacyRows(Callback):
    """Records ε of each unit of privacy, and of each client's, as it grows.

    Args:
        ledger: of what was released.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def on_update(self, round_: int) -> list[MetricRow]:  # noqa: D102
        rows: list[MetricRow] = []
        for i, unit in enumerate(self._ledger.units()):
            name = "epsilon" if i == 0 else f"epsilon/{unit}"  # units do not mix
            per_client = self._ledger.per_client(unit)
            rows += [MetricRow(round_, "privacy", k, name, v) for k, v in per_client.items()]
            rows.append(MetricRow(round_, "privacy", POOLED, name, self._ledger.epsilon(unit)))
        return rows


class Heads(Callback):
    """Sends the head of the run's record to where heads are kept, once its round is safe.

    Args:
        recorder: of the run.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def on_round(self, round_: int, rows: Sequence[MetricRow]) -> None:  # noqa: D102
        self._recorder.publish(round_)


class Terminal(Callback):
    """Shows what is to be known before the first round, each round as it is done, and the result.

    Args:
        console: where.
        rounds: how many there will be.
        caveats: on the privacy that is claimed.
        run_dir: named below the result.
        began: when the run did, by ``time.perf_counter``.
    """

    def __init__(
        self,
        console: Console,
        rounds: int,
        caveats: Sequence[str],
        run_dir: RunDirectory,
        began: float,
    ) -> None:
        self._console, self._rounds, self._caveats = console, rounds, caveats
        self._run_dir, self._began = run_dir, began

    def on_start(self, rows: Sequence[MetricRow]) -> None:  # noqa: D102
        for caveat in self._caveats:
            self._console.say(caveat, "red")

    def on_round(self, round_: int, rows: Sequence[MetricRow]) -> None:  # noqa: D102
        self._console.round(round_, self._rounds, rows, time.perf_counter() - self._began)

    def on_end(self, outcome: Outcome | None) -> None:  # noqa: D102
        if outcome:
            self._console.report(outcome.summary | {"run_dir": self._run_dir.path})


class Log(Callback):
    """Leaves a line a round in ``run.log``, of what is of no one client."""

    def on_round(self, round_: int, rows: Sequence[MetricRow]) -> None:  # noqa: D102
        log.info("round %d: %s", round_, [tuple(row[2:]) for row in rows if row.client < 0])


class Mirror(Callback):
    """Shows the run on wandb, as far as what is private allows.

    Args:
        config: of the run.
        data: as they were saved.
        run_dir: what is mirrored.
        console: told once of what befalls the mirror.
    """

    def __init__(self, config: Config, data: Data, run_dir: RunDirectory, console: Console) -> None:
        self._config, self._data, self._run_dir, self._console = config, data, run_dir, console
        self._tracker: Tracker | None = None

    def on_start(self, rows: Sequence[MetricRow]) -> None:  # noqa: D102
        run_id, say = self._config.sha256[:16], self._console.warn
        self._tracker = Tracker(self._config, self._run_dir.path, run_id, say)
        self._tracker.log_federation(self._data.clients, self._run_dir.picture)
        self._tracker.replay(rows)

    def on_round(self, round_: int, rows: Sequence[MetricRow]) -> None:  # noqa: D102
        if self._tracker:
            self._tracker.log_round(round_, rows)

    def on_end(self, outcome: Outcome | None) -> None:  # noqa: D102
        if self._tracker is None:
            return
        if outcome:
            self._tracker.finish(outcome.summary, outcome.clients)
        self._tracker.close(failed=outcome is None)


def callbacks_of(
    config: Config,
    data: Data,
    accounts: Accounts,
    recorder: Recorder,
    run_dir: RunDirectory,
    console: Console,
    began: float,
) -> Callbacks:
    """Return all who follow a run.

    Args:
        config: of the run.
        data: as they were saved.
        accounts: of the privacy that is spent.
        recorder: of what is done.
        run_dir: whose files are written, and mirrored.
        console: where progress is shown.
        began: when the run did, by ``time.perf_counter``.
    """
    return Callbacks(
        MetricsFile(run_dir),
        PrivacyRows(accounts.ledger),
        Heads(recorder),
        Log(),
        Mirror(config, data, run_dir, console),
        # the last, so that the result is what remains on the screen
        Terminal(console, config.rounds, accounts.plan.caveats, run_dir, began),
    )
