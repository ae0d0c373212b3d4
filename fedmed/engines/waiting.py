"""Who is waited for, said aloud: a client that will never answer looks like one that trains."""

import time
from collections.abc import Callable

Say = Callable[[str], None]
FIRST = 60.0  # seconds after which it is said; then whenever the wait is twice as long


class Waiting:
    """A wait for someone.

    Args:
        whom: is waited for.
        say: called with a line for a person.
    """

    def __init__(self, whom: str, say: Say) -> None:
        self._whom, self._say = whom, say
        self._began, self._since = time.monotonic(), time.strftime("%H:%M:%S")
        self._next = FIRST

    def go_on(self) -> None:
        """Say who is waited for and since when, the longer the more rarely."""
        waited = time.monotonic() - self._began
        if waited >= self._next:
            self._next = 2 * waited
            self._say(f"waiting for {self._whom} since {self._since} ({waited:.0f} s)")
