"""Homomorphic sums are the integers' own, or refused, whatever the values."""

import pickle
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import phe
import pytest
from homomorphic_sums import (
    ALL,
    HEADER,
    ONE_EACH,
    SCHEMES,
    added,
    decrypted,
    encrypted,
    extremes,
    keys,
    public_n,
    scheme,
    summed,
)

from fedmed.aggregation import lattice
from fedmed.aggregation.homomorphic import (
    Header,
    HomomorphicError,
    Values,
)
from fedmed.aggregation.lattice import BFV, CKKS
from fedmed.aggregation.paillier import Paillier
from fedmed.core.errors import ConfigError


@ALL
@pytest.mark.parametrize(("width", "clients"), [(20, 8), (17, 1), (11, 3), (21, 16)])
def test_the_sum_is_the_integers(name: str, width: int, clients: int) -> None:
    scheme(name).check(width, clients)
    size = min(scheme(name).lanes(width), 8192) + 3  # the last ciphertext is not full
    rows = extremes(clients, size, width)
    np.testing.assert_array_equal(summed(name, rows, width), rows.sum(0))


@pytest.mark.parametrize(("name", "width"), [("paillier", 48), ("bfv-8192", 48), ("bfv", 42)])
@pytest.mark.parametrize("clients", [2, 5])
def test_wide_lanes(name: str, width: int, clients: int) -> None:
    rows = extremes(clients, 50, width)
    np.testing.assert_array_equal(summed(name, rows, width), rows.sum(0))


@pytest.mark.parametrize("width", [2, 3, 14, 25])
def test_every_width_of_ckks_and_narrow_lanes_of_all(width: int) -> None:
    for name in ("paillier", "bfv", "ckks"):
        rows = extremes(2, 40, width)
        np.testing.assert_array_equal(summed(name, rows, width), rows.sum(0))


@pytest.mark.slow
def test_bfv_holds_1024_summands_at_the_ends() -> None:
    name, width, clients, size = "bfv", 20, 1024, 8192
    scheme(name).check(width, clients)
    rows = np.where(np.arange(size) % 2, 511, -512) + np.zeros((clients, 1), np.int64)
    np.testing.assert_array_equal(summed(name, rows, width), rows.sum(0))


@pytest.mark.parametrize("width", [20, 21])
def test_noise_that_is_too_much_for_bfv_is_seen(width: int) -> None:
    """Copies of one ciphertext add up their noise, of some 55 at most: 100 fit, 1024 do not."""
    size = scheme("bfv").lanes(width)
    payload = encrypted("bfv", np.ones(size, np.int64), width)
    for clients in (100, 1024):
        total = added("bfv", [payload] * clients, size, width)
        if clients == 100:
            assert (decrypted("bfv", total, size, width, clients) == 100).all()
        else:
            with pytest.raises(HomomorphicError, match="does not fit"):
                decrypted("bfv", total, size, width, clients)


@ONE_EACH
def test_order_does_not_matter_to_the_bytes(name: str) -> None:
    payloads = [encrypted(name, [n, -n, 5], 20) for n in range(4)]
    assert added(name, payloads, 3, 20) == added(name, payloads[::-1], 3, 20)
    assert added(name, payloads[:1], 3, 20) == payloads[0]


@ALL
def test_a_plaintext_is_never_encrypted_alike(name: str) -> None:
    once, again = (encrypted(name, [7] * 3, 20)[HEADER:] for _ in range(2))
    shared = np.frombuffer(once, np.uint8) == np.frombuffer(again, np.uint8)
    assert shared.mean() < 0.15  # high bytes of a coefficient below a prime of 7.1 bytes are few


@pytest.mark.parametrize("name", ["paillier", "paillier-full"])
def test_phe_reads_ours_and_ours_reads_phe(name: str) -> None:
    secret = keys(name).secret
    p, q = (
        int.from_bytes(secret[at : len(secret) + at + 128 or None], "little") for at in (-256, -128)
    )
    public = phe.PaillierPublicKey(public_n())
    private = phe.PaillierPrivateKey(public, p, q)
    values, width = [3, -5, 2**18 - 1, -(2**18)], 20
    sums = [2 * value for value in values]
    packed = sum(value << width * i for i, value in enumerate(values))
    ours = encrypted(name, values, width)
    found = private.raw_decrypt(int.from_bytes(ours[HEADER:], "little"))
    assert found == packed % public.n
    theirs = public.raw_encrypt(packed % public.n).to_bytes(512, "little")
    total = added(name, [bytes(Header.read(ours)) + theirs, ours], 4, width)
    assert decrypted(name, total, 4, width, 2).tolist() == sums


def test_lanes_and_bytes() -> None:
    assert scheme("paillier").lanes(20) == 99
    assert Paillier().lanes(20) == 150
    assert scheme("bfv").lanes(20) == scheme("bfv").lanes(21) == 2 * 4096
    million = 10**6
    ratios = {name: scheme(name).payload_bytes(million, 20) / (4 * million) for name in SCHEMES}
    assert ratios["paillier"] < 1.3
    assert Paillier().payload_bytes(million, 20) / (4 * million) < 1.3
    assert ratios["bfv"] < 1.77
    assert ratios["ckks"] < 6.1
    assert ratios["ckks-nvflare"] < 13.1


@ONE_EACH
def test_memory_does_not_grow_with_the_cohort_nor_encryption_with_the_vector(name: str) -> None:
    width, ciphertexts = 20, 20
    lanes = scheme(name).lanes(width)
    values = np.ones(ciphertexts * lanes, np.int64)
    payload = encrypted(name, values, width)

    def peak(task: Callable[[], object]) -> int:
        tracemalloc.start()
        task()
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    def drain(values: Values) -> None:
        for _ in scheme(name).encrypt(keys(name).public, values, width):
            pass

    few, many = (
        peak(partial(added, name, [payload] * clients, len(values), width)) for clients in (2, 12)
    )
    assert many < 1.05 * few + 10_000
    assert many < 4.2 * len(payload) + 2_000_000
    one, all_ = peak(lambda: drain(values[:lanes])), peak(lambda: drain(values))
    assert all_ < one + 100_000


@ONE_EACH
def test_a_secret_survives_as_a_file_in_another_process(name: str, tmp_path: Path) -> None:
    total = added(name, [encrypted(name, [5, -7], 20)] * 2, 2, 20)
    (tmp_path / "secret").write_bytes(keys(name).secret)
    (tmp_path / "total").write_bytes(total)
    (tmp_path / "scheme").write_bytes(pickle.dumps(scheme(name)))
    program = (
        "import pickle, sys, pathlib\n"
        "read = lambda name: pathlib.Path(sys.argv[1], name).read_bytes()\n"
        "scheme = pickle.loads(read('scheme'))\n"
        "arguments = dict(size=2, width=20, clients=2)\n"
        "print(scheme.decrypt(read('secret'), read('total'), **arguments).tolist())\n"
    )
    arguments = [sys.executable, "-c", program, str(tmp_path)]
    found = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[10, -14]"


def allowed(bits: int, width: int, clients: int) -> bool:
    try:
        CKKS(4096, (48, 60), bits).check(width, clients)
    except ConfigError:
        return False
    return True


@pytest.mark.parametrize("least", [(20, 8), (17, 1), (24, 100)])
def test_ckks_scales_that_are_allowed_are_exact_and_others_are_refused(
    least: tuple[int, int],
) -> None:
    width, clients = least
    edge = next(bits for bits in range(20, 46) if allowed(bits, width, clients))
    assert all(allowed(bits, width, clients) for bits in range(edge, 46))
    tried = CKKS(4096, (48, 60), edge)
    pair, size = tried.generate(), 40_002
    rows = extremes(clients, size, width)[:8]
    total = None
    for row in rows:
        payload = b"".join(tried.encrypt(pair.public, row, width))
        total = tried.add(pair.public, total, payload, size=size, width=width)
    assert total is not None
    found = tried.decrypt(pair.secret, total, size=size, width=width, clients=len(rows))
    np.testing.assert_array_equal(found, rows.sum(0))


def test_ckks_does_not_round_what_is_far_from_an_integer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scale 2^30 at 20 bits: a deviation of a third of a step. Nobody is to believe that."""
    tried = CKKS(4096, (54, 54), 30)
    with pytest.raises(ConfigError, match="scale_bits=30"):
        tried.check(20, 1)
    monkeypatch.setattr(lattice, "LAPLACE", 0.0)
    pair = tried.generate()
    payload = b"".join(tried.encrypt(pair.public, np.arange(2048), 20))
    with pytest.raises(HomomorphicError, match="too far from an integer"):
        tried.decrypt(pair.secret, payload, size=2048, width=20, clients=1)


@pytest.mark.parametrize("name", ["ckks", "ckks-nvflare"])
def test_the_noise_of_ckks_is_as_its_check_believes(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Values] = []
    decode = CKKS._decode

    def look(self: CKKS, slots: Values, width: int) -> Values:
        seen.append(slots)
        return decode(self, slots, width)

    monkeypatch.setattr(CKKS, "_decode", look)
    tried, width, clients = scheme(name), 20, 8
    assert isinstance(tried, CKKS)
    size = 12 * tried.lanes(width)
    assert (summed(name, np.zeros((clients, size), np.int64), width) == 0).all()
    scale = 2.0**tried._scale_bits
    noise = np.concatenate(seen) * scale
    degree = 2 * tried.lanes(width)
    expected = np.sqrt((1 + 2 * degree / 3) / 12 * degree / 2 * clients)
    assert 0.9 < noise.std() / expected < 1.1
    assert 5 < np.abs(noise).max() / expected < lattice.LAPLACE


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: Paillier(1024), "key_bits"),
        (lambda: Paillier(2050), "key_bits"),
        (lambda: Paillier(2048, "none"), "blinding"),  # type: ignore[arg-type]
        (lambda: BFV(4096, (60, 60)), "coeff_mod_bit_sizes"),  # not held for secure
        (lambda: BFV(4096, (54,)), "coeff_mod_bit_sizes"),
        (lambda: BFV(4096, ()), "coeff_mod_bit_sizes"),
        (lambda: BFV(4096, (70, 30)), "coeff_mod_bit_sizes"),
        (lambda: BFV(5000), "poly_modulus_degree"),
        (lambda: BFV(0), "poly_modulus_degree"),
        (lambda: BFV(plain_bits=0), "plain_bits"),
        (lambda: BFV(plain_bits=70), "plain_bits"),
        (lambda: CKKS(4096, (48, 60), 46), "scale_bits"),
        (lambda: CKKS(4096, (48, 60), 0), "scale_bits"),
        (lambda: CKKS(4096, (60, 60)), "coeff_mod_bit_sizes"),
        (lambda: CKKS(8192, (60, 40, 40), 40).check(25, 8), "scale_bits"),
        (lambda: BFV().check(43, 2), "plain_bits"),
        (lambda: BFV().check(20, 1025), "plain_bits"),
        (lambda: BFV(plain_bits=44).check(22, 200), "plain_bits"),
        (lambda: Paillier(2048).check(49, 2), "bits"),
    ],
)
def test_what_could_not_be_exact_or_secure_names_its_key(
    make: Callable[[], object], key: str
) -> None:
    with pytest.raises(ConfigError, match=rf"aggregation\.{key}"):
        make()


@pytest.mark.parametrize("module", ["gmpy2", "tenseal"])
def test_a_missing_library_names_what_brings_it(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=r"pip install 'fedmed\[he\]'"):
        Paillier() if module == "gmpy2" else CKKS(8192, (60, 40, 60), 40)
