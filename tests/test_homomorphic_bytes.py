"""What is no key, no payload and no sum of homomorphic schemes is refused; secrets stay."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import pytest
from homomorphic_sums import (
    HEADER,
    ONE_EACH,
    SCHEMES,
    added,
    decrypted,
    encrypted,
    keys,
    public_n,
    scheme,
)
from numpy.typing import NDArray

from fedmed.aggregation import seal
from fedmed.aggregation.homomorphic import (
    Header,
    HomomorphicError,
    fingerprint,
)
from fedmed.core.errors import FedmedError


@ONE_EACH
def test_the_secret_is_in_nothing_that_leaves(name: str) -> None:
    secret, public = keys(name)
    body = secret[secret.index(b"\n") + 33 :]
    if name == "paillier":
        parts = [body[:128], body[128:], body[:128][::-1], body[128:][::-1]]
    else:
        stream = seal._found(body, (3, 1))
        parts = [stream, seal._plain(stream)[-8 * 4096 :]]
    payload = encrypted(name, [1, 2, 3], 20)
    told = public + payload + added(name, [payload, payload], 3, 20)
    for part in parts:
        windows = [part[at : at + 16] for at in range(0, len(part) - 16, 16)]
        assert len(windows) >= 7
        assert not any(window in told for window in windows if any(window))
    assert parts[0][:16] in secret  # so that the search would have found it


@ONE_EACH
def test_another_key_is_refused(name: str) -> None:
    mine, other = encrypted(name, [1, 2], 20), encrypted(name, [1, 2], 20, key=1)
    with pytest.raises(HomomorphicError, match="another key"):
        added(name, [mine, other], 2, 20)
    with pytest.raises(HomomorphicError, match="another key"):
        decrypted(name, other, 2, 20, 1)
    forged = bytes(Header.read(mine)) + other[HEADER:]
    with pytest.raises(HomomorphicError, match=r"fit its lane|integer|out of range"):
        decrypted(name, added(name, [mine, forged], 2, 20), 2, 20, 2)


@ONE_EACH
def test_keys_of_other_parameters_are_refused(name: str) -> None:
    secret, public = keys(name)
    for key in (b"", b"\n", secret, public[:-1], public + b"\0", public.replace(b" 1 ", b" 2 ")):
        with pytest.raises(HomomorphicError):
            next(scheme(name).encrypt(key, np.ones(2, np.int64), 20))
    others = [keys(other).public for other in SCHEMES if other.split("-")[0] != name]
    for key in [*others, *(keys("bfv-54").public, keys("ckks-54").public)]:
        with pytest.raises(HomomorphicError, match="not a public key"):
            scheme(name).encrypt(key, np.ones(2, np.int64), 20)
    total = encrypted(name, [1, 2], 20)
    for key in (public, secret[:-9], b""):
        with pytest.raises(HomomorphicError):
            scheme(name).decrypt(key, total, size=2, width=20, clients=1)


@ONE_EACH
def test_a_public_key_out_of_range_is_refused(name: str) -> None:
    public = keys(name).public
    head = public[: public.index(b"\n") + 1]
    for octet in (b"\xff", b"\0"):
        key = head + octet * (len(public) - len(head))
        if name != "paillier" and octet == b"\0":
            continue  # polynomials that are 0 are in range
        with pytest.raises(HomomorphicError):
            next(scheme(name).encrypt(key, np.ones(2, np.int64), 20))


@ONE_EACH
def test_a_payload_that_is_not_what_is_due_is_refused(name: str) -> None:
    good = encrypted(name, [1, 2, 3], 20)
    header, body = Header.read(good), good[HEADER:]
    bad = {
        "empty": b"",
        "of no header": good[: HEADER - 1],
        "of a header alone": good[:HEADER],
        "cut": good[:-1],
        "longer": good + b"\0",
        "twice": good + body,
        "of two summands": bytes(header._replace(summands=2)) + body,
        "of no summand": bytes(header._replace(summands=0)) + body,
        "of another width": bytes(header._replace(width=21)) + body,
        "of another size": bytes(header._replace(size=4)) + body,
        "of a huge size": bytes(header._replace(size=2**64 - 1)) + body,
        "of another key": bytes(header._replace(key=bytes(32))) + body,
        "out of range": bytes(header) + b"\xff" * len(body),
        "of another scheme": encrypted("bfv-54", [1, 2, 3], 20),
        "random": np.random.default_rng(0).bytes(len(good)),
    }
    if name == "paillier":
        n = public_n()
        for factor in (0, 1, 2, n - 1):
            bad[f"{factor} n"] = bytes(header) + (factor * n).to_bytes(512, "little")
        bad["n^2"] = bytes(header) + (n * n).to_bytes(512, "little")
    for what, payload in bad.items():
        for total in (None, good):
            with pytest.raises(HomomorphicError):
                refused(what, partial(added_to, name, total, payload))
        with pytest.raises(FedmedError):
            refused(what, partial(decrypted, name, payload, 3, 20, 1))


def added_to(name: str, total: bytes | None, payload: bytes) -> bytes:
    return scheme(name).add(keys(name).public, total, payload, size=3, width=20)


def refused(what: str, task: Callable[[], object]) -> None:
    """Name what was not refused."""
    task()
    pytest.fail(what)


@ONE_EACH
def test_damaged_bytes_end_in_one_line_or_in_a_sum(name: str) -> None:
    """What is in range cannot be told from a ciphertext; where it decrypts, it is to integers."""
    rng = np.random.default_rng(1)
    good = encrypted(name, [1, 2, 3], 20)
    read = 0
    for _ in range(60):
        payload = bytearray(good)
        for at in rng.integers(0, len(good), rng.integers(1, 9)):
            payload[at] = rng.integers(256)
        if rng.random() < 0.1:
            payload = payload[: rng.integers(len(good))]
        try:
            total = scheme(name).add(keys(name).public, good, bytes(payload), size=3, width=20)
        except HomomorphicError:
            continue
        read += 1
        with suppress(HomomorphicError):  # a low byte of a polynomial may be no more than noise
            assert decrypted(name, total, 3, 20, 2).tolist() == [2, 4, 6]
    assert read > 5


@ONE_EACH
def test_a_total_of_others_than_those_due_is_refused(name: str) -> None:
    total = added(name, [encrypted(name, [1, 2], 20)] * 3, 2, 20)
    assert Header.read(total) == (fingerprint(keys(name).public), 3, 20, 2)
    for clients in (2, 4):
        with pytest.raises(HomomorphicError, match="summands"):
            decrypted(name, total, 2, 20, clients)


@ONE_EACH
def test_values_that_do_not_fit_are_refused(name: str) -> None:
    public = keys(name).public
    bad: list[tuple[NDArray[Any], int]] = [
        (np.array([1 << 19]), 20),
        (np.array([-(1 << 19) - 1]), 20),
        (np.array([], np.int64), 20),
        (np.ones((2, 2), np.int64), 20),
        (np.ones(2, np.int32), 20),
        (np.ones(2, np.int64), 1),
        (np.ones(2, np.int64), 49),
    ]
    for values, width in bad:
        with pytest.raises(FedmedError):
            scheme(name).encrypt(public, values, width)
