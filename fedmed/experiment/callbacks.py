"""Who follows a run: its files, the terminal, the log, wandb, and the privacy that is spent.

None of them knows of another, and none changes the result. An error during the rounds ends the
run, which goes on from its checkpoint when it is asked again: of :class:`MetricsFile`, whose
metrics would be lost, and of a user's own; one of wandb's ends the mirror alone (see
``runs.tracking``). An error at the end is told, and changes nothing that the run has left.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedmed.config import Config
from fedmed.config.messages import first_line
from fedmed.core.records import POOLED, MetricRow
from fedmed.experiment.accounts import Accounts
from fedmed.experiment.data import Data
from fedmed.experiment.recording import Recorder
from fedmed.models import Arrays
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
    """What happens beside the rounds, at the server; one overrides what it needs.

    It sees what the server sees, which may be more than a run may show. It is handed nothing by
    which it could change the run, and how many rounds there are is part of what the run is. An
    error in any of these but :meth:`on_end` ends the run, which goes on after its last checkpoint
    when it is asked again.
    """

    def on_start(self, rows: Sequence[MetricRow]) -> None:
        """See what is known before the first round to come.

        Args:
            rows: of the rounds that an earlier process has done; none where the run is new.
        """

    def on_update(self, round_: int) -> list[MetricRow]:
        """Return what is to be recorded of a round whose aggregate stands; rounds count from 1.

        The rows go into its checkpoint, and from there wherever the round's metrics go.
        """
        return []

    def on_round(self, round_: int, rows: Sequence[MetricRow], arrays: Arrays) -> None:
        """See a round, once its checkpoint is on the disk.

        Args:
            round_: the round; 0 is the evaluation before the first.
            rows: its metrics, as in ``metrics.csv``.
            arrays: the global arrays after it (weights and norm statistics), by the network's own
                names; read-only, and never changed later. What stays with clients is not there.
        """

    def on_end(self, outcome: Outcome | None) -> None:
        """See what came of the run, None where it was cut off or failed.

        An error here is logged and told; the others are called all the same.
        """


class Callbacks(Callback):
    """Several callbacks as one.

    Args:
        callbacks: called in this order; the result does not depend on it.
        say: told, in a line, of one that fails at the end.
    """

    def __init__(self, *callbacks: Callback, say: Callable[[str], None]) -> None:
        self._callbacks, self._say = callbacks, say

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
        known = tuple(rows)  # nobody's to add to: the checkpoint has the same
        for callback in self._callbacks:
            callback.on_start(known)

    def on_update(self, round_: int) -> list[MetricRow]:  # noqa: D102
        return [row for callback in self._callbacks for row in callback.on_update(round_)]

    def on_round(  # noqa: D102
        self, round_: int, rows: Sequence[MetricRow], arrays: Arrays
    ) -> None:
        known, seen = tuple(rows), _read_only(arrays)
        for callback in self._callbacks:
            callback.on_round(round_, known, seen)

    def on_end(self, outcome: Outcome | None) -> None:  # noqa: D102
        for callback in self._callbacks:
            try:
                callback.on_end(outcome)
            except Exception as error:  # of whatever kind: the run has ended, and how stands
                name = type(callback).__name__
                log.exception("%s: failed at the end of the run", name)
                self._say(f"{name}: failed at the end of the run: {first_line(error)}")


def _read_only(arrays: Arrays) -> Arrays:
    """Return views that cannot be written to: the arrays themselves are the next round's."""
    views: dict[str, NDArray[np.float32]] = {}
    for name, array in arrays.items():
        views[name] = array.view()
        views[name].flags.writeable = False
    return MappingProxyType(views)


class MetricsFile(Callback):
    """Writes ``metrics.csv`` anew after each round, so that it is whole whenever the run ends."""

    def __init__(self, run_dir: RunDirectory) -> None:
        self._run_dir = run_dir
        self._rows: list[MetricRow] = []

    def on_start(self, rows: Sequence[MetricRow]) -> None:
        """Write what the checkpoint holds: the file may be a round behind it."""
        if rows:
            self._write(rows)

    def on_round(  # noqa: D102
        self, round_: int, rows: Sequence[MetricRow], arrays: Arrays
    ) -> None:
        self._write(rows)

    def _write(self, rows: Sequence[MetricRow]) -> None:
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

    def on_round(  # noqa: D102
        self, round_: int, rows: Sequence[MetricRow], arrays: Arrays
    ) -> None:
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

    def on_round(  # noqa: D102
        self, round_: int, rows: Sequence[MetricRow], arrays: Arrays
    ) -> None:
        self._console.round(round_, self._rounds, rows, time.perf_counter() - self._began)

    def on_end(self, outcome: Outcome | None) -> None:  # noqa: D102
        if outcome:
            self._console.report(outcome.summary | {"run_dir": self._run_dir.path})


class Log(Callback):
    """Leaves a line a round in ``run.log``, of what is of no one client."""

    def on_round(  # noqa: D102
        self, round_: int, rows: Sequence[MetricRow], arrays: Arrays
    ) -> None:
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

    def on_round(  # noqa: D102
        self, round_: int, rows: Sequence[MetricRow], arrays: Arrays
    ) -> None:
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
    own: Sequence[Callback],
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
        own: the user's.
    """
    return Callbacks(
        MetricsFile(run_dir),
        PrivacyRows(accounts.ledger),
        Heads(recorder),
        Log(),
        Mirror(config, data, run_dir, console),
        *own,
        # the last, so that the result is what remains on the screen
        Terminal(console, config.rounds, accounts.plan.caveats, run_dir, began),
        say=console.warn,
    )
