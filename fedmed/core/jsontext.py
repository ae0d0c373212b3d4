"""JSON that any reader takes: what is not finite, for which JSON has no number, becomes a word."""

import json
import math
from typing import Any


def dumps(tree: Any, indent: int | None = 2) -> str:
    """Return a tree as text: NaN as null, an infinity as ``"inf"``."""
    return json.dumps(_plain(tree), indent=indent, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf"
    return value
