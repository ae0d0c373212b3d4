"""What a run spends of privacy: its ledger, and the budget of its clients' private training."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from flwr.serverapp.strategy import Strategy

from fedmed.config import DPSGD, Config, identity
from fedmed.core.errors import FedmedError
from fedmed.experiment.data import Data
from fedmed.federation.checkpoint import Checkpoint
from fedmed.privacy import Ledger, PrivateStrategy, Unit
from fedmed.privacy.assumptions import assumptions, caveats, guarantees
from fedmed.privacy.budget import PrivacyBudget
from fedmed.privacy.pixel_release import pixel_assumptions, pixel_releases
from fedmed.runs.directory import RunDirectory


@dataclass(frozen=True)
class Accounts:
    """The accounts of a run.

    Attributes:
        ledger: of all that is released privately; None where nothing is.
        budget: pays for the clients' private training; None where it is not private.
    """

    ledger: Ledger | None = None
    budget: PrivacyBudget | None = None

    @property
    def caveats(self) -> tuple[str, ...]:
        """What a user must know before believing an ε, a sentence each."""
        return tuple(self.ledger.caveats) if self.ledger else ()

    def statement(self) -> dict[str, Any]:
        """Return what ``summary.json`` says of privacy."""
        if self.ledger is None:
            return {"unit": None, "epsilon": None, "delta": None}
        return self.ledger.statement()


def open_accounts(
    config: Config, strategy: Strategy, data: Data, state: Checkpoint, run_dir: RunDirectory
) -> Accounts:
    """Return the accounts of a run, with what was spent before.

    Args:
        config: of the run.
        strategy: of the run; it may release privately itself.
        data: whose pixels may have been released already.
        state: where the run stands.
        run_dir: where the ledger is.

    Raises:
        FedmedError: if the ledger of a run that has begun is gone, or another's, or damaged.
        ConfigError: if no client can pay for the first round.
    """
    dataset, images = data.dataset, data.store.table
    of_pixels = pixel_releases(dataset, images, data.assigned) if dataset else []
    deltas = guarantees(config, strategy, of_pixels)
    if not deltas:
        return Accounts()
    of_images = pixel_assumptions(dataset, images["image"]) if dataset else ()
    stated = (*of_images, *assumptions(config, strategy))
    if state.round and not run_dir.ledger.exists():
        raise _ledger_gone(run_dir)
    ledger = Ledger.open(
        run_dir.ledger,
        deltas,
        stated,
        config.repeatable,
        caveats(deltas, _protected(config, strategy, data)),
        config_sha256=config.sha256,
        basis=identity.basis(state.data, state.surroundings[-1]),
    )
    if not state.round:
        ledger.begin_anew()
    budget = None
    if isinstance(config.privacy, DPSGD):
        units = data.units(config.privacy.unit)
        budget = PrivacyBudget(config, units, ledger, begins=not state.round)
    ledger.record_lasting(data.hashes["data_sha256"], *of_pixels)
    return Accounts(ledger, budget)


def check_ledger(config: Config, run_dir: RunDirectory) -> None:
    """Refuse to go by what was spent, or to begin anew over it, where that is not known.

    Raises:
        FedmedError: if the ledger is gone, or another's, or damaged.
    """
    Ledger.check(run_dir.ledger, config.sha256)
    spent: Any = None
    with suppress(FedmedError):  # a damaged summary tells nothing
        spent = (run_dir.summary() or {}).get("privacy", {}).get("unit")
    if spent and not run_dir.ledger.exists():
        raise _ledger_gone(run_dir)


def _ledger_gone(run_dir: RunDirectory) -> FedmedError:
    return FedmedError(
        f"{run_dir.ledger}: is gone, and with it what the run has spent; put back a copy of it, or "
        "name another hydra.run.dir and count what was released from here as well"
    )


def _protected(config: Config, strategy: Strategy, data: Data) -> dict[Unit, int]:
    """Return how many units of each kind a run's training protects."""
    found: dict[Unit, int] = {}
    if isinstance(config.privacy, DPSGD):
        found[config.privacy.unit] = sum(data.units(config.privacy.unit))
    if isinstance(strategy, PrivateStrategy):
        nominal = getattr(strategy, "nominal_clients", None)
        found["client"] = nominal or len(data.clients)
    return found
