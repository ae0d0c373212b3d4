"""What is published of a configuration or a message: no path, file or patient is named in it."""

import hashlib
import re
from typing import Any

#: Keys of paths and hosts, even without a /.
PATHS = {"root", "weights", "lists", "file", "table", "address", "path", "key", "account"}
#: A path, a patient's id (dataset:id) or an image's file name.
_NAMES = re.compile(
    r"\S*[/\\]\S*|\w+:\w[^\s,;]*|\S+\.(?:png|jpe?g|tiff?|dcm|dicom)\b", re.IGNORECASE
)


def scrub(node: Any, key: str = "") -> Any:
    """Return a tree, whose keys may be dotted, with a hash in place of each path."""
    if isinstance(node, dict):
        return {name: scrub(value, name) for name, value in node.items()}
    if isinstance(node, list):
        return [scrub(value, key) for value in node]
    named = key.rpartition(".")[2] in PATHS
    is_path = isinstance(node, str) and (named or "/" in node or "\\" in node)
    return hashlib.sha256(node.encode()).hexdigest()[:12] if is_path else node


def scrub_text(text: str) -> str:
    """Return a message with ``…`` in place of each path, patient and file."""
    return _NAMES.sub("…", text)
