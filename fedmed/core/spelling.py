"""How a word is spelt: one form for all that looks alike, and which words may name the same thing.

A blank at the end, a no-break space or a zero-width character cannot be seen, and so tells nobody
from nobody: :func:`clean` drops it. Case, leading zeros and a decimal point can be seen, and are
what spreadsheets change on their own: words that differ by nothing else are :func:`alike`, and
whoever reads them must say whether they are one.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd

#: Letters and symbols that show nothing: Hangul fillers and the empty Braille cell.
_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")
#: Marks that show nothing: the grapheme joiner and the variation selectors.
_SELECTORS = re.compile("[\u034f\u180b-\u180d\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")
#: What :func:`key` takes no notice of, in words.
MAY_CHANGE = "case, blanks, leading zeros, a decimal point or the kind of letters"
_ZEROS = re.compile(r"(?<![\d.])0+(?=\d)")
_POINT = re.compile(r"(?<![\d.])(\d+)[.,]0*(?![\w.,])")
#: What programs write where there is nothing, and Excel's errors.
_NOTHING = re.compile(r"nan|none|null|nat|na|n/a|<na>|#n/a|#(ref|value|div/0|num|null)!|#name\?")


def clean(word: str) -> str:
    """Return a word in one form: composed (NFC), nothing invisible, single blanks between words."""
    if not (word.isascii() and word.isprintable()):
        shown = "".join(map(_shown, _SELECTORS.sub("", word)))
        word = unicodedata.normalize("NFC", shown)
    return " ".join(word.split())


def trim(word: str) -> str:
    """Return a word without what cannot be seen at its ends; inside it is kept as it is."""
    if word.isascii() and word.isprintable():
        return word.strip()
    start, end = 0, len(word)
    while start < end and not _shown(word[start]).strip():
        start += 1
    while start < end and not _shown(word[end - 1]).strip():
        end -= 1
    return word[start:end]


def key(word: str) -> str:
    """Return what is the same for words that differ only by what a spreadsheet may change.

    That is case, blanks, leading zeros, a decimal point with nothing behind it, the width of
    letters, the kind of digits and of dashes, and the empty components at the end of a DICOM
    person name (``DOE^^``).
    """
    word = clean(word)
    if not word.isascii():
        word = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", word).casefold())
        word = "".join(
            "-" if unicodedata.category(c) == "Pd" else str(unicodedata.decimal(c, c)) for c in word
        )
    word = "".join(word.casefold().split()).rstrip("^")
    return _POINT.sub(r"\1", _ZEROS.sub("", word))


def alike(words: Iterable[str]) -> tuple[str, str] | None:
    """Return the first two different words of one :func:`key`, None where there are none."""
    first: dict[str, str] = {}
    for word in dict.fromkeys(words):
        other = first.setdefault(key(word), word)
        if other != word:
            return other, word
    return None


def each(cells: "pd.Series[Any]", change: Callable[[str], Any]) -> "pd.Series[Any]":
    """Return what a function makes of each cell, called once for each word; None where empty."""
    missing = cells.isna().tolist()
    words = [None if no else str(word) for word, no in zip(cells.tolist(), missing, strict=True)]
    changed = {word: None if word is None else change(word) for word in dict.fromkeys(words)}
    return pd.Series([changed[word] for word in words], cells.index, name=cells.name)


def says_nothing(word: str) -> bool:
    """Say whether a word is what programs write where a name is missing: nan, None, NA, #N/A."""
    return bool(_NOTHING.fullmatch(word.casefold()))


def _shown(character: str) -> str:
    """Return a character, a blank for whatever shows as one, nothing for what does not show."""
    if character.isspace() or character in _BLANK:
        return " "
    return "" if unicodedata.category(character) in ("Cc", "Cf") else character
