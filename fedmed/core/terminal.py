"""Standard output and error that show what they can, and outlive their reader."""

import io
import os
import sys
from contextlib import suppress
from typing import NoReturn

from fedmed.core.errors import FedmedError


class _Tolerant(io.TextIOWrapper):
    """A stream that writes on, into nothing, once its reader has gone (``| head``)."""

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except BrokenPipeError:
            self._lose()
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except BrokenPipeError:
            self._lose()
            super().flush()

    def _lose(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


def tolerate() -> None:
    """Let nothing that is printed end a program whose work is done.

    A character that the terminal, the log or the locale cannot show becomes a question mark, and a
    reader that goes away is no error. Called first by whatever is a command; streams that are not
    the interpreter's own, such as a test's, are left alone, and one that somebody listens to, as
    Flower does for the log of a run, stays that stream.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if type(stream) is not io.TextIOWrapper:
            continue
        if "write" in vars(stream):
            stream.reconfigure(errors="replace")
        else:
            tolerant = _Tolerant(
                stream.buffer,
                encoding=stream.encoding,
                errors="replace",
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
            setattr(sys, name, tolerant)


def fail(error: FedmedError) -> NoReturn:
    """End this process with one line that says what is wrong, and exit status 2."""
    with suppress(OSError):  # where even its log is full
        print(f"fedmed: {error}", file=sys.stderr, flush=True)
    sys.exit(2)
