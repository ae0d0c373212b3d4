"""The ledger: every noisy release of a run, and the privacy loss that they add up to.

An event is written before its noisy result is used, so a crash can only count too much. A release
that is made again from the same seeded noise, configuration, data, code and machine is the same one
and counts once. What cannot be shown to be the same counts again: noise from the operating system,
other code, another processor. Nothing that begins a run anew makes a ledger forget.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fedmed.core import formats
from fedmed.core.errors import ConfigError, FedmedError
from fedmed.core.files import write_atomically
from fedmed.core.units import UNITS, Unit, named
from fedmed.privacy.accounting import ACCOUNTANT, PURE, cross_checks, epsilon
from fedmed.privacy.events import Event

FORMAT = 1  # of the file
#: Where noise came from, as a statement says it beside ε.
SIMULATED = "from the seed, of a simulation: whoever has the seed can take it away"
SECRET = "from the operating system"
IMAGES = 10  # or other parts of a patient, whose ε is told beside one's


@dataclass
class Ledger:
    """The releases of a run.

    Attributes:
        path: where the ledger is kept, at all times as complete as in memory.
        deltas: δ of each unit's guarantee.
        assumptions: what the guarantee rests on, a sentence each.
        caveats: what makes the guarantee less than it seems, a sentence each.
        repeatable: whether a round that is run again draws the same noise again.
        events: the releases so far, in their order.
        stopped: the round from which on a client contributes no more, its budget being spent.
        config_sha256: of the run's configuration.
        basis: a hash of all that its releases are made from.
        made_from: the basis of each event.
        copy: where the same is kept a second time, to outlive the run; None for nowhere.
    """

    path: Path
    deltas: Mapping[str, float]
    assumptions: tuple[str, ...] = ()
    repeatable: bool = True
    caveats: tuple[str, ...] = ()
    events: list[Event] = field(default_factory=list)
    stopped: dict[int, int] = field(default_factory=dict)
    config_sha256: str = ""
    basis: str = ""
    made_from: list[str] = field(default_factory=list)
    copy: Path | None = None

    @classmethod
    def open(
        cls,
        path: Path,
        deltas: Mapping[str, float],
        assumptions: tuple[str, ...] = (),
        repeatable: bool = True,
        caveats: tuple[str, ...] = (),
        config_sha256: str = "",
        basis: str = "",
        copy: Path | None = None,
    ) -> "Ledger":
        """Return the ledger kept at ``path``, or an empty one; its file and the copy are there.

        Raises:
            FedmedError: if it is damaged, or is another configuration's.
        """
        kept = _kept(path, config_sha256)
        ledger = cls(
            path,
            deltas,
            assumptions,
            repeatable,
            caveats,
            [Event(**event) for event in kept["events"]],
            {int(client): round_ for client, round_ in kept["stopped"].items()},
            config_sha256,
            basis,
            list(kept["made_from"]),
            copy,
        )
        ledger._write()
        return ledger

    @classmethod
    def read(cls, path: Path, config_sha256: str) -> "Ledger":
        """Return the ledger that a run has kept, as it stands, to look at.

        Args:
            path: of its file.
            config_sha256: of the run's configuration.

        Raises:
            FedmedError: if there is none, or it is damaged, or is another configuration's.
        """
        if not path.exists():
            raise FedmedError(f"{path}: is gone, and with it what the run has spent")
        kept = _kept(path, config_sha256)
        return cls(
            path,
            kept["delta"],
            tuple(kept["assumptions"]),
            kept["repeatable"],
            tuple(kept["caveats"]),
            [Event(**event) for event in kept["events"]],
            {int(client): round_ for client, round_ in kept["stopped"].items()},
            config_sha256,
            made_from=list(kept["made_from"]),
        )

    @staticmethod
    def check(path: Path, config_sha256: str) -> None:
        """Refuse to begin a run anew over what was spent and would not be known of.

        Raises:
            FedmedError: if the ledger at ``path`` is damaged, or is another configuration's.
        """
        _kept(path, config_sha256)

    def record(self, *events: Event) -> None:
        """Put the events on the disk; a release that is repeated to the bit changes nothing."""
        self._record(events, self.basis, self.repeatable)

    def record_lasting(self, data_sha256: str, *events: Event) -> None:
        """Put releases on the disk that were made once, before the run, and are part of its data.

        Args:
            data_sha256: what was released.
            events: how.
        """
        self._record(events, data_sha256, True)

    def begin_anew(self) -> None:
        """Forget who stopped, as the rounds begin with the first; what was spent stays spent."""
        self.stopped.clear()
        self._write()

    def holds(self, event: Event) -> bool:
        """Return whether a release is here already, and making it again is no other one."""
        return self.repeatable and event in self._made_from(self.basis)

    def _record(self, events: Sequence[Event], basis: str, repeatable: bool) -> None:
        same = self._made_from(basis) if repeatable else set[Event]()
        attempts = Counter(replace(event, attempt=0) for event in self.events)
        new = [replace(e, attempt=attempts[e]) for e in events if e not in same]
        if new:
            self.events += new
            self.made_from += [basis] * len(new)
            self._write()

    def _made_from(self, basis: str) -> set[Event]:
        made = zip(self.events, self.made_from, strict=True)
        return {replace(event, attempt=0) for event, its in made if its == basis}

    def stop(self, client: int, round_: int) -> None:
        """Note that a client contributes no more, from a round on."""
        if client not in self.stopped:
            self.stopped[client] = round_
            self._write()

    def of_client(self, unit: str, client: int | None) -> list[Event]:
        """Return the releases about a client's units; None: those about all clients alike."""
        return [event for event in self.events if (event.unit, event.client) == (unit, client)]

    def per_client(self, unit: str) -> dict[int, float]:
        """Return each client's ε, of those that have released anything about their units."""
        clients = sorted({e.client for e in self.events if e.unit == unit and e.client is not None})
        shared = self.of_client(unit, None)
        return {
            client: epsilon(shared + self.of_client(unit, client), self.deltas[unit])
            for client in clients
        }

    def epsilon(self, unit: str) -> float:
        """Return ε of a unit at its δ, infinite without noise: the maximum over the clients.

        A patient's images lie in one client, so that no patient is in two clients' releases.
        """
        shared = epsilon(self.of_client(unit, None), self.deltas[unit])
        return max([shared, *self.per_client(unit).values()])

    def units(self) -> list[str]:
        """Return what the run hides: whose presence, the smallest first, then what images show."""
        return [name for name in UNITS if name in self.deltas]

    def statement(self) -> dict[str, Any]:
        """Return the guarantee in full: ε is nothing without its unit, δ and assumptions.

        The guarantees of two units do not add up and are not compared: the first is stated, the
        others stand under ``also``.
        """
        if not self.deltas:
            return {"unit": None, "epsilon": None, "delta": None}
        first, *others = [self._guarantee(unit) for unit in self.units()]
        return {
            **first,
            "also": others,
            "repeatable": self.repeatable,
            "noise": SIMULATED if self.repeatable else SECRET,
            "stopped": {str(client): round_ for client, round_ in self.stopped.items()},
            "caveats": list(self.caveats),
            "assumptions": list(self.assumptions),
        }

    def _guarantee(self, unit: str) -> dict[str, Any]:
        delta, per_client, shared = (
            self.deltas[unit],
            self.per_client(unit),
            self.of_client(unit, None),
        )
        worst = max(per_client, key=lambda client: per_client[client], default=None)
        its_own = [] if worst is None else self.of_client(unit, worst)
        checks = cross_checks(shared + its_own, delta) if shared + its_own else {}
        return {
            "unit": unit,
            "epsilon": _number(self.epsilon(unit)),
            "delta": delta,
            "accountant": ACCOUNTANT if delta else PURE,
            "cross_checks": {name: _number(value) for name, value in checks.items()},
            "neighbouring": (shared + its_own)[0].neighbouring if shared + its_own else None,
            "sampling": "poisson",
            "releases": sum(event.steps for event in shared + its_own),
            "implied": self._implied(unit, shared + its_own),
            "per_client": {str(k): _number(v) for k, v in per_client.items()} or None,
        }

    def _implied(self, unit: str, events: Sequence[Event]) -> list[dict[str, Any]]:
        """Return what the unit's ε is too easily taken for, and what that is, at the same δ."""
        if not events or events[0].neighbouring == "replace-one":
            return []
        delta, kind = self.deltas[unit], named(unit)
        if kind.extent == "part":
            ten = epsilon(events, delta, group=IMAGES)
            of = f"a patient with {IMAGES} {kind.several}"
            return [{"of": of, "epsilon": _number(ten)}]
        if kind.extent == "group":
            data = epsilon(events, delta, replaced=True)
            return [{"of": of_its_data(kind), "epsilon": _number(data)}]
        return []

    def text(self, accountant: str = ACCOUNTANT) -> str:
        """Return the content of the file.

        Args:
            accountant: by whom the events were accounted for when it was written.
        """
        content = {
            formats.KEY: FORMAT,
            "delta": dict(self.deltas),
            "accountant": accountant,
            "repeatable": self.repeatable,
            "caveats": list(self.caveats),
            "assumptions": list(self.assumptions),
            "stopped": self.stopped,
            "config_sha256": self.config_sha256,
            "made_from": self.made_from,
            "events": [asdict(event) for event in self.events],
        }
        content["sha256"] = _digest(content)
        return json.dumps(content, indent=1)

    def _write(self) -> None:
        text = self.text()
        for path in (self.path, self.copy) if self.copy else (self.path,):
            write_atomically(path, lambda new: new.write_text(text))


def of_its_data(unit: Unit) -> str:
    """Return what is asked of a unit that counts in any case: which data it has."""
    return f"which data {unit.one} has"


def _kept(path: Path, config_sha256: str) -> dict[str, Any]:
    """Return what a ledger's file holds, checked; an empty one's content if there is none."""
    if not path.exists():
        return {"events": [], "stopped": {}, "made_from": []}
    try:
        kept: dict[str, Any] = json.loads(path.read_text())
        formats.check(path, kept.get(formats.KEY), FORMAT)
        written = kept.pop("sha256")
        of, count = kept["config_sha256"], len(kept["events"])
        _ = [Event(**event) for event in kept["events"]], kept["stopped"].items()
        whole = written == _digest(kept) and len(kept["made_from"]) == count
    except (ValueError, LookupError, TypeError, AttributeError, OSError, ConfigError):
        whole, of, count = False, "", 0
    if not whole:
        raise FedmedError(
            f"{path}: is damaged, and with it what this run has spent; put back a copy of it, or "
            "name another hydra.run.dir and count what was released from here as well"
        )
    if count and of != config_sha256:
        raise FedmedError(
            f"{path}: tells what a run of another configuration has spent, which no other run may "
            "delete; name another hydra.run.dir"
        )
    return kept


def _digest(content: Mapping[str, Any]) -> str:
    """Return a hash of a ledger's content, as it is written and as it is read."""
    plain = json.loads(json.dumps(content))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _number(value: float | None) -> float | str | None:
    return "inf" if value is not None and math.isinf(value) else value
