"""Clients of given sizes within each site."""

from collections.abc import Mapping, Sequence

import pandas as pd

from fedmed.core.errors import ConfigError
from fedmed.core.seeding import generator
from fedmed.partition.record import check
from fedmed.partition.rule import Clients, Rule, Seed, ValFraction


class Sized(Rule):
    """A site's shuffled patients, dealt out over its own clients.

    Args:
        sizes: of each site, how many clients share its patients evenly, or how many patients each
            of its clients has; those that are left over, of other sites too, are held out.
        val_fraction, seed: see Rule.
    """

    def __init__(
        self,
        sizes: Mapping[str, Clients | Sequence[Clients]],
        val_fraction: ValFraction,
        seed: Seed,
    ) -> None:
        super().__init__(val_fraction, seed)
        self.sizes = sizes

    def assign(self, table: pd.DataFrame, targets: tuple[str, ...]) -> pd.DataFrame:  # noqa: D102
        first = table.drop_duplicates("patient")
        kept = set(first.loc[first["split"] == "test", "patient"])
        for ids in self._dealt(first):
            kept.update(ids)
        assigned = super().assign(table[table["patient"].isin(kept)], targets)
        out = first.loc[~first["patient"].isin(kept), ["patient"]].assign(client=-1, role="out")
        whole = pd.concat([assigned, out]).sort_values("patient", ignore_index=True)
        check(whole, table)
        return whole

    def divide(self, patients: pd.DataFrame) -> list[list[str]]:  # noqa: D102
        return self._dealt(patients.assign(split="train"))

    def _dealt(self, patients: pd.DataFrame) -> list[list[str]]:
        """Return each client's patients, of a table with their site and split, in any order."""
        clients: list[list[str]] = []
        for site, sizes in self.sizes.items():
            mine = patients[(patients["site"] == site) & (patients["split"] != "test")]
            ids = sorted(mine["patient"])
            shuffled = [ids[i] for i in generator(self.seed, "sized", site).permutation(len(ids))]
            counts = _counts(site, sizes, len(ids))
            ends = [sum(counts[: i + 1]) for i in range(len(counts))]
            clients += [shuffled[end - n : end] for end, n in zip(ends, counts, strict=True)]
        return clients


def _counts(site: str, sizes: int | Sequence[int], patients: int) -> list[int]:
    """Return the sizes of a site's clients."""
    if isinstance(sizes, int):
        return [patients // sizes + (i < patients % sizes) for i in range(sizes)]
    if sum(sizes) > patients:
        raise ConfigError(
            f"partition.sizes: {site} has {patients} patients to train, {sum(sizes)} were asked for"
        )
    return list(sizes)
