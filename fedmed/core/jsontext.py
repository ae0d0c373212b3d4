"""JSON that any reader takes: what is not finite, for which JSON has no number, becomes a word."""

import json
import math
from typing import Any


def dumps(tree: Any, indent: int | None = 2) -> str:
    """Return a tree as text: NaN as null, an infinity as ``"inf"``."""
    return json.dumps(plain(tree), indent=indent, allow_nan=False) + "\n"


def canonical(tree: Any) -> bytes:
    """Return the one JSON text of a tree: ASCII, keys sorted, no space; see :func:`dumps`.

    Args:
        tree: whose keys are texts.
    """
    text = json.dumps(plain(tree), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")


def plain(value: Any) -> Any:
    """Return a tree as JSON gives it back, but for keys that are no texts: NaN as None."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf"
    return value
