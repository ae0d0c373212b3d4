import json
from collections.abc import Mapping
from itertools import combinations
from math import comb, sqrt

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import hypergeom
from secagg_round import STEPS, Round

from fedmed.aggregation.secagg import Attempt, SecAggClient, SecAggError, graph, masks, shamir
from fedmed.aggregation.secagg.state import DIGEST_BYTES


@pytest.mark.parametrize("clients", range(3, 13))
def test_the_sum_is_that_of_integers(clients: int) -> None:
    done = Round(clients).play()
    assert done.survivors == list(range(clients))
    assert done.sum.tolist() == done.expected()


@pytest.mark.parametrize("seed", range(60))
def test_drop_outs_at_any_step_leave_the_survivors_sum_or_one_line(seed: int) -> None:
    draw = np.random.default_rng(seed)
    clients = int(draw.integers(3, 13))
    drops = {step: draw.choice(clients, draw.integers(0, 3), replace=False) for step in STEPS}
    tried = Round(clients)
    try:
        tried.play(drops)
    except SecAggError:
        cohort = clients - len(drops["keys"])
        left = clients - len({number for gone in drops.values() for number in gone})
        assert left < 2 * cohort // 3 + 1 or cohort < 3, "enough were there"
    else:
        gone = {number for step in STEPS[:3] for number in drops[step]}
        assert tried.survivors == sorted(set(range(clients)) - gone)
        assert tried.sum.tolist() == tried.expected()


def test_a_vector_of_many_blocks_and_one_of_none() -> None:
    for size in (3 * masks.BLOCK + 1, 1, 0):
        done = Round(4, size).play({"mask": [2]})
        assert np.array_equal(done.sum, done.vectors[[0, 1, 3]].sum(0, dtype=np.uint32))


def test_a_large_cohort_masks_on_a_graph() -> None:
    planned = graph.plan(60, 41)
    assert planned.degree < 59
    begun = Round(60, size=7).until("mask")
    assert {len(message["sealed"]) for message in begun.down.values()} == {planned.degree}
    draw = np.random.default_rng(0)
    gone = draw.permutation(60)[:19]
    done = begun.copy().play(
        {"mask": gone[:9], "consent": gone[9:14], "reveal": gone[14:]}, since="mask"
    )
    assert len(done.survivors) == 51
    assert done.sum.tolist() == done.expected()
    with pytest.raises(SecAggError, match="40 clients sent vectors, of 60: 41 must"):
        begun.copy().play({"mask": draw.permutation(60)[:20]}, since="mask")


@pytest.mark.parametrize("cohort", [3, 12, 49, 50, 60, 100, 300])
def test_a_graph_is_as_safe_as_it_says(cohort: int) -> None:
    least = 2 * cohort // 3 + 1
    dropped, corrupt = cohort - least, cohort // 10
    degree, threshold = graph.plan(cohort, least)
    if cohort < 50:
        assert (degree, threshold) == (cohort - 1, least)
        return
    put_together = hypergeom(cohort - 1, corrupt, degree).sf(threshold - 1)
    too_few = hypergeom(cohort - 1, dropped, degree).sf(degree - threshold)
    apart = comb(dropped + corrupt, degree // 2) / comb(cohort - 1, degree // 2)
    assert cohort * (put_together + too_few + apart) <= 2**-40
    members = [3 * number + 1 for number in range(cohort)]
    near = graph.neighbours(members, degree, "a")
    assert all(len(set(peers)) == degree and one not in peers for one, peers in near.items())
    assert all(one in near[peer] for one, peers in near.items() for peer in peers)
    assert near != graph.neighbours(members, degree, "b")


def is_prime(number: int) -> bool:
    """Miller and Rabin's test, with 58 bases."""
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    return all(
        pow(base, odd, number) == 1
        or any(pow(base, odd << place, number) == number - 1 for place in range(twos))
        for base in range(2, 60)
    )


def test_fewer_shares_than_the_threshold_fit_every_secret_and_as_many_give_it_back() -> None:
    assert is_prime(shamir.PRIME)
    secret, other = b"s" * 32, b"\xff" * 32
    for threshold in range(1, 6):
        shares = shamir.split(secret, threshold, range(1, 7))
        for some in combinations(shares, threshold):
            kept = {point: shares[point] for point in some}
            assert shamir.evaluate(kept, 0) == int.from_bytes(secret, "big")
        for some in combinations(shares, threshold - 1):
            # With any secret they are as many values as a polynomial of that degree has
            # coefficients, so that there is just one: and it deals these shares.
            for candidate in (secret, other, bytes(32)):
                fits = {point: shares[point] for point in some} | {0: b"\0" + candidate}
                dealt = {
                    point: shamir.evaluate(fits, point).to_bytes(33, "big") for point in range(1, 7)
                }
                assert all(dealt[point] == shares[point] for point in some)
                for enough in combinations(dealt, threshold):
                    kept = {point: dealt[point] for point in enough}
                    assert shamir.evaluate(kept, 0) == int.from_bytes(candidate, "big")


def unevenness(words: NDArray[np.uint32]) -> float:
    """By how many standard deviations the worst of four bytes' chi-square is above a uniform's."""
    lanes = words.astype("<u4").view(np.uint8).reshape(-1, 4).T
    expected = words.size / 256
    worst = max(
        ((np.bincount(lane, minlength=256) - expected) ** 2 / expected).sum() for lane in lanes
    )
    return float((worst - 255) / sqrt(2 * 255))


def test_a_payload_is_indistinguishable_from_uniform() -> None:
    size = 200_000
    draw = np.random.default_rng(5)
    begun = Round(4, size).until("mask")
    begun.vectors = draw.normal(0, 1000, (4, size)).astype(np.int32).view(np.uint32)
    again = Round(4, size, attempt="second").until("mask")
    again.vectors = begun.vectors
    client = begun.client(0)
    begun.step("mask")
    again.step("mask")
    for number, payload in begun.payloads.items():
        assert unevenness(payload) < 7
        assert unevenness(payload - again.payloads[number]) < 7, "no mask comes twice"
        for other in begun.vectors:
            seen = np.corrcoef(payload.view(np.int32), other.view(np.int32))[0, 1]
            assert abs(seen) < 5 / sqrt(size)
    # The test has power: it sees no mask at all, one that never takes its highest 1/256, and the
    # masks of one state on two vectors, which is why a state is written before its answer is sent.
    vector = begun.vectors[0]
    biased = draw.integers(0, 2**32 - 2**24, size, dtype=np.uint32)
    assert unevenness(vector) > 7
    assert unevenness(vector + biased) > 7
    twice = begun.vectors[1].copy()
    client.mask(begun.given[0], twice)
    assert unevenness(begun.payloads[0] - twice) > 7


def test_a_mask_is_the_keystream_that_it_says() -> None:
    from Crypto.Cipher import AES  # another library than the one that masks

    key = bytes(range(32))
    stream = AES.new(key, AES.MODE_CTR, nonce=b"", initial_value=0).encrypt(bytes(4 * 300_000))
    words = np.arange(300_000, dtype=np.uint32)
    masked = words.copy()
    masks.apply(masked, [key], [])
    assert np.array_equal(masked, words + np.frombuffer(stream, "<u4"))
    masks.apply(masked, [], [key])
    assert np.array_equal(masked, words)


def secrets_of(state: bytes) -> list[bytes]:
    return [bytes.fromhex(secret) for secret in json.loads(state[DIGEST_BYTES:])["secrets"]]


def flat(message: Mapping[str, object]) -> bytes:
    parts = []
    for value in message.values():
        parts += [
            bytes(item)
            for item in (value if isinstance(value, list) else [value])
            if isinstance(item, bytes)
        ]
    return b"|".join(parts)


def test_no_secret_is_in_what_the_server_got() -> None:
    done = Round(5).play({"mask": [2]})
    heard = b"|".join(flat(message) for _, _, message in done.seen)
    heard += b"|".join(words.tobytes() for words in done.payloads.values())
    for state in done.states.values():
        assert not [secret for secret in secrets_of(state) if secret in heard]
    assert all(flat(message)[:96] in heard for _, _, message in done.seen), "it is searched well"


def test_of_each_client_one_secret_is_revealed_and_never_the_other() -> None:
    done = Round(6).play({"mask": [2]})
    dealt = {
        number: {
            int(peer): bytes.fromhex(letter)
            for peer, letter in json.loads(state[DIGEST_BYTES:])["letters"].items()
        }
        for number, state in done.states.items()
    }
    told = [(number, message) for step, number, message in done.seen if step == "reveal"]
    assert len(told) == 5
    for number, message in told:
        assert message["of"] == list(range(6))
        for peer, share in zip(message["of"], message["shares"], strict=True):
            letter = dealt[number][peer]
            assert share == (letter[33:] if peer == 2 else letter[:33])
            assert letter[:33] != letter[33:]


def test_a_step_is_done_once_and_in_its_turn() -> None:
    begun = Round(3)
    for step in STEPS:
        before = begun.down[0]
        begun.step(step)
        for later in STEPS:
            client = begun.client(0)
            if later == client.step:
                continue
            given = {"keys": (), "mask": (before, begun.vectors[0])}.get(later, (before,))
            with pytest.raises(SecAggError, match="each step is done once"):
                getattr(client, later)(*given)
            assert client.to_bytes() == begun.states[0]
    assert begun.client(0).step == "done"


def test_a_state_is_small_and_damage_to_it_is_told() -> None:
    attempt = Attempt(run="r", round=1, attempt="a")
    state = SecAggClient(attempt, 0).to_bytes()
    assert len(Round(8, 10_000).until("consent").states[0]) < 4000
    draw = np.random.default_rng(0)
    for _ in range(300):
        at = int(draw.integers(len(state)))
        for damaged in (state[:at], state[:at] + bytes([state[at] ^ 1]) + state[at + 1 :]):
            with pytest.raises(SecAggError, match="not as it was written"):
                SecAggClient.from_bytes(damaged)
    assert SecAggClient.from_bytes(state).to_bytes() == state
