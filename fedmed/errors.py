"""The errors that end in one clear line instead of a traceback."""

from fedmed.texts import MOST, printable


class FedmedError(Exception):
    """Something that the user can mend: the message says what, where and how.

    It may name files and quote what others sent, so that no character of it is a command to the
    terminal on which it is shown.
    """

    def __str__(self) -> str:
        """Return the message, on one line."""
        return printable(super().__str__(), MOST)


class ConfigError(FedmedError):
    """A configuration that cannot be run."""


class DataError(FedmedError):
    """Files of a dataset that are not as its publisher describes them."""


class UnreadableImage(FedmedError):
    """One image that cannot be decoded: it is listed with this reason and left out."""
