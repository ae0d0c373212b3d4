"""Integers in the open: what every protected sum must equal, and hides nothing."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from fedmed.aggregation.base import (
    Ask,
    Collector,
    Fields,
    IntegerSum,
    Party,
    Payload,
    Session,
)
from fedmed.aggregation.codec import Integers
from fedmed.core.errors import FedmedError


class OpenSum(Collector):
    """Adds vectors as they come.

    Args:
        members: whose they are.
        size: integers in each.
    """

    def __init__(self, members: Sequence[int], size: int) -> None:
        self._members = members
        self._total = np.zeros(size, np.int32)

    def prepare(self, ask: Ask) -> Mapping[int, Fields]:
        """Return nothing to tell, for each member."""
        return {client: {} for client in self._members}

    def add(self, client: int, payload: Payload) -> None:
        """Add a vector; see :meth:`Collector.add`."""
        self._total += words(payload, self._total.size).view(np.int32)

    def open(self, ask: Ask) -> Integers:
        """Return the sum."""
        return self._total


def words(payload: Payload, size: int) -> Payload:
    """Return a payload that is a vector of words.

    Raises:
        FedmedError: if it is none of that size.
    """
    if payload.dtype not in (np.dtype(np.int32), np.dtype(np.uint32)) or payload.shape != (size,):
        raise FedmedError(
            f"a payload of {payload.shape} {payload.dtype}, where {size} words are due"
        )
    return payload


class FixedPoint(IntegerSum):
    """Integers as they are."""

    assumptions: ClassVar[tuple[str, ...]] = (
        "SIMULATION: the server sees each client's integers (aggregation=fixed); what rests on "
        "its seeing sums alone is what a run with aggregation=secagg has, of the same weights",
    )

    def collector(self, session: Session, size: int, width: int) -> Collector:
        """Return the server's end of a session."""
        return OpenSum(session.members, size)

    def protect(
        self, session: Session, vector: Integers, width: int, told: Fields, own: Party
    ) -> Payload:
        """Return the vector itself."""
        return vector
