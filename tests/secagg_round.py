"""A round of secure aggregation in one process, to be stopped, copied and interfered with."""

import copy
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ConfigRecord

from fedmed.aggregation.secagg import Attempt, SecAggClient, SecAggError, SecAggServer
from fedmed.aggregation.secagg.masks import Words
from fedmed.aggregation.secagg.state import DIGEST_BYTES
from fedmed.record.signatures import Signer, make_key

STEPS = ["keys", "shares", "mask", "consent", "reveal"]

Message = dict[str, Any]
#: Changes a message: the step, ``down`` to or ``up`` from a client, its number, the message.
Meddle = Callable[[str, str, int, Message], Message]


def left_alone(step: str, way: str, client: int, message: Message) -> Message:
    return message


def hospital_keys(folder: Path) -> dict[int, Signer]:
    """Make a record key for each of eight hospitals, by their numbers."""
    paths = {number: folder / f"{number}.pem" for number in range(8)}
    for path in paths.values():
        make_key(path)
    return {number: Signer(path) for number, path in paths.items()}


class Round:
    """One attempt. Clients live as bytes between steps, as in workers of which any may go on."""

    def __init__(
        self,
        clients: int,
        size: int = 50,
        signers: Mapping[int, Signer] | None = None,
        threshold: int | None = None,
        attempt: str = "first",
    ) -> None:
        self.attempt = Attempt(run="0" * 64, round=1, attempt=attempt, threshold=threshold)
        self.signers = signers or {}
        registered = {
            number: self.signers[number].public for number in list(self.signers)[:clients]
        }
        self.server = SecAggServer(self.attempt, size, registered)
        draw = np.random.default_rng(clients)
        self.vectors = draw.integers(0, 2**32, (clients, size), dtype=np.uint32)
        self.states = {
            number: SecAggClient(
                self.attempt, number, 3, self.signers.get(number), registered
            ).to_bytes()
            for number in range(clients)
        }
        self.alive = set(self.states)
        self.down: dict[int, Message] = {number: {} for number in self.states}
        self.given = dict(self.down)  # what each was sent for the last step
        self.seen: list[tuple[str, int, Message]] = []
        self.payloads: dict[int, Words] = {}
        self.refused: list[str] = []

    def copy(self) -> "Round":
        other = copy.copy(self)
        other.server = copy.deepcopy(self.server)
        other.states, other.alive = dict(self.states), set(self.alive)
        other.refused = list(self.refused)
        return other

    def client(self, number: int) -> SecAggClient:
        return SecAggClient.from_bytes(self.states[number], self.signers.get(number))

    def step(self, step: str, meddle: Meddle = left_alone) -> None:
        """All who are alive do a step; whoever is refused, or refuses, drops out."""
        self.given = dict(self.down)
        for number in sorted(self.alive):
            try:
                self._answer(number, step, meddle)
            except SecAggError as error:
                self.refused.append(str(error))
                self.alive.remove(number)
        self._close(step)

    def _answer(self, number: int, step: str, meddle: Meddle) -> None:
        client = self.client(number)
        down = meddle(step, "down", number, self.down[number])
        words = None
        if step == "keys":
            up = client.keys()
        elif step == "mask":
            words = self.vectors[number].copy()
            up = client.mask(down, words)
            self.payloads[number] = words
        else:
            up = getattr(client, step)(down)
        self.states[number] = client.to_bytes()
        assert dict(ConfigRecord(dict(up))) == up, "Flower carries it"
        self.seen.append((step, number, dict(up)))
        self.take(step, number, meddle(step, "up", number, dict(up)), words)

    def take(self, step: str, number: int, up: object, words: Words | None = None) -> None:
        if step == "mask":
            assert words is not None
            self.server.add_masked(number, up, words)
        else:
            add = {"keys": "add_keys", "shares": "add_shares", "consent": "add_consent"}
            getattr(self.server, add.get(step, "add_revealed"))(number, up)

    def _close(self, step: str) -> None:
        if step == "reveal":
            self.sum = self.server.unmask()
        elif step == "shares":
            self.down = dict(self.server.inboxes())
        else:
            say = {"keys": "roster", "mask": "survivors", "consent": "consents"}
            message = getattr(self.server, say[step])()
            if step == "mask":
                self.survivors = message["survivors"]
            self.down = dict.fromkeys(self.alive, message)

    def play(
        self,
        drops: Mapping[str, Collection[int]] | None = None,
        meddle: Meddle = left_alone,
        since: str = "keys",
    ) -> "Round":
        """Do all steps from one on; before a step, some drop out."""
        for step in STEPS[STEPS.index(since) :]:
            self.alive -= set((drops or {}).get(step, ()))
            self.step(step, meddle)
        return self

    def until(self, step: str) -> "Round":
        """Do all steps before one."""
        for earlier in STEPS[: STEPS.index(step)]:
            self.step(earlier)
        return self

    def expected(self) -> list[int]:
        """The sum by Python's integers."""
        rows = [self.vectors[number].tolist() for number in self.survivors]
        return [sum(column) % 2**32 for column in zip(*rows, strict=True)]


def state_of(begun: Round, number: int) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(begun.states[number][DIGEST_BYTES:])
    return state


def announcements_of(begun: Round) -> dict[int, bytes]:
    announced = [message["announcement"] for step, _, message in begun.seen if step == "keys"]
    return dict(enumerate(announced))
