"""What a client may send that it should not, and what those who call a step may hand over."""

from pathlib import Path

import numpy as np
import pytest
from secagg_round import (
    STEPS,
    Meddle,
    Message,
    Round,
    announcements_of,
    hospital_keys,
    state_of,
)

from fedmed.aggregation.secagg import Attempt, SecAggClient, SecAggError, keys
from fedmed.aggregation.secagg.attempt import Cohort


def test_a_wrong_share_is_found_and_its_teller_named() -> None:
    def lie(step: str, way: str, number: int, message: Message) -> Message:
        if (step, way, number) == ("reveal", "up", 1):
            return message | {"shares": [b"\0" + b"x" * 32] * len(message["shares"])}
        return message

    done = Round(6).play(meddle=lie)
    assert done.server.misfits == {1}
    assert done.sum.tolist() == done.expected()
    # Where there is no share to spare, there is no sum.
    with pytest.raises(SecAggError, match="client 0: its shares do not give the secret that it"):
        Round(6).play({"reveal": [2]}, lie)


def dealing(begun: Round, dealer: int, letter: bytes) -> Meddle:
    """The dealer seals this letter for everyone, in a round that is before its shares."""
    private = bytes.fromhex(state_of(begun, dealer)["secrets"][0])
    cohort = Cohort(begun.attempt, announcements_of(begun))

    def deal(step: str, way: str, number: int, message: Message) -> Message:
        if (step, way, number) != ("shares", "up", dealer):
            return message
        sealed = [
            keys.seal(letter, private, cohort.announced[to].cipher, cohort.letter(dealer, to))
            for to in message["to"]
        ]
        return message | {"sealed": sealed}

    return deal


@pytest.mark.parametrize("gone", [[], [3]])
@pytest.mark.parametrize("value", [0, 2**256 + 5])
def test_a_client_that_deals_wrong_shares_is_named(gone: list[int], value: int) -> None:
    begun = Round(5).until("shares")
    deal = dealing(begun, 3, value.to_bytes(33, "big") * 2)
    with pytest.raises(SecAggError, match="client 3: its shares do not give the secret"):
        begun.play({"mask": gone}, deal, since="shares")


def test_what_is_sealed_and_is_no_share_is_refused_by_whom_it_is_sent() -> None:
    begun = Round(5).until("shares")
    begun.step("shares", dealing(begun, 3, b"\xff" * 66))
    with pytest.raises(SecAggError, match="client 3: sealed what is no share"):
        begun.client(0).mask(begun.down[0], begun.vectors[0])


def test_what_a_client_cannot_reveal_is_refused() -> None:
    begun = Round(5).until("reveal")
    told = begun.client(0).reveal(begun.down[0])
    shares = told["shares"]
    for message, said in (
        ({"of": [0, 1, 2, 3], "shares": shares[:4]}, "reveals shares of others than it has"),
        ({"of": [0, 1, 2, 3, 5], "shares": shares}, "reveals shares of others than it has"),
        (told | {"shares": [b"\xff" * 33, *shares[1:]]}, "reveals what is no share"),
    ):
        with pytest.raises(SecAggError, match=said):
            begun.server.add_revealed(0, message)
    begun.server.add_revealed(0, told)


def test_what_is_sent_twice_counts_once() -> None:
    begun = Round(4)
    for step in STEPS:
        sent = begun.copy()
        sent.step(step)
        again = begun.copy()
        message = next(message for at, number, message in sent.seen if (at, number) == (step, 1))
        again.take(step, 1, message, sent.payloads.get(1))
        with pytest.raises(SecAggError, match="client 1: has answered this step before"):
            again.take(step, 1, message, sent.payloads.get(1))
        begun.step(step)


def test_a_client_on_a_graph_goes_on_only_with_enough_neighbours() -> None:
    attempt = Attempt(run="r", round=1, attempt="a")
    client = SecAggClient(attempt, 0)
    own = client.keys()["announcement"]
    assert isinstance(own, bytes)
    peers = {number: keys.Secrets.make() for number in range(1, 150)}
    announcements = {0: own} | {number: peer.announced() for number, peer in peers.items()}
    cohort = Cohort(attempt, announcements)
    near = cohort.neighbours[0]
    client.shares(
        {
            "members": cohort.members,
            "announcements": [announcements[number] for number in cohort.members],
            "signatures": [b""] * 150,
        }
    )

    def present(count: int) -> list[int]:
        return [number for number in cohort.members if number not in near[count:]]

    def inbox(count: int) -> Message:
        sealed = [
            keys.seal(bytes(66), peers[number].cipher, own[:32], cohort.letter(number, 0))
            for number in near[:count]
        ]
        return {"sharers": present(count), "sealed": sealed}

    fewest = cohort.share_threshold - 1
    assert len(present(fewest - 1)) >= cohort.threshold, "the cohort's threshold is not in play"
    vector = np.zeros(4, np.uint32)
    with pytest.raises(SecAggError, match=f"shares of {fewest - 1} neighbours are too few"):
        client.mask(inbox(fewest - 1), vector)
    client.mask(inbox(fewest + 1), vector)
    with pytest.raises(SecAggError, match="too few of its neighbours survive"):
        client.consent({"survivors": present(fewest - 1)})
    client.consent({"survivors": present(fewest)})


def test_a_client_hidden_from_another_is_told_before_the_sum() -> None:
    def hide(step: str, way: str, number: int, message: Message) -> Message:
        if (step, way, number) == ("mask", "down", 0):
            return {"sharers": message["sharers"][:-1], "sealed": message["sealed"][:-1]}
        return message

    done = Round(6).play(meddle=hide)
    assert done.refused == ["client 0: masked with others than it was sent shares of"]
    assert done.survivors == [1, 2, 3, 4, 5]
    assert done.sum.tolist() == done.expected()


# Whoever calls


def test_what_is_no_vector_is_refused_on_either_side() -> None:
    begun = Round(4, size=8).until("mask")
    good = begun.vectors[0]
    client = begun.client(0)
    for words in (good.astype(np.int64), good.view(np.int32), good[::2], good.reshape(2, 4), [1]):
        with pytest.raises(SecAggError, match="no contiguous vector of 32-bit words"):
            client.mask(begun.down[0], words)  # type: ignore[arg-type]
    masked = good.copy()
    view = client.mask(begun.down[0], masked)
    for words in (masked[:-1], masked.astype(np.uint64), masked.tobytes(), None):
        with pytest.raises(SecAggError, match="client 0: sent no vector of 8 32-bit words"):
            begun.server.add_masked(0, view, words)  # type: ignore[arg-type]
    begun.server.add_masked(0, view, masked)
    with pytest.raises(SecAggError, match="has answered this step before"):
        begun.server.add_masked(0, view, masked)


def test_a_threshold_is_a_majority() -> None:
    for threshold in (2, 6):
        begun = Round(5, threshold=threshold)
        with pytest.raises(SecAggError, match=f"a threshold of {threshold} for 5 clients"):
            begun.step("keys")
    done = Round(5, threshold=3).play({"mask": [0], "reveal": [4]})
    assert done.sum.tolist() == done.expected()
    with pytest.raises(ValueError, match="threshold"):
        Attempt(run="r", round=1, attempt="a", threshold=0)


@pytest.mark.parametrize(
    ("step", "said"),
    [("shares", "sent shares"), ("mask", "sent vectors"), ("consent", "consented")],
)
def test_too_few_at_a_step_end_the_attempt_there(step: str, said: str) -> None:
    with pytest.raises(SecAggError, match=f"2 clients {said}, of 4: 3 must"):
        Round(4).play({step: [0, 3]})


def test_shares_for_others_than_the_neighbours_are_refused() -> None:
    begun = Round(4).until("shares")
    dealt = begun.client(0).shares(begun.down[0])
    for to in ([0, 1, 2], [1, 2, 7]):
        with pytest.raises(SecAggError, match="sealed shares for others than its neighbours"):
            begun.server.add_shares(0, dealt | {"to": to})
    begun.server.add_shares(0, dealt)


def test_the_server_takes_no_unsigned_keys_where_hospitals_are_registered(tmp_path: Path) -> None:
    begun = Round(3, signers=hospital_keys(tmp_path))
    own = begun.client(0).keys()
    for message in (own | {"signature": b""}, begun.client(1).keys()):
        with pytest.raises(SecAggError, match="client 0: bears no signature of its hospital's"):
            begun.server.add_keys(0, message)
    begun.server.add_keys(0, own)


def test_what_is_sealed_and_masked_is_bound_to_the_attempt_and_the_way() -> None:
    announcements = {number: keys.Secrets.make().announced() for number in range(3)}
    attempts = [
        Attempt(run=run, round=round_, attempt=attempt, threshold=threshold)
        for run, round_, attempt, threshold in (
            ("r", 1, "a", None),
            ("s", 1, "a", None),
            ("r", 2, "a", None),
            ("r", 1, "b", None),
            ("r", 1, "a", 2),
        )
    ]
    cohorts = [Cohort(attempt, announcements) for attempt in attempts]
    cohorts.append(Cohort(attempts[0], announcements | {2: keys.Secrets.make().announced()}))
    letters = {cohort.letter(*way) for cohort in cohorts for way in ((0, 1), (1, 0), (0, 2))}
    assert len(letters) == 3 * len(cohorts)
