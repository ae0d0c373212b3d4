"""What the house relies on of an aggregation, as a function to put any one of yours through.

Raises AssertionError in words at the first promise that is not kept.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmed.aggregation.base import Collector, Fields, IntegerSum, Party, Payload, Session, Take
from fedmed.core.errors import FedmedError
from fedmed.federation.messages import packed, unpacked

Vectors = Mapping[int, NDArray[np.int32]]
SIZE, WIDTH = 5000, 20
MEMBERS = (0, 2, 3, 5, 6, 7, 11, 40)


class Memory:
    """A client's secrets, in memory."""

    def __init__(self) -> None:
        self.kept: bytes | None = None

    def store(self, secret: bytes) -> None:
        self.kept = secret

    def load(self) -> bytes:
        if self.kept is None:
            raise FedmedError("nothing is kept")
        return self.kept

    def clear(self) -> None:
        self.kept = None


@dataclass
class Round:
    """A round without a network: the clients of one aggregation, and what is asked of them.

    Attributes:
        make: returns the aggregation anew, as each end builds its own.
        vectors: of the members.
        silent: step → the clients that do not answer it; ``mask`` is training itself.
    """

    make: Callable[[], IntegerSum]
    vectors: Vectors
    silent: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.members = tuple(sorted(self.vectors))
        self.session = Session("5" * 64, 1, secrets.token_bytes(16), self.members)
        self.parties = {k: Party(k, Memory()) for k in range(max(self.members) + 1)}
        self.payloads: dict[int, Payload] = {}

    def ask(self, step: str, told: Mapping[int, Fields], take: Take) -> None:
        """Have the clients answer, by messages as they travel."""
        for client, fields in told.items():
            if client not in self.silent.get(step, ()):
                came = unpacked(packed(fields))
                found = self.make().answer(self.session, step, came, self.parties[client])
                take(client, unpacked(packed(found)))

    def collected(self) -> tuple[Collector, list[int]]:
        """Return the server's end with all payloads in it, and whose they are."""
        collector = self.make().collector(self.session, SIZE, WIDTH)
        survivors = []
        for client, told in sorted(collector.prepare(self.ask).items()):
            if client in self.silent.get("train", ()):
                continue
            before = self.vectors[client].copy()
            came = unpacked(packed(told))
            own = self.parties[client]
            payload = self.make().protect(self.session, before, WIDTH, came, own)
            assert np.array_equal(before, self.vectors[client]), "it changes the vector it is given"
            self.payloads[client] = payload
            collector.add(client, payload)
            survivors.append(client)
        return collector, survivors

    def total(self) -> NDArray[np.int32]:
        """Return the sum."""
        return self.collected()[0].open(self.ask)

    def expected(self, without: Sequence[int] = ()) -> NDArray[np.int64]:
        """Return the sum, by addition."""
        vectors = [v.astype(np.int64) for k, v in self.vectors.items() if k not in without]
        total: NDArray[np.int64] = np.sum(vectors, axis=0, dtype=np.int64)
        return total


def drawn(seed: int, members: Sequence[int] = MEMBERS) -> dict[int, NDArray[np.int32]]:
    """Return vectors that reach the ends of their range, of which the sums do too."""
    rng, most = np.random.default_rng(seed), 2 ** (WIDTH - 1) // 2 // len(members)
    vectors = {k: rng.integers(-most, most, SIZE, np.int32, endpoint=True) for k in members}
    for vector in vectors.values():
        vector[:4] = most, -most, 0, -1
    return vectors


def check_sum(make: Callable[[], IntegerSum], dropping: Sequence[int] = (3, 11)) -> None:
    """Hold an aggregation against what every strategy relies on.

    Args:
        make: returns the aggregation; each end makes its own, at each step.
        dropping: members that drop out after the first steps, as ``threshold`` allows.
    """
    aggregation = make()
    whole = Round(make, drawn(1))
    found = whole.total()
    assert found.dtype == np.dtype(np.int32), "a sum is a vector of int32"
    assert np.array_equal(found, whole.expected()), "the sum is not that of the vectors"
    left = Round(make, drawn(2), {"train": dropping})
    assert np.array_equal(left.total(), left.expected(dropping)), "not the sum of who is left"
    _check_bad(make)
    _check_steps(make)
    for party in whole.parties.values():
        vault: Any = party.vault
        assert vault.kept is None, "a secret is kept when all is done"
    if aggregation.hides:
        assert aggregation.assumptions, "what hides rests on something, which it must say"
        _check_hidden(make)


def _check_bad(make: Callable[[], IntegerSum]) -> None:
    """A payload that is none is refused, and changes nothing."""
    bad = Round(make, drawn(3), {"train": (7,)})
    collector, _ = bad.collected()
    wrong: list[Payload] = [
        np.zeros(SIZE + 1, np.int32),
        np.zeros(0, np.uint8),
        np.zeros((SIZE, 2), np.uint32),
        np.zeros(64, np.uint8),
        bad.payloads[5][:-1].copy(),
    ]
    for payload in wrong:
        try:
            collector.add(7, payload)
        except FedmedError:
            continue
        raise AssertionError(f"it takes a payload of {payload.shape} {payload.dtype}")
    assert np.array_equal(collector.open(bad.ask), bad.expected((7,))), "what is refused is added"


def _check_steps(make: Callable[[], IntegerSum]) -> None:
    """A step that there is not, or another attempt's, is refused."""
    one = Round(make, drawn(4))
    one.collected()
    for step in ("", "no such step", "__init__"):
        try:
            make().answer(one.session, step, {}, one.parties[0])
        except FedmedError:
            continue
        raise AssertionError(f"it answers a step {step!r}")


def _check_hidden(make: Callable[[], IntegerSum]) -> None:
    """Payloads of the same vector are others each time, and like no vector."""
    vectors = drawn(5)
    one, two = Round(make, vectors), Round(make, vectors)
    one.collected()
    two.collected()
    for client, vector in vectors.items():
        first, second = (of.payloads[client].view(np.uint8) for of in (one, two))
        assert not np.array_equal(first, second), "the same vector travels as the same bytes"
        words = first[: first.nbytes // 4 * 4].view(np.int32)[:SIZE].astype(float)
        likeness = abs(np.corrcoef(words, vector[: len(words)].astype(float))[0, 1])
        assert likeness < 6 / np.sqrt(len(words)), "a payload is like the vector that it hides"
