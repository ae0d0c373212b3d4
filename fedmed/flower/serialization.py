"""Nested state to one safetensors file and back, to the bit, and with nothing pickled.

A tree is made of dicts, lists, tuples, numbers, strings, bytes, None, NumPy arrays and Flower's
records. Arrays become tensors; all else becomes JSON in the file's header.
"""

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array as FlowerArray
from flwr.app import ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fedmed.core import formats
from fedmed.core.errors import FedmedError
from fedmed.core.files import damaged, write_atomically
from fedmed.flower.arrays import Array, decoded, record_of

#: Of the files that outlive a process: how a tree lies in one, and what the trees of a run hold
#: (``federation.checkpoint.Checkpoint``, a client's state).
FORMAT = 1
Arrays = dict[str, NDArray[Any]]
_RECORDS: dict[str, Callable[[dict[Any, Any]], Any]] = {
    "ArrayRecord": record_of,
    "MetricRecord": MetricRecord,
    "ConfigRecord": ConfigRecord,
    "RecordDict": RecordDict,
    "dict": dict,
}
_SEQUENCES: dict[str, Callable[[list[Any]], Any]] = {"list": list, "tuple": tuple}


class NotATree(FedmedError):
    """A value of a type that a tree cannot hold."""


def save(tree: Any, path: Path, durable: bool = True) -> None:
    """Write ``tree`` to ``path`` in one step: the old file stays whole until the new one is.

    Args:
        tree: what to write.
        path: where to.
        durable: whether the file must outlive a power cut, and has a format and a checksum.

    Raises:
        NotATree: naming the place and type of a value that cannot be written.
        FedmedError: if the disk is full or the folder cannot be written.
    """
    arrays: Arrays = {}
    header = json.dumps(_pack(tree, "tree", arrays))
    metadata = {"tree": header}
    if durable:
        metadata |= {formats.KEY: str(FORMAT), "sha256": _digest(header, arrays)}
    write_atomically(path, lambda new: save_file(arrays, new, metadata), durable)


def load(path: Path, durable: bool = True) -> Any:
    """Read what :func:`save` wrote.

    Args:
        path: the file.
        durable: whether it was to outlive a power cut: then its format is to be known, and it is
            held against its checksum.

    Raises:
        FedmedError: if it is not as it was written, or of a newer format.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if durable:
                formats.check(path, _number(metadata.get(formats.KEY)), FORMAT)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if durable and metadata["sha256"] != _digest(metadata["tree"], arrays):
            raise damaged(path, "its content is not what its checksum is of")
        return _unpack(json.loads(metadata["tree"]), arrays)
    except (SafetensorError, ValueError, LookupError, TypeError):
        raise damaged(path, "it cannot be read") from None


def _number(text: str | None) -> int | str | None:
    """Return a number that a header, whose values are all texts, holds; another text as it is."""
    return int(text) if text and text.isdecimal() else text


def _digest(header: str, arrays: Arrays) -> str:
    digest = hashlib.sha256(header.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _pack(node: Any, name: str, arrays: Arrays) -> Any:
    if node is None or isinstance(node, bool | int | float | str):
        return node
    if isinstance(node, np.generic):
        return node.item()
    if isinstance(node, bytes):
        return {"bytes": base64.b64encode(node).decode()}
    if isinstance(node, np.ndarray):
        arrays[name] = np.ascontiguousarray(node).reshape(node.shape)
        return {"ndarray": name}
    if isinstance(node, Array):
        return {"Array": _pack(decoded(node), name, arrays)}
    if isinstance(node, FlowerArray):  # as it came: who takes it decides whether to decode it
        arrays[name] = np.frombuffer(node.data, np.uint8)
        return {"FlowerArray": [node.dtype, list(node.shape), node.stype, name]}
    kind = type(node).__name__
    if kind in _RECORDS:
        items = [[key, _pack(value, f"{name}/{key}", arrays)] for key, value in node.items()]
        return {kind: items}
    if kind in _SEQUENCES:
        return {kind: [_pack(value, f"{name}/{i}", arrays) for i, value in enumerate(node)]}
    raise NotATree(f"{name}: a {kind} cannot be checkpointed")


def _unpack(node: Any, arrays: Arrays) -> Any:
    if not isinstance(node, dict):
        return node
    ((kind, value),) = node.items()
    if kind == "bytes":
        return base64.b64decode(value)
    if kind == "ndarray":
        return arrays[value]
    if kind == "Array":
        return Array(np.asarray(_unpack(value, arrays)))
    if kind == "FlowerArray":
        dtype, shape, stype, name = value
        return FlowerArray(dtype, tuple(shape), stype, arrays[name].tobytes())
    if kind in _RECORDS:
        return _RECORDS[kind]({key: _unpack(item, arrays) for key, item in value})
    return _SEQUENCES[kind]([_unpack(item, arrays) for item in value])
