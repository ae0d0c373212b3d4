"""Keys that would change nothing are refused: a run that differs in name alone is no other run."""

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from fedmed.core.errors import ConfigError

if TYPE_CHECKING:
    from fedmed.config import Config

OPEN = ("strategy", "faults")  # groups whose choices have keys of their own


def check(config: "Config", raw: dict[str, Any]) -> None:
    """Refuse keys without an effect.

    Args:
        config: the parsed configuration.
        raw: the configuration before interpolation.

    Raises:
        ConfigError: naming the key, and what it takes to have one.
    """
    referred = set(_references(raw, ()))
    for group in OPEN:
        part = getattr(config, group)
        known = [*type(part).model_fields, *part.model_extra]
        for key in part.model_extra:
            if f"{group}.{key}" not in referred:
                takes = ", ".join(name for name in known if name != key)
                raise ConfigError(
                    f"{group}.{key}: unknown key, which nothing refers to; {group} takes {takes}"
                )
    for key, without in _without(config):
        raise ConfigError(f"{key}: has no effect {without}")


def check_sets(overrides: Sequence[str]) -> None:
    """Refuse what is asked of a set of a federation, and only counts for the whole.

    Raises:
        ConfigError: naming the key.
    """
    for override in overrides:
        key = override.partition("=")[0].lstrip("+")
        if match := re.fullmatch(r"dataset\.sets\.[\w-]+\.(targets|size|aspect)", key):
            raise ConfigError(f"{key}: has no effect; give dataset.{match[1]}, which holds for all")


def _without(config: "Config") -> Iterator[tuple[str, str]]:
    """Yield the keys whose value cannot matter beside the others, and why."""
    client, faults, privacy = config.client, config.faults, config.privacy
    if client.momentum and client.optimizer != "sgd":
        yield "client.momentum", f"with client.optimizer={client.optimizer}: it is of sgd; take 0"
    if client.steps is not None and client.epochs != 1:
        yield "client.epochs", "where client.steps is given; take client.steps=null, or epochs=1"
    if (
        privacy.mechanism == "dpsgd"
        and privacy.noise_multiplier is not None
        and privacy.noise_for == "epochs"
    ):
        yield "privacy.noise_for", "where privacy.noise_multiplier is given: no noise is found"
    if faults.on_failure == "stop" and faults.min_clients != 1:
        yield "faults.min_clients", "with faults.on_failure=stop: it is of exclude"
    for fault in faults.inject:
        if "seconds" in fault.model_fields_set and fault.kind != "slow":
            yield "faults.inject", f"of seconds with kind {fault.kind}: it is of slow"
        if beyond := [r for r in fault.rounds or () if not 1 <= r <= config.rounds]:
            yield "faults.inject", f"in round {beyond[0]}: rounds go from 1 to {config.rounds}"


def _references(node: Any, path: tuple[str, ...]) -> Iterator[str]:
    """Yield the dotted keys that interpolations below a node refer to, and those around them."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _references(value, (*path, str(key)))
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _references(value, (*path, str(i)))
    elif isinstance(node, str):
        for inner in re.findall(r"\$\{([^{}]*)", node) + re.findall(r"\$\{([^{}]*)\}", node):
            for word in re.split(r"[:,\s]", inner):
                yield from _around(_absolute(word, path))


def _absolute(word: str, path: tuple[str, ...]) -> list[str]:
    """Return the parts of a key, which may be relative to that where it is written."""
    name = word.lstrip(".")
    dots = len(word) - len(name)
    parts = [part for part in re.split(r"[.\[\]]", name) if part]
    return [*path[: len(path) - dots], *parts] if dots else parts


def _around(parts: list[str]) -> Iterator[str]:
    for end in range(1, len(parts) + 1):
        yield ".".join(parts[:end])
