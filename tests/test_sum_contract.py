"""Each aggregation kept to its contract, and strangers wrong in one way each found out."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pytest
from sum_contract import check_sum

from fedmed.aggregation.base import Ask, Collector, Fields, IntegerSum, Party, Payload, Session
from fedmed.aggregation.codec import Integers
from fedmed.aggregation.fixed import FixedPoint, OpenSum
from fedmed.config import CONF, compose

NAMES = sorted(path.stem for path in (CONF / "aggregation").glob("*.yaml") if path.stem != "float")


@pytest.mark.parametrize("name", NAMES)
def test_aggregations(name: str) -> None:
    small = ("aggregation.key_bits=2048",) if name == "paillier" else ()
    config = compose([f"aggregation={name}", *small])
    check_sum(config.aggregation.build)


class Stranger(FixedPoint):
    """An aggregation that is right in all but one way."""

    wrong: ClassVar[str] = ""

    def collector(self, session: Session, size: int, width: int) -> Collector:
        return _Careless(session.members, size) if self.wrong == "careless" else _Odd(self, size)

    def protect(
        self, session: Session, vector: Integers, width: int, told: Fields, own: Party
    ) -> Payload:
        if self.wrong == "spoils":
            vector += 1
        if self.wrong == "hoards":
            own.vault.store(b"secret")
        return vector.copy()

    def answer(self, session: Session, step: str, told: Fields, own: Party) -> Fields:
        if self.wrong == "obliges":
            return {}
        return super().answer(session, step, told, own)


class _Odd(OpenSum):
    def __init__(self, of: Stranger, size: int) -> None:
        super().__init__((), size)
        self._wrong, self._seen = of.wrong, 0

    def prepare(self, ask: Ask) -> Mapping[int, Fields]:
        return {client: {} for client in (0, 2, 3, 5, 6, 7, 11, 40)}

    def add(self, client: int, payload: Payload) -> None:
        self._seen += 1
        if self._wrong == "forgets" and self._seen == 3:
            return
        super().add(client, payload)

    def open(self, ask: Ask) -> Integers:
        found: Any = super().open(ask)
        odd: Any = found.astype(np.int64) if self._wrong == "wide" else found
        return odd  # type: ignore[no-any-return]


class _Careless(OpenSum):
    def add(self, client: int, payload: Payload) -> None:
        if payload.size:
            self._total[: payload.size] += payload.astype(np.int32).ravel()[: self._total.size]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("forgets", "the sum is not that of the vectors"),
        ("wide", "a sum is a vector of int32"),
        ("spoils", "it changes the vector it is given"),
        ("hoards", "a secret is kept"),
        ("obliges", "it answers a step"),
        ("careless", "it takes a payload"),
        ("open", "the same vector travels as the same bytes"),
        ("silent", "it must say"),
    ],
)
def test_a_wrong_aggregation_is_found_out(wrong: str, said: str) -> None:
    hides = wrong in ("open", "silent")
    own = {"wrong": wrong, "hides": hides, "assumptions": ("",) if wrong == "open" else ()}
    kind = type("Wrong", (Stranger,), own)

    def make() -> IntegerSum:
        made: IntegerSum = kind(bits=17, range=1.0, statistics_range=64.0, threshold=0.5)
        return made

    with pytest.raises(AssertionError, match=said):
        check_sum(make)
