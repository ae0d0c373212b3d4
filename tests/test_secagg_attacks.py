"""What a server that cheats, and clients in league with it, may try in secure aggregation."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest
from numpy.typing import NDArray
from secagg_round import Message, Round, announcements_of, hospital_keys, state_of

from fedmed.aggregation.secagg import SecAggClient, SecAggError, keys, shamir
from fedmed.aggregation.secagg.attempt import Cohort
from fedmed.aggregation.secagg.masks import apply
from fedmed.record.signatures import Signer

Signers = Mapping[int, Signer]


@pytest.fixture(scope="module")
def signers(tmp_path_factory: pytest.TempPathFactory) -> Signers:
    return hospital_keys(tmp_path_factory.mktemp("hospitals"))


def test_a_signed_round_has_the_right_sum(signers: Signers) -> None:
    done = Round(7, signers=signers).play({"mask": [3], "consent": [1]})
    assert not done.refused
    assert done.sum.tolist() == done.expected()


# A server and clients that collude


def opened(done: Round, victim: int, colluders: list[int]) -> NDArray[np.uint32] | None:
    """The victim's vector, by what the server got and what some clients know."""
    cohort = Cohort(done.attempt, announcements_of(done))
    held = {
        one + 1: bytes.fromhex(state_of(done, one)["letters"][str(victim)]) for one in colluders
    }
    seeds = {at: letter[:33] for at, letter in held.items()}
    for step, number, message in done.seen:
        if step == "reveal" and victim in done.survivors:
            seeds[number + 1] = message["shares"][message["of"].index(victim)]
    mask_keys = {at: letter[33:] for at, letter in held.items()}
    seed, key = (
        (shamir.evaluate(shares, 0) % 2**256).to_bytes(32, "big") for shares in (seeds, mask_keys)
    )
    if keys.public_of(key) != cohort.announced[victim].mask:
        return None
    pairs = {
        peer: keys.pair_mask_key(key, cohort.announced[peer].mask, cohort.transcript)
        for peer in cohort.neighbours[victim]
    }
    vector = done.payloads[victim].copy()
    apply(
        vector,
        [pairs[peer] for peer in pairs if peer < victim],
        [keys.seed_mask_key(seed), *(pairs[peer] for peer in pairs if peer > victim)],
    )
    return vector


@pytest.mark.parametrize("victim", [0, 2, 5])
def test_fewer_colluders_than_the_threshold_open_nothing_and_as_many_do(victim: int) -> None:
    done = Round(6).play()
    others = [number for number in range(6) if number != victim]
    assert opened(done, victim, others[:4]) is None
    vector = opened(done, victim, others)
    assert vector is not None
    assert np.array_equal(vector, done.vectors[victim])


def test_a_vector_that_comes_late_stays_masked_though_its_key_is_revealed() -> None:
    begun = Round(5).until("mask")
    late = begun.vectors[2].copy()
    begun.client(2).mask(begun.down[2], late)
    done = begun.play({"mask": [2]}, since="mask")
    with pytest.raises(SecAggError, match="the server takes done, not masked"):
        done.server.add_masked(2, {"view": bytes(32)}, late)
    cohort = Cohort(done.attempt, announcements_of(done))
    _, key, seed = (bytes.fromhex(secret) for secret in state_of(done, 2)["secrets"])
    pairs = {
        peer: keys.pair_mask_key(key, cohort.announced[peer].mask, cohort.transcript)
        for peer in (0, 1, 3, 4)
    }
    apply(late, [pairs[0], pairs[1]], [pairs[3], pairs[4]])
    assert not np.array_equal(late, done.vectors[2])
    apply(late, [], [keys.seed_mask_key(seed)])
    assert np.array_equal(late, done.vectors[2]), (
        "the seed, which nobody tells, was all that hid it"
    )


# A server that cheats


def test_no_second_list_of_survivors_is_answered(signers: Signers) -> None:
    begun = Round(5, signers=signers).until("consent")
    client = begun.client(0)
    own = client.consent({"survivors": [0, 1, 2, 3]})["signature"]
    for second in ([0, 1, 2, 3, 4], [0, 1, 2, 3]):
        with pytest.raises(SecAggError, match="each step is done once"):
            client.consent({"survivors": second})

    def signed(survivors: list[int], *numbers: int) -> Message:
        said = {"survivors": survivors}
        signatures = [begun.client(number).consent(said)["signature"] for number in numbers]
        return {"signers": [0, *numbers], "signatures": [own, *signatures]}

    # Others who were told of another list have signed that one, and no signature counts twice.
    with pytest.raises(SecAggError, match="client 1: bears no signature"):
        client.reveal(signed([0, 1, 2, 3, 4], 1, 2, 3))
    with pytest.raises(SecAggError, match="3 signers, and 4 must stay"):
        client.reveal(signed([0, 1, 2, 3], 1, 2))
    with pytest.raises(SecAggError, match="names a client twice"):
        client.reveal(signed([0, 1, 2, 3], 1, 2, 2))
    assert client.reveal(signed([0, 1, 2, 3], 1, 2, 3))["of"] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("survivors", "said"),
    [
        ([1, 2, 3, 4], "lacks client 0, who is asked"),
        ([0, 1, 2], "3 survivors, and 5 must stay"),
        ([0, 1, 2, 3, 5], "holds a client that it cannot"),
        ([0, 1, 2, 3, 77], "holds a client that it cannot"),
        ([0, 1, 2, 3, 3], "names a client twice"),
        ([3, 2, 1, 0], "does not ascend"),
    ],
)
def test_a_list_that_cannot_be_is_refused(survivors: list[int], said: str) -> None:
    begun = Round(6)
    begun.step("keys")
    begun.alive.remove(5)
    begun.step("shares")
    begun.step("mask")
    client = begun.client(0)
    with pytest.raises(SecAggError, match=said):
        client.consent({"survivors": survivors})
    assert client.to_bytes() == begun.states[0]


def impostors(begun: Round, victim: int) -> Round:
    """A server's own round, in which all but one client are its own."""
    staged = Round(len(begun.states), attempt=begun.attempt.attempt)
    staged.states[victim] = begun.states[victim]
    staged.signers = {victim: begun.signers[victim]} if begun.signers else {}
    staged.vectors = np.zeros_like(begun.vectors)
    staged.vectors[victim] = begun.vectors[victim]
    return staged


def test_keys_of_the_servers_in_place_of_the_peers_open_a_vector_unless_keys_are_registered(
    signers: Signers,
) -> None:
    staged = impostors(Round(5), 2).play()
    assert np.array_equal(staged.sum, staged.vectors[2]), "the attack is a real one"
    staged = impostors(Round(5, signers=signers), 2).play()
    assert staged.refused == ["client 0: bears no signature of its hospital's"]
    assert not staged.sum.any(), "the victim sent nothing"


def cohort_of(begun: Round) -> Message:
    message = begun.down[0]
    return {field: list(message[field]) for field in message}


def test_a_cohort_that_cannot_be_is_refused(signers: Signers) -> None:
    begun = Round(5, signers=signers).until("shares")
    others = Round(5, signers=signers, attempt="second").until("shares")

    def refused(said: str, change: Callable[[Message], object], at: Round = begun) -> None:
        message = cohort_of(at)
        change(message)
        client = at.client(0)
        with pytest.raises(SecAggError, match=said):
            client.shares(message)
        assert client.to_bytes() == at.states[0]

    def keep(count: int) -> Callable[[Message], object]:
        return lambda message: [message[field].__delitem__(slice(count, None)) for field in message]

    def swap(field: str, at: int, value: object) -> Callable[[Message], object]:
        return lambda message: message[field].__setitem__(at, value)

    stale = cohort_of(others)
    refused("a cohort of 2: client 0 takes part in none below 3", keep(2))
    refused("bears no signature", swap("announcements", 3, stale["announcements"][3]))
    refused("bears no signature", swap("signatures", 3, stale["signatures"][3]))
    refused("bears no signature", swap("signatures", 3, b""))
    refused("its own keys are not those", swap("announcements", 0, stale["announcements"][0]))
    refused("bears no signature", swap("members", 4, 9))
    plain = Round(5).until("shares")
    first = plain.down[0]["announcements"]
    message = {"members": [1, 2], "announcements": first[1:3], "signatures": [b"", b""]}
    with pytest.raises(SecAggError, match="its own keys are not those"):
        plain.client(0).shares(message)
    refused("a key is announced twice", swap("announcements", 3, first[2]), plain)
    mixed = first[3][:32] + first[2][32:64] + first[3][64:]
    refused("a key is announced twice", swap("announcements", 3, mixed), plain)
    low = bytes(32) + first[3][32:]
    refused("client 3: a public key gives no secret", swap("announcements", 3, low), plain)


def test_a_client_takes_part_in_no_smaller_cohort_than_it_will() -> None:
    begun = Round(5).until("shares")
    picky = SecAggClient(begun.attempt, 5, fewest=7)
    own = picky.keys()
    message = {field: [*begun.down[0][field]] for field in begun.down[0]}
    message["members"].append(5)
    message["announcements"].append(own["announcement"])
    message["signatures"].append(b"")
    with pytest.raises(SecAggError, match="a cohort of 6: client 5 takes part in none below 7"):
        picky.shares(message)


def test_what_is_announced_twice_or_gives_no_secret_is_refused_by_the_server() -> None:
    begun = Round(4)
    own, other = (begun.client(number).keys()["announcement"] for number in (0, 1))
    assert isinstance(own, bytes)
    assert isinstance(other, bytes)
    begun.server.add_keys(0, {"announcement": own, "signature": b""})
    for announcement, said in (
        (own, "announces a key that was announced before"),
        (other[:64] + own[64:], "announces a key that was announced before"),
        (other[:32] * 2 + other[64:], "announces a key that was announced before"),
        (other[:32] + bytes(32) + other[64:], "gives no secret: it is of low order"),
    ):
        with pytest.raises(SecAggError, match=f"client 1: .*{said}"):
            begun.server.add_keys(1, {"announcement": announcement, "signature": b""})
    begun.server.add_keys(1, {"announcement": other, "signature": b""})
    with pytest.raises(SecAggError, match="a cohort of 2"):
        begun.server.roster()


def test_a_state_that_signs_goes_on_with_its_own_key_alone(signers: Signers) -> None:
    begun = Round(3, signers=signers)
    for signer in (None, signers[1]):
        with pytest.raises(SecAggError, match="signs with no key that is registered"):
            SecAggClient.from_bytes(begun.states[0], signer)
    twice = {0: signers[0].public, 1: signers[0].public}
    with pytest.raises(SecAggError, match="registered for two clients"):
        SecAggClient(begun.attempt, 0, 3, signers[0], twice)


def test_shares_of_another_attempt_or_client_or_changed_ones_are_refused() -> None:
    begun, others = Round(4).until("mask"), Round(4, attempt="second").until("mask")
    inbox = begun.down[0]

    def refused(sealed: list[bytes]) -> None:
        client = begun.client(0)
        with pytest.raises(SecAggError, match=r"client \d: a sealed share is not as its sender"):
            client.mask({"sharers": inbox["sharers"], "sealed": sealed}, begun.vectors[0])
        assert client.to_bytes() == begun.states[0]

    refused(others.down[0]["sealed"])
    refused(begun.down[1]["sealed"])
    refused([*inbox["sealed"][1:], inbox["sealed"][0]])
    for at in range(len(inbox["sealed"][1])):
        letter = bytearray(inbox["sealed"][1])
        letter[at] ^= 1
        refused([inbox["sealed"][0], bytes(letter), inbox["sealed"][2]])
