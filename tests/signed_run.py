"""Runs whose record is tried: a private one, signed, and what its tests have in common."""

from typing import Any

from conftest import TINY

SMALL = (*TINY, "dataset.patients=60", "client.steps=1", "rounds=2")
PRIVATE = (*SMALL, "privacy=dpsgd", "privacy.noise_multiplier=1", "client.lr=0.01")


def head_of(done: dict[str, Any]) -> str:
    """Return the head that a summary tells."""
    return f"{done['record']['size']}:{done['record']['root']}"
