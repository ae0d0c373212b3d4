"""Masks: words of Z_2^32 as uniform as AES is strong, added to a vector and taken away again."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

Words = NDArray[np.uint32]

#: Words that are masked at a time, by all masks: half a MiB, so that they stay in the cache.
BLOCK = 1 << 17


def apply(words: Words, plus: Sequence[bytes], minus: Sequence[bytes]) -> None:
    """Add masks to a vector and subtract others, modulo 2^32, in place.

    A mask is the keystream of AES-256 in counter mode from 0, four bytes a word, the lowest first.

    Args:
        words: the vector, of one dimension and contiguous.
        plus: the keys of the masks that are added, 32 bytes each, none of which masks anything
            else.
        minus: of those that are subtracted.
    """
    streams: list[tuple[Any, np.ufunc]] = [
        (Cipher(AES(key), CTR(bytes(16))).encryptor(), combine)
        for combine, keys in ((np.add, plus), (np.subtract, minus))
        for key in keys
    ]
    mask = np.empty(min(BLOCK, words.size), "<u4")
    zeros = bytes(mask.nbytes)
    for start in range(0, words.size, BLOCK):
        part = words[start : start + BLOCK]
        here = mask[: part.size]
        for encryptor, combine in streams:
            encryptor.update_into(memoryview(zeros)[: here.nbytes], here.view(np.uint8))
            combine(part, here, out=part)


def is_words(value: object) -> bool:
    """Say whether something is a vector of words that :func:`apply` takes."""
    return (
        isinstance(value, np.ndarray)
        and value.dtype == np.uint32
        and value.ndim == 1
        and value.flags.c_contiguous
    )
