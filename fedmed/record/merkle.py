"""The Merkle tree of RFC 6962 (section 2.1): its root, and proofs of inclusion and of consistency.

Whoever knows the root of n leaves can be shown, by about log2(n) hashes, that a leaf is among them,
and that a larger tree begins with them. SHA-256; a leaf and a node are hashed apart.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple, Self

from fedmed.core.errors import FedmedError


class Head(NamedTuple):
    """The head of a record: all that is needed to recognise it.

    Attributes:
        size: how many records it has.
        root: of their Merkle tree, 64 hexadecimal digits.
    """

    size: int
    root: str

    def __str__(self) -> str:
        return f"{self.size}:{self.root}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the head that ``SIZE:ROOT`` writes. Raises FedmedError if it writes none."""
        size, _, root = text.strip().partition(":")
        if not (size.isascii() and size.isdigit() and len(root) == 64):
            raise FedmedError(f"a head is written SIZE:ROOT, with 64 digits; got {text!r}")
        try:
            return cls(int(size), bytes.fromhex(root).hex())
        except ValueError:
            raise FedmedError(f"a head's root is hexadecimal; got {text!r}") from None


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of a leaf, 32 bytes."""
    return hashlib.sha256(b"\x00" + entry).digest()


def root(leaves: Sequence[bytes]) -> bytes:
    """Return the root of a tree.

    Args:
        leaves: the hashes of its leaves; of none, the root is the hash of nothing.
    """
    if not leaves:
        return hashlib.sha256().digest()
    level = list(leaves)
    while len(level) > 1:
        pairs = [_node(*level[i : i + 2]) for i in range(0, len(level) - 1, 2)]
        level = pairs + level[len(pairs) * 2 :]  # who is alone goes up as it is
    return level[0]


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Return the audit path of a leaf, from the bottom.

    Args:
        leaves: the hashes of all leaves.
        index: of the leaf, from 0.

    Raises:
        IndexError: if there is no such leaf.
    """
    if not 0 <= index < len(leaves):
        raise IndexError(index)
    if len(leaves) == 1:
        return []
    k = _split(len(leaves))
    if index < k:
        return [*inclusion_proof(leaves[:k], index), root(leaves[k:])]
    return [*inclusion_proof(leaves[k:], index - k), root(leaves[:k])]


def includes(root_: bytes, size: int, index: int, leaf: bytes, proof: Sequence[bytes]) -> bool:
    """Say whether a proof shows that a leaf is in a tree (RFC 9162, section 2.1.3.2).

    Args:
        root_: of the tree.
        size: the number of its leaves.
        index: of the leaf, from 0.
        leaf: its hash.
        proof: see :func:`inclusion_proof`.
    """
    if not 0 <= index < size:
        return False
    at, last, found = index, size - 1, leaf
    for step in proof:
        if last == 0:
            return False
        if at & 1 or at == last:
            found = _node(step, found)
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            found = _node(found, step)
        at, last = at >> 1, last >> 1
    return last == 0 and found == root_


def consistency_proof(leaves: Sequence[bytes], first: int) -> list[bytes]:
    """Return a proof that a tree begins with its first leaves.

    Args:
        leaves: the hashes of all leaves.
        first: how many of them the smaller tree has, at least 1.

    Raises:
        IndexError: if there are not as many.
    """
    if not 0 < first <= len(leaves):
        raise IndexError(first)
    return _subproof(leaves, first, whole=True)


def _subproof(leaves: Sequence[bytes], first: int, whole: bool) -> list[bytes]:
    if first == len(leaves):
        return [] if whole else [root(leaves)]
    k = _split(len(leaves))
    if first <= k:
        return [*_subproof(leaves[:k], first, whole), root(leaves[k:])]
    return [*_subproof(leaves[k:], first - k, whole=False), root(leaves[:k])]


def consistent(
    old: bytes, old_size: int, new: bytes, new_size: int, proof: Sequence[bytes]
) -> bool:
    """Say whether a proof shows that one tree begins with another (RFC 9162, section 2.1.4.2).

    Args:
        old: root of the smaller tree.
        old_size: the number of its leaves, at least 1.
        new: root of the larger one.
        new_size: the number of its leaves.
        proof: see :func:`consistency_proof`.
    """
    if not 0 < old_size <= new_size:
        return False
    if old_size == new_size:
        return not proof and old == new
    path = [old, *proof] if old_size & (old_size - 1) == 0 else list(proof)
    if not path:
        return False
    at, last = old_size - 1, new_size - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    small = large = path[0]
    for step in path[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            small, large = _node(step, small), _node(step, large)
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            large = _node(large, step)
        at, last = at >> 1, last >> 1
    return last == 0 and small == old and large == new


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def _split(size: int) -> int:
    """Return the largest power of two below a size."""
    return 1 << (size - 1).bit_length() - 1
