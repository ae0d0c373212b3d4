"""The tree against RFC 6962's own recursion, the known vectors of its reference, and forgeries."""

import hashlib
import random

import pytest

from fedmed.core.errors import FedmedError
from fedmed.record import merkle
from fedmed.record.merkle import Head

#: Leaves and roots of the reference implementation (certificate-transparency, merkle_tree_test).
INPUTS = (
    *("", "00", "10", "2021", "3031", "40414243"),
    *("5051525354555657", "606162636465666768696a6b6c6d6e6f"),
)
ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def slow_root(entries: list[bytes]) -> bytes:
    """MTH(D[n]) as section 2.1 of the RFC writes it, of the entries themselves."""
    n = len(entries)
    if n == 0:
        return hashlib.sha256(b"").digest()
    if n == 1:
        return hashlib.sha256(b"\x00" + entries[0]).digest()
    k = 1
    while k * 2 < n:
        k *= 2
    return hashlib.sha256(b"\x01" + slow_root(entries[:k]) + slow_root(entries[k:])).digest()


def test_known_roots() -> None:
    entries = [bytes.fromhex(text) for text in INPUTS]
    assert merkle.root([]).hex() == EMPTY
    for n, known in enumerate(ROOTS, 1):
        assert merkle.root([merkle.leaf_hash(e) for e in entries[:n]]).hex() == known
        assert slow_root(entries[:n]).hex() == known


def test_every_proof_of_small_trees_holds_and_no_other() -> None:
    draw = random.Random(0)
    for n in range(1, 34):
        entries = [draw.randbytes(5) for _ in range(n)]
        leaves = [merkle.leaf_hash(entry) for entry in entries]
        root = merkle.root(leaves)
        assert root == slow_root(entries)
        for i in range(n):
            proof = merkle.inclusion_proof(leaves, i)
            assert merkle.includes(root, n, i, leaves[i], proof)
            assert not merkle.includes(root, n, i, draw.randbytes(32), proof)
            assert not merkle.includes(root, n, (i + 1) % n, leaves[i], proof) or n == 1
            assert not merkle.includes(root, n, i, leaves[i], [*proof, root])
            assert not merkle.includes(root, n, n, leaves[i], proof)
            if proof:
                assert not merkle.includes(root, n, i, leaves[i], proof[:-1])
        for m in range(1, n + 1):
            old, proof = slow_root(entries[:m]), merkle.consistency_proof(leaves, m)
            assert merkle.consistent(old, m, root, n, proof)
            assert not merkle.consistent(draw.randbytes(32), m, root, n, proof)
            assert not merkle.consistent(old, m, draw.randbytes(32), n, proof)
            assert not merkle.consistent(old, m, root, n, [*proof, old])
            assert not merkle.consistent(old, 0, root, n, proof)
            for j in range(len(proof)):
                forged = [*proof[:j], draw.randbytes(32), *proof[j + 1 :]]
                assert not merkle.consistent(old, m, root, n, forged)


def test_there_is_no_proof_of_what_is_not_there() -> None:
    leaves = [merkle.leaf_hash(b"one")]
    for index in (-1, 1):
        with pytest.raises(IndexError):
            merkle.inclusion_proof(leaves, index)
    for first in (0, 2):
        with pytest.raises(IndexError):
            merkle.consistency_proof(leaves, first)


def test_a_head_is_read_as_it_is_written() -> None:
    head = Head(12, ROOTS[0])
    assert Head.parse(str(head)) == head
    for wrong in ("", "12", f"x:{ROOTS[0]}", "3:abc", f"3:{'g' * 64}", f"-1:{ROOTS[0]}"):
        with pytest.raises(FedmedError, match="a head"):
            Head.parse(wrong)
