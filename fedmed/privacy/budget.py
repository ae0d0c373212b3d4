"""What private local training will release, and whether a client can still pay for it."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from fedmed.config import DPSGD, Client, Task
from fedmed.core.errors import ConfigError
from fedmed.privacy.accounting import epsilon, noise_for
from fedmed.privacy.events import Event
from fedmed.privacy.ledger import Ledger


def schedule(client_config: Client, units: int) -> tuple[float, int]:
    """Return a client's sampling rate and its steps a round.

    Args:
        client_config: local training; its batch size is the expected number of units in a step,
            and an epoch is as many steps as draw each unit once in expectation.
        units: how many the client has.
    """
    rate = min(1.0, client_config.batch_size / units)
    return rate, client_config.steps or client_config.epochs * math.ceil(1 / rate)


def planned(config: Task, units: Sequence[int]) -> list[Event]:
    """Return what each client releases in a round, with the noise that its ε asks for.

    Noise is found for a client that takes part in every round, whatever ``strategy.fraction``.

    Args:
        config: of a run with ``privacy=dpsgd``.
        units: how many of the unit each client trains on.
    """
    privacy = config.privacy
    assert isinstance(privacy, DPSGD)
    events = []
    for client, n in enumerate(units):
        rate, steps = schedule(config.client, n)
        event = Event(0, privacy.unit, 0.0, rate, client=client, steps=steps)
        z = privacy.noise_multiplier
        if z is None:
            assert privacy.epsilon is not None
            counted = steps if privacy.noise_for == "steps" else math.ceil(1 / rate)
            whole = replace(event, client=None, steps=counted * config.rounds)
            z = noise_for(whole, privacy.epsilon, privacy.delta)
        events.append(replace(event, noise_multiplier=z))
    return events


class PrivacyBudget:
    """Pays for the clients' rounds, as long as their budget lasts.

    Args:
        events: what each client releases in a round; none where training is not private, and then
            nobody is ever spent out.
        limit: ε that no client may pass, infinite if they may.
        ledger: where the releases are written.
        begins: whether the first round is still to come.

    Raises:
        ConfigError: if it is, and no client can pay for it.
    """

    def __init__(
        self, events: Sequence[Event], limit: float, ledger: Ledger, begins: bool = True
    ) -> None:
        self._events = events
        self._budget = limit
        self.ledger = ledger
        if begins and self.exhausted(1):
            if any(self._before(client) for client in range(len(events))):
                raise ConfigError(
                    f"privacy.epsilon: earlier attempts at this run have spent what there was, and "
                    f"{ledger.path} keeps it; the budget is {self._budget:g}"
                )
            least = min(epsilon([event], ledger.deltas[event.unit]) for event in events)
            raise ConfigError(
                f"privacy.epsilon: one round spends {least:.3g} or more, the budget is "
                f"{self._budget:g}; raise it or privacy.noise_multiplier, or take fewer steps"
            )

    def noise_multipliers(self) -> list[float]:
        """Return each client's noise multiplier."""
        return [event.noise_multiplier for event in self._events]

    def authorise(self, round_: int, clients: Iterable[int]) -> list[int]:
        """Return those of ``clients`` that may train; their releases are on the disk by then."""
        clients = list(clients)
        able = [client for client in clients if self._affords(client, round_)]
        for client in sorted(set(clients) - set(able)):
            self.ledger.stop(client, round_)
        self.ledger.record(*(self._release(client, round_) for client in sorted(able)))
        return able

    def exhausted(self, round_: int) -> bool:
        """Return whether no client can pay for a round."""
        able = (self._affords(client, round_) for client in range(len(self._events)))
        return bool(self._events) and not any(able)

    def _release(self, client: int, round_: int) -> Event:
        return replace(self._events[client], round=round_)

    def _affords(self, client: int, round_: int) -> bool:
        release = self._release(client, round_)
        if self.ledger.holds(release):
            return True  # a round run again after a crash is paid for
        if math.isinf(self._budget):
            return True
        delta = self.ledger.deltas[release.unit]
        return epsilon([*self._before(client), release], delta) <= self._budget

    def _before(self, client: int) -> list[Event]:
        unit = self._events[client].unit
        return self.ledger.of_client(unit, None) + self.ledger.of_client(unit, client)
