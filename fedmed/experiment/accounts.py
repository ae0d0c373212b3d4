"""What a run spends of privacy: its plan, its ledger, and the budget of its clients' training."""

import itertools
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmed.config import Config, Deployment, identity
from fedmed.core.errors import FedmedError
from fedmed.core.seeding import fingerprint
from fedmed.experiment.data import Data
from fedmed.federation.checkpoint import Checkpoint
from fedmed.privacy import Ledger
from fedmed.privacy.budget import PrivacyBudget
from fedmed.privacy.plan import PrivacyPlan
from fedmed.privacy.together import spent_of
from fedmed.runs.directory import RunDirectory


@dataclass(frozen=True)
class Accounts:
    """The accounts of a run.

    Attributes:
        plan: what the run promises, and what it shows.
        ledger: of all that is released privately; no file where nothing is.
        budget: pays for the clients' private training.
    """

    plan: PrivacyPlan
    ledger: Ledger
    budget: PrivacyBudget


def open_accounts(
    config: Config, plan: PrivacyPlan, data: Data, state: Checkpoint, run_dir: RunDirectory
) -> Accounts:
    """Return the accounts of a run, with what was spent before.

    Args:
        config: of the run.
        plan: of the run.
        data: whose pixels may have been released already.
        state: where the run stands.
        run_dir: where the ledger is.

    Raises:
        FedmedError: if the ledger of a run that has begun is gone, or another's, or damaged.
        ConfigError: if no client can pay for the first round.
    """
    if not plan.deltas:
        ledger = Ledger(run_dir.ledger, plan.deltas)
    else:
        if state.round and not run_dir.ledger.exists():
            raise _ledger_gone(run_dir)
        ledger = Ledger.open(
            run_dir.ledger,
            plan.deltas,
            plan.assumptions,
            plan.repeatable,
            plan.caveats,
            config_sha256=config.sha256,
            basis=identity.basis(state.data, state.surroundings[-1]),
            copy=_copy(config, plan, data, run_dir),
        )
        if not state.round:
            ledger.begin_anew()
    budget = PrivacyBudget(plan.training, plan.limit, ledger, begins=not state.round)
    ledger.record_lasting(data.hashes["data_sha256"], *plan.released)
    return Accounts(plan, ledger, budget)


def _copy(config: Config, plan: PrivacyPlan, data: Data, run_dir: RunDirectory) -> Path | None:
    """Return where a simulation's ledger outlives its run directory: in the store, by its patients.

    A run directory that was deleted and is made again releases the same where noise repeats; where
    it does not, what was released before stays beside it. Hospitals keep ledgers of their own.
    """
    if isinstance(config.runner, Deployment):
        return None
    place = fingerprint(config.sha256, str(run_dir.path.resolve()))[:16]
    copies = spent_of(config.store.expanduser(), data.assigned["patient"])
    copies.mkdir(parents=True, exist_ok=True)
    names = (f"{place}-{n}.json" for n in itertools.count())
    return next(
        copies / name
        for name in names
        if plan.repeatable or run_dir.ledger.exists() or not (copies / name).exists()
    )


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
