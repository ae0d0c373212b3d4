"""Label and quantity skew, and none.

NIID-Bench (Li et al., ICDE 2022) partitions samples with one label; here the same definitions
divide patients by their key. Under its names, with its settings: ``niid_homo`` is :class:`IID`,
``niid_label_quantity`` (#C=k) is :class:`Pathological` with ``assignment=first-deterministic``,
``niid_label_dirichlet`` is :class:`Dirichlet` with ``balanced`` and ``niid_quantity`` is
:class:`Quantity`. Its feature skews add noise to a client's images: no matter of who is whose.
"""

from typing import Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from fedmed.core.errors import ConfigError
from fedmed.core.seeding import generator, seed_of
from fedmed.partition.patients import RAREST
from fedmed.partition.rule import Clients, Rule, Seed, ValFraction, parts

Alpha = Annotated[float, Field(gt=0)]
Patients = Annotated[int, Field(ge=1)]

ATTEMPTS = 100  # draws before a partition with too small clients is given up


class IID(Rule):
    """Patients shuffled and dealt out evenly; NIID-Bench's homo."""

    def __init__(self, clients: Clients, val_fraction: ValFraction, seed: Seed) -> None:
        super().__init__(val_fraction, seed)
        self.clients = clients

    def divide(self, patients: pd.DataFrame) -> list[list[str]]:  # noqa: D102
        from flwr_datasets.partitioner import IidPartitioner  # slow

        self._enough(patients, self.clients)
        return parts(IidPartitioner(self.clients), patients[["patient"]])


class Dirichlet(Rule):
    """Label skew by Dir(alpha) over the clients, for each key (Yurochkin et al. 2019).

    The draw is repeated until every client has ``min_patients``. NIID-Bench's noniid-labeldir is
    ``balanced``: whoever has more than an even share already gets nothing of the keys that follow
    (there: an even share or more). It repeats until each client has 10.

    Args:
        clients: how many.
        alpha: of the Dirichlet distribution.
        min_patients: the fewest that a client may have.
        val_fraction, seed: see Rule.
        key: what of a patient is skewed; see ``patients_of``.
        balanced: whether full clients are passed over.
    """

    def __init__(
        self,
        clients: Clients,
        alpha: Alpha,
        min_patients: Patients,
        val_fraction: ValFraction,
        seed: Seed,
        key: str = RAREST,
        balanced: bool = False,
    ) -> None:
        super().__init__(val_fraction, seed)
        self.clients, self.alpha, self.min_patients = clients, alpha, min_patients
        self.key, self.balanced = key, balanced

    def divide(self, patients: pd.DataFrame) -> list[list[str]]:  # noqa: D102
        from flwr_datasets.partitioner import DirichletPartitioner  # slow

        self._enough(patients, self.clients * self.min_patients)
        for attempt in range(ATTEMPTS):
            partitioner = DirichletPartitioner(
                self.clients,
                "key",
                self.alpha,
                min_partition_size=0,
                self_balancing=self.balanced,
                seed=seed_of(self.seed, "dirichlet", attempt) % 2**32,
            )
            divided = parts(partitioner, patients[["patient", "key"]])
            if min(map(len, divided)) >= self.min_patients:
                return divided
        raise ConfigError(_hopeless(self.min_patients))


class Pathological(Rule):
    """Each client holds patients of only a few keys (McMahan et al. 2017).

    The patients of a key are split evenly among the clients that hold it. NIID-Bench's
    noniid-#labelk is the ``first-deterministic`` assignment.

    Args:
        clients: how many.
        keys: how many keys a client holds.
        val_fraction, seed: see Rule.
        key: what of a patient is skewed; see ``patients_of``.
        assignment: of keys to clients: ``deterministic``, client i holds those from the i-th on,
            or ``first-deterministic``, the i-th and others at random.
    """

    def __init__(
        self,
        clients: Clients,
        keys: Clients,
        val_fraction: ValFraction,
        seed: Seed,
        key: str = RAREST,
        assignment: Literal["deterministic", "first-deterministic"] = "deterministic",
    ) -> None:
        super().__init__(val_fraction, seed)
        self.clients, self.keys = clients, keys
        self.key, self.assignment = key, assignment

    def divide(self, patients: pd.DataFrame) -> list[list[str]]:  # noqa: D102
        from flwr_datasets.partitioner import PathologicalPartitioner  # slow

        self._enough(patients, self.clients)
        known = patients["key"].nunique()
        if self.keys > known:
            raise ConfigError(
                f"partition.keys: at most {known}, the keys there are; got {self.keys}"
            )
        partitioner = PathologicalPartitioner(
            self.clients,
            "key",
            self.keys,
            class_assignment_mode=self.assignment,
            seed=seed_of(self.seed, "pathological") % 2**32,
        )
        try:
            divided = parts(partitioner, patients[["patient", "key"]])
        except ValueError:  # more clients hold a key than it has patients
            raise ConfigError(
                f"partition.clients: {self.clients} clients of {self.keys} keys are too many: "
                f"{patients['key'].value_counts().index[-1]} has only "
                f"{patients['key'].value_counts().iloc[-1]} patients; lower either"
            ) from None
        if sum(map(len, divided)) < len(patients):
            raise ConfigError(
                f"partition.clients: {self.clients} clients of {self.keys} keys leave some of the "
                f"{known} keys, and their patients, to nobody; raise either"
            )
        return divided


class Quantity(Rule):
    """Quantity skew: the clients' shares are drawn from Dir(alpha) (Li et al. 2022).

    NIID-Bench's iid-diff-quantity, which repeats until each share is 10 or more.

    Args:
        clients: how many.
        alpha: of the Dirichlet distribution.
        min_patients: the fewest that a client may have; the draw is repeated until it holds.
        val_fraction, seed: see Rule.
    """

    def __init__(
        self,
        clients: Clients,
        alpha: Alpha,
        min_patients: Patients,
        val_fraction: ValFraction,
        seed: Seed,
    ) -> None:
        super().__init__(val_fraction, seed)
        self.clients, self.alpha, self.min_patients = clients, alpha, min_patients

    def divide(self, patients: pd.DataFrame) -> list[list[str]]:  # noqa: D102
        from flwr_datasets.partitioner import SizePartitioner  # slow

        self._enough(patients, self.clients * self.min_patients)
        rng = generator(self.seed, "quantity")
        for _ in range(ATTEMPTS):
            cuts = np.cumsum(rng.dirichlet(np.full(self.clients, self.alpha))) * len(patients)
            sizes = np.diff(np.round(cuts[:-1]), prepend=0, append=len(patients)).astype(int)
            if sizes.min() >= self.min_patients:
                return parts(SizePartitioner(sizes.tolist()), patients[["patient"]])
        raise ConfigError(_hopeless(self.min_patients))


def _hopeless(least: int) -> str:
    return (
        f"partition.alpha: none of {ATTEMPTS} draws gave every client {least} patients; raise "
        "alpha, or lower partition.clients or partition.min_patients"
    )
