"""What travels in a round, and how it is read when it comes from a stranger.

A message is a flat mapping of texts to integers, bytes, or lists of either, as a Flower
``ConfigRecord`` holds them. Every one is read here, so that whatever is not exactly as it is
described ends in one :class:`SecAggError`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise

from fedmed.core.errors import FedmedError

#: A message that is sent.
Outgoing = dict[str, bytes | list[int] | list[bytes]]
#: One that came, of which nothing is known.
Incoming = Mapping[str, object]

SIGNATURE_BYTES = 64  # Ed25519
VIEW_BYTES = 32  # SHA-256
SEALED_BYTES = 12 + 2 * 33 + 16  # nonce, shares of seed and key, tag
MOST_CLIENTS = 2**20  # numbers of clients lie below: far more than take part, and fit any type


class SecAggError(FedmedError):
    """A message, a party or a step that secure aggregation refuses: nothing was told for it."""


@contextmanager
def blaming(client: int) -> Iterator[None]:
    """Name the client in whose keys or letters lies what is refused."""
    try:
        yield
    except SecAggError as error:
        raise SecAggError(f"client {client}: {error}") from None


def read_fields(message: object, sender: str, *fields: str) -> Incoming:
    """Return a message that has just these fields.

    Raises:
        SecAggError: if it is no mapping, or has others.
    """
    if not isinstance(message, Mapping) or set(message) != set(fields):
        raise SecAggError(f"{sender}: the message does not hold just {', '.join(fields)}")
    return message


def read_numbers(message: Incoming, sender: str, field: str) -> list[int]:
    """Return the numbers of clients that a field lists, which ascend.

    Raises:
        SecAggError: if it lists anything else, or one twice.
    """
    value = message[field]
    if not isinstance(value, Sequence) or isinstance(value, str | bytes | bytearray):
        raise SecAggError(f"{sender}: {field} is no list")
    numbers = list(value)
    if any(type(number) is not int or not 0 <= number < MOST_CLIENTS for number in numbers):
        raise SecAggError(f"{sender}: {field} lists what is no client's number")
    if any(low >= high for low, high in pairwise(numbers)):
        raise SecAggError(f"{sender}: {field} does not ascend, or names a client twice")
    return numbers


def read_blobs(message: Incoming, sender: str, field: str, count: int, *sizes: int) -> list[bytes]:
    """Return the byte strings that a field lists.

    Args:
        message: that came.
        sender: who sent it, for the error.
        field: of the message.
        count: how many there must be.
        sizes: the lengths in bytes that one may have.

    Raises:
        SecAggError: if there are more or fewer, or one is not of such a length.
    """
    value = message[field]
    if not isinstance(value, Sequence) or isinstance(value, str | bytes | bytearray):
        raise SecAggError(f"{sender}: {field} is no list")
    if len(value) != count:
        raise SecAggError(f"{sender}: {field} lists {len(value)} for {count} clients")
    return [_blob(blob, sender, field, sizes) for blob in value]


def read_blob(message: Incoming, sender: str, field: str, *sizes: int) -> bytes:
    """Return the byte string of a field; see :func:`read_blobs`."""
    return _blob(message[field], sender, field, sizes)


def _blob(value: object, sender: str, field: str, sizes: tuple[int, ...]) -> bytes:
    if type(value) is not bytes or len(value) not in sizes:
        lengths = " or ".join(map(str, sizes))
        raise SecAggError(f"{sender}: {field} is not of {lengths} bytes")
    return value
