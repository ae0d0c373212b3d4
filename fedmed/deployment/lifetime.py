"""A hospital's own ledger: what is spent of its patients, over all runs, servers and crashes.

It is keyed by patients, not by data sets: who was in two of them has paid for both. A line is on
the disk before the training that it pays for begins, each training is a release of its own (noise
that is drawn anew is another release), and no message takes a line away. So a crash can only count
too much. Patients stand in it as keyed hashes, and each line is under a key of the hospital's: who
has it not can change none. That the last lines were taken away only a copy of the file can show.
"""

import fcntl
import hashlib
import hmac
import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from fedmed.core import formats, spelling
from fedmed.core.errors import FedmedError
from fedmed.core.jsontext import canonical
from fedmed.deployment.policy import Promise, Refused
from fedmed.privacy.accounting import epsilon
from fedmed.privacy.events import Event
from fedmed.record import lines

FORMAT = 1  # of a line
_NONE_BEFORE = "0" * 64
_MAC = "mac"  # of a line: keyed, over all else that is in it
_FIELDS = {formats.KEY, "previous", "time", "run", "round", "population", "members", "event"}


class Entry(NamedTuple):
    """One training.

    Attributes:
        time: when it was paid for, UTC.
        run: the hash of the task that asked for it.
        round: of that run.
        population: which patients were trained on.
        event: what it released of each; None where no noise was added, which is without bound.
    """

    time: str
    run: str
    round: int
    population: str
    event: Event | None


@dataclass(frozen=True)
class Run:
    """What a run has spent of the patient whom it has cost most.

    Attributes:
        first, last: when, UTC.
        trainings: how many it paid for, those that were cut off among them.
        epsilon: at the promise's δ, infinite without noise.
    """

    first: str
    last: str
    trainings: int
    epsilon: float


class Lifetime:
    """The ledger of a hospital.

    Args:
        path: of its file, which only grows.
        secret: that keys the hashes of patients, 32 bytes.
    """

    def __init__(self, path: Path, secret: bytes) -> None:
        self.path = path
        self._secret = secret

    def begin(self) -> None:
        """Write the file, empty, for a home that is new."""
        self.path.touch(mode=0o600, exist_ok=False)

    def authorise(
        self,
        run: str,
        round_: int,
        patients: Collection[str],
        event: Event | None,
        promise: Promise | None,
    ) -> None:
        """Write down a training that may begin, or refuse it.

        Args:
            run: the hash of the task.
            round_: of the run.
            patients: their ids; two that a spreadsheet may have made of one are one here, so that
                nobody pays for half in each of two tables.
            event: what it releases of each of them; None where no noise is added.
            promise: what it is held against; None where nothing is promised.

        Raises:
            Refused: if it would pass what a run, or all of them, may spend; nothing is written.
            FedmedError: if the file is gone or damaged, or the disk does not take the line.
        """
        members = sorted({self._member(patient) for patient in patients})
        population = hashlib.sha256(canonical(members)).hexdigest()
        with self._locked():
            self._check_there()
            lines.mend(self.path)
            last, known, entries = self._read()
            is_known = population in known
            if promise is not None:
                known = {**known, population: frozenset(members)}
                paid = [*entries, Entry("", run, round_, population, event)]
                _afford(promise, paid, known)
            line = {
                formats.KEY: FORMAT,
                "previous": last,
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
                "run": run,
                "round": round_,
                "population": population,
                "members": [] if is_known else members,
                "event": None if event is None else asdict(event),
            }
            lines.append(self.path, canonical({**line, _MAC: self._mac(line)}))

    def runs(self, delta: float) -> dict[str, Run]:
        """Return what each run has spent, in the order of their beginnings, by the task's hash.

        Args:
            delta: of (ε, δ).

        Raises:
            FedmedError: if the file is damaged.
        """
        _, known, entries = self._read()
        by_run: dict[str, list[Entry]] = defaultdict(list)
        for entry in entries:
            by_run[entry.run].append(entry)
        return {
            run: Run(of[0].time, of[-1].time, len(of), _worst(of, known, delta))
            for run, of in by_run.items()
        }

    def epsilon(self, delta: float) -> float:
        """Return what has been spent of the patient whom all runs together have cost most.

        Args:
            delta: of (ε, δ).

        Raises:
            FedmedError: if the file is damaged.
        """
        _, known, entries = self._read()
        return _worst(entries, known, delta)

    def _member(self, patient: str) -> str:
        who = spelling.key(patient).encode()
        return hmac.new(self._secret, who, hashlib.sha256).hexdigest()[:32]

    def _check_there(self) -> None:
        if not self.path.exists():
            raise FedmedError(
                f"{self.path}: is gone, and with it what was spent of patients: put back a copy of "
                "it; until then nothing is trained"
            )

    def _mac(self, line: Mapping[str, Any]) -> str:
        return hmac.new(self._secret, canonical(line), hashlib.sha256).hexdigest()

    def _read(self) -> tuple[str, dict[str, frozenset[str]], list[Entry]]:
        """Return the last line's keyed hash, each population's patients, and all entries."""
        self._check_there()
        last, known, entries = _NONE_BEFORE, dict[str, frozenset[str]](), list[Entry]()
        for place, line in enumerate(lines.read(self.path), 1):
            entry, members, last = self._parsed(place, line, last)
            if members:
                known[entry.population] = frozenset(members)
            if entry.population not in known:
                raise self._damaged(place)
            entries.append(entry)
        return last, known, entries

    def _parsed(self, place: int, line: bytes, last: str) -> tuple[Entry, list[str], str]:
        try:
            found: dict[str, Any] = json.loads(line)
            formats.check(self.path, found.get(formats.KEY), FORMAT)
            mac = found.pop(_MAC)
            whole = found.keys() == _FIELDS and canonical({**found, _MAC: mac}) == line
            whole = whole and hmac.compare_digest(mac, self._mac(found))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise self._damaged(place) from None
        if not whole or found["previous"] != last:
            raise self._damaged(place)
        event = None if found["event"] is None else Event(**found["event"])
        time, run, round_, population = (found[name] for name in Entry._fields[:-1])
        return Entry(time, run, round_, population, event), found["members"], mac

    def _damaged(self, place: int) -> FedmedError:
        return FedmedError(
            f"{self.path}: line {place} is not as it was written, and with it is lost what was "
            "spent of patients: put back a copy of it; until then nothing is trained"
        )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold a lock that the system frees with the process, whatever ends it."""
        with self.path.with_suffix(".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _afford(
    promise: Promise, entries: Sequence[Entry], known: Mapping[str, frozenset[str]]
) -> None:
    """Refuse the last of some entries, if it spends more of its patients than is promised."""
    *_, new = entries
    of = known[new.population]
    own = _worst([entry for entry in entries if entry.run == new.run], known, promise.delta, of)
    if own > promise.epsilon:
        raise Refused(
            "privacy.epsilon",
            f"with this training the run would spend {own:.4g}, {promise.epsilon:g} allowed",
        )
    whole = _worst(entries, known, promise.delta, of)
    if whole > promise.lifetime:
        raise Refused(
            "privacy.lifetime",
            f"with this training all runs would have spent {whole:.4g} of a patient, "
            f"{promise.lifetime:g} allowed",
        )


def _worst(
    entries: Sequence[Entry],
    known: Mapping[str, frozenset[str]],
    delta: float,
    of: frozenset[str] | None = None,
) -> float:
    """Return ε of the patient whom entries have cost most; 0 where there are none.

    Patients who were in the same populations have the same ε, so that few are to be computed.

    Args:
        entries: what was spent.
        known: population → its patients.
        delta: of (ε, δ).
        of: the patients who count; all when left out.
    """
    of_patient: dict[str, set[str]] = defaultdict(set)
    for population in {entry.population for entry in entries}:
        for member in known[population] if of is None else known[population] & of:
            of_patient[member].add(population)
    return max(
        (
            _spent([entry for entry in entries if entry.population in populations], delta)
            for populations in {frozenset(found) for found in of_patient.values()}
        ),
        default=0.0,
    )


def _spent(entries: Sequence[Entry], delta: float) -> float:
    events = [entry.event for entry in entries if entry.event is not None]
    return float("inf") if len(events) < len(entries) else epsilon(events, delta)
