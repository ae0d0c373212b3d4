"""Each aggregation kept to its contract, and strangers wrong in one way each found out."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from sum_contract import SIZE, Memory, Round, check_sum

from fedmed.aggregation.base import (
    Ask,
    Collector,
    Fields,
    IntegerSum,
    Party,
    Payload,
    Session,
    Take,
)
from fedmed.aggregation.codec import Integers
from fedmed.aggregation.fixed import FixedPoint, OpenSum
from fedmed.config import CONF, compose
from fedmed.core.errors import FedmedError
from fedmed.record.signatures import Signer, make_key

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


@pytest.mark.parametrize("name", ["secagg", "bfv"])
def test_a_server_cannot_have_all_but_one_weigh_nothing(name: str, tmp_path: Path) -> None:
    """Told other totals, each would weigh as the server likes, and the sum be one's update."""
    for client in range(4):
        make_key(tmp_path / str(client))
    signers = [Signer(tmp_path / str(client)) for client in range(4)]
    peers = {client: signer.public for client, signer in enumerate(signers)}
    vectors = {client: np.zeros(SIZE, np.int32) for client in range(4)}
    one = Round(compose([f"aggregation={name}"]).aggregation.build, vectors)
    one.parties = {k: Party(k, Memory(), signers[k], peers) for k in range(4)}
    fair = replace(one.session, examples=400)
    assert fair.weight(100) == 1.0
    assert replace(fair, examples=1 << 40).weight(100) < 1e-6
    one.session = fair
    one.collected()  # the control: told the same, they take part
    ask = one.ask

    def lies(step: str, told: Mapping[int, Fields], take: Take) -> None:
        for client in told:
            one.session = replace(fair, examples=400 if client == 2 else 1 << 40)
            ask(step, {client: told[client]}, take)
            one.session = fair

    one.ask = lies  # type: ignore[method-assign]
    with pytest.raises(FedmedError, match="no signature"):
        one.collected()
