"""What all runs on the same patients have spent together: a sweep's ε, beside each of its runs'.

Each ledger of a simulation is kept a second time in the store, by who the patients are, whatever is
learnt of them and at which size, so that it outlives the run directory. A patient may be another
client's in another run; so of each run the client counts to whom it has cost most, and the sum is a
bound.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fedmed.core.errors import FedmedError
from fedmed.core.seeding import fingerprint
from fedmed.privacy.accounting import epsilon
from fedmed.privacy.events import Event
from fedmed.privacy.ledger import Ledger

FOLDER = "spent"  # of a store


@dataclass(frozen=True)
class Together:
    """What runs have spent of one unit of the same patients.

    Attributes:
        patients_sha256: of the ids of all who were trained on, validated with or tested.
        unit: what is protected.
        delta: the largest of the runs' δ.
        runs: how many there were.
        largest: the largest ε of one of them, at its own δ.
        epsilon: of all together, at ``delta``, at most.
    """

    patients_sha256: str
    unit: str
    delta: float
    runs: int
    largest: float
    epsilon: float


def spent_of(store: Path, patients: Iterable[str]) -> Path:
    """Return the folder of the ledgers of all runs on the same patients."""
    return store / FOLDER / fingerprint(sorted(patients))


def together(store: Path) -> Iterator[Together]:
    """Yield what has been spent of the patients of a store, and of each unit.

    Args:
        store: the folder.

    Raises:
        FedmedError: if a ledger in it is damaged.
    """
    for patients in sorted((store / FOLDER).glob("*")):
        ledgers = [_read(path) for path in sorted(patients.glob("*.json"))]
        for unit in sorted({unit for ledger in ledgers for unit in ledger.units()}):
            own = [ledger for ledger in ledgers if unit in ledger.units()]
            delta = max(ledger.deltas[unit] for ledger in own)
            events = [event for ledger in own for event in _dearest(ledger, unit)]
            largest = max(ledger.epsilon(unit) for ledger in own)
            yield Together(patients.name, unit, delta, len(own), largest, epsilon(events, delta))


def _read(path: Path) -> Ledger:
    try:
        config = str(json.loads(path.read_text())["config_sha256"])
    except (OSError, ValueError, LookupError, TypeError):
        raise FedmedError(
            f"{path}: is damaged, and with it what a run has spent; put back a copy"
        ) from None
    return Ledger.read(path, config)


def _dearest(ledger: Ledger, unit: str) -> list[Event]:
    """Return what a run released of the client to whom it has cost most."""
    shared, per_client = ledger.of_client(unit, None), ledger.per_client(unit)
    if not per_client:
        return shared
    return shared + ledger.of_client(unit, max(per_client, key=lambda k: per_client[k]))
