"""The errors that end in one clear line instead of a traceback."""


class FedmedError(Exception):
    """Something that the user can mend: the message says what, where and how."""


class ConfigError(FedmedError):
    """A configuration that cannot be run."""


class DataError(FedmedError):
    """Files of a dataset that are not as its publisher describes them."""


class UnreadableImage(FedmedError):
    """One image that cannot be decoded: it is listed with this reason and left out."""
