"""Texts of others made safe to show: on the terminal, in a log, in a spreadsheet.

What a client answers, what a file is called and what a label file says may hold control
characters that a terminal obeys, line ends that forge a line of a log, or formulas that a
spreadsheet runs (CWE-150, CWE-117 and CWE-1236).
"""

import logging
import re

LONGEST = 1000  # characters of another's text in one line of ours
MOST = 20_000  # characters of another's text in a log
_NUMBER = re.compile(r"[+-]?[\d.]+(e[+-]?\d+)?( ± [\d.]+)?( \[[-\d., ]+\])?\*?")


def printable(text: str, longest: int = LONGEST) -> str:
    r"""Return a text on one line, with ``\x1b`` and the like in the place of what does not print.

    Args:
        text: of anyone.
        longest: characters that are kept.
    """
    if len(text) > longest:
        text = text[:longest] + "…"
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def cause(text: str) -> str:
    """Return the last line of what someone says of an error, which tells its cause; printable."""
    lines = [line.strip() for line in text[-MOST:].splitlines() if line.strip()]
    return printable(lines[-1]) if lines else "no reason given"


def block(text: str) -> str:
    """Return the end of a text of several lines, each of them printable and indented."""
    cut = "…" if len(text) > MOST else ""
    lines = (cut + text[-MOST:]).split("\n")
    return "\n".join("  " + printable(line, MOST) for line in lines)


def cell(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula: one gets an apostrophe before it."""
    formula = text[:1] in "=+-@\t\r\n＝＋－＠" and text and not _NUMBER.fullmatch(text)
    return f"'{text}" if formula else text


class LogFormatter(logging.Formatter):
    """One record, one line that begins with its time; the lines that follow are indented."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record with nothing that a terminal would obey."""
        first, *rest = super().format(record).split("\n", 1)
        return "\n".join([printable(first, MOST), *map(block, rest)])


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode()
