"""A thousand random changes to each message of secure aggregation: refused, or harmless.

What a vector holds is not among them: a changed one is as good as another client's, and only the
transport, and the signature on a reply, can tell.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from secagg_round import STEPS, Message, Round, hospital_keys

from fedmed.aggregation.secagg import SecAggError
from fedmed.record.signatures import Signer

Signers = Mapping[int, Signer]


@pytest.fixture(scope="module")
def signers(tmp_path_factory: pytest.TempPathFactory) -> Signers:
    return hospital_keys(tmp_path_factory.mktemp("hospitals"))


def mutated(message: Message, draw: np.random.Generator) -> Message:
    """A message with one random change."""

    def other(value: Any) -> Any:
        if isinstance(value, list) and draw.random() < 0.7:
            return relisted(value)
        if isinstance(value, bytes) and value and draw.random() < 0.7:
            at = int(draw.integers(len(value)))
            flipped = (
                value[:at] + bytes([value[at] ^ (1 << int(draw.integers(8)))]) + value[at + 1 :]
            )
            return [flipped, value[:at], value + b"\0", value[::-1]][draw.integers(4)]
        if isinstance(value, int) and draw.random() < 0.7:
            return [value + 1, value - 1, -value - 1, 2**40, value ^ 1][draw.integers(5)]
        return [None, "text", 1.5, b"", [], {}, True, [[]], b"x" * 64, "1", [0], [b"x"]][
            draw.integers(12)
        ]

    def relisted(items: list[Any]) -> list[Any]:
        items = list(items)
        at = int(draw.integers(len(items) + 1))
        kind = draw.integers(5)
        if kind == 0 or not items:
            return [*items[:at], 7, *items[at:]]
        at = min(at, len(items) - 1)
        if kind == 1:
            return items[:at] + items[at + 1 :]
        if kind == 2:
            return [*items[:at], items[at], *items[at:]]
        if kind == 3:
            return items[at:] + items[:at]
        return [*items[:at], other(items[at]), *items[at + 1 :]]

    field = str(draw.choice(sorted(message)))
    kind = draw.random()
    if kind < 0.03:
        return {key: value for key, value in message.items() if key != field}
    if kind < 0.06:
        return message | {"more": 1}
    return message | {field: other(message[field])}


@pytest.mark.parametrize("registered", [True, False])
@pytest.mark.parametrize("step", STEPS[1:])
def test_any_change_to_what_a_client_is_sent_is_refused_or_harmless(
    step: str, registered: bool, signers: Signers
) -> None:
    draw = np.random.default_rng(STEPS.index(step))
    begun = Round(6, signers=signers if registered else None).until(step)
    accepted = 0
    for _ in range(1000):
        message = mutated(begun.down[2], draw)
        client = begun.client(2)
        given = (message, begun.vectors[2]) if step == "mask" else (message,)
        try:
            getattr(client, step)(*given)
        except SecAggError:
            assert client.to_bytes() == begun.states[2]
            continue
        accepted += 1
        harmless(begun, step, "down", message)
    assert accepted < 300


@pytest.mark.parametrize("registered", [True, False])
@pytest.mark.parametrize("step", STEPS)
def test_any_change_to_what_the_server_is_sent_is_refused_or_harmless(
    step: str, registered: bool, signers: Signers
) -> None:
    draw = np.random.default_rng(STEPS.index(step))
    begun = Round(6, signers=signers if registered else None).until(step)
    done = begun.copy()
    done.step(step)
    sent = next(message for at, number, message in done.seen if (at, number) == (step, 2))
    words = done.payloads.get(2)
    accepted = 0
    for _ in range(1000):
        message = mutated(sent, draw)
        server = begun.copy()
        try:
            server.take(step, 2, message, words)
        except SecAggError:
            server.take(step, 2, sent, words)  # as if nothing had been
            continue
        accepted += 1
        harmless(begun, step, "up", message)
    assert accepted < 400


def harmless(begun: Round, step: str, way: str, message: Message) -> None:
    """Go on with a changed message to or from client 2: to the right sum, or one line."""

    def meddle(at: str, which: str, number: int, sent: Message) -> Message:
        return message if (at, which, number) == (step, way, 2) else sent

    tried = begun.copy()
    try:
        tried.play(meddle=meddle, since=step)
    except SecAggError as error:
        tried.refused.append(str(error))
    else:
        assert tried.sum.tolist() == tried.expected()
