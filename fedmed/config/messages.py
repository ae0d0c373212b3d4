"""What is wrong with a configuration, in the one line that names the key the user typed."""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf
from pydantic import ValidationError

#: What is wrong with a key and not with its value, by pydantic's type of it.
_OF_KEYS = {"extra_forbidden": "unknown key", "missing": "is missing"}
Compose = Callable[[Sequence[str]], DictConfig]


def explain(error: Exception, overrides: Sequence[str], conf: Path, compose: Compose) -> str:
    """Say in one line what Hydra says in several.

    Args:
        error: Hydra's or OmegaConf's.
        overrides: what it refused.
        conf: the folder of the configuration.
        compose: composes other overrides, to see what a group takes.
    """
    if isinstance(error, OverrideParseException):
        return malformed(error)
    text = str(error)
    if match := re.search(r"Could not override '([^']+)'", text):
        key = match[1].lstrip("+~")
        group, _, leaf = key.rpartition(".")
        if (conf / key).is_dir():
            return f"{key}: is added with a +, as in +{key}={_options(conf / key)[0].stem}"
        sane = [o for o in overrides if o.split("=")[0].lstrip("+~") != key]
        if len(sane) == len(overrides):  # the key is a committed file's, not the command line's
            return f"{key}: unknown key"
        node = OmegaConf.select(compose(sane), group) if group else compose(sane)
        if node is not None and group and (leaf in node or not node):
            # A dictionary that is the user's own: it has no keys until they are added.
            return f"{key}: is added to with a +, as in +{key}=…"
        takers = [path.stem for path in _options(conf / group) if group and leaf in _read(path)]
        takes = ", ".join(str(k) for k in node if k != "_target_") if node is not None else ""
        hint = f"; {leaf} is a key of {group}={'|'.join(takers)}" if takers else ""
        return f"{key}: unknown key; {group or 'the configuration'} takes {takes}{hint}"
    if match := re.search(r"Could not find '([^']+)/([^']+)'", text):
        if match[2] == "submitit_slurm":
            return "hydra/launcher: Slurm needs pip install 'fedmed[slurm]'"
        takes = ", ".join(path.stem for path in _options(conf / match[1]))
        return f"{match[1]}={match[2]}: unknown; {match[1]} takes {takes}"
    return first_line(error)


def malformed(error: OverrideParseException) -> str:
    """Say what is wrong with an override that Hydra's grammar does not take."""
    return f"{error.override}: is not KEY=VALUE; quote it, and escape what the shell would read"


def first_line(error: Exception) -> str:
    """Return the first line of what an error says, or its type."""
    lines = str(error or error.__cause__).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _options(group: Path) -> list[Path]:
    return sorted(group.glob("*.yaml"))


def _read(path: Path) -> dict[str, Any]:
    return cast(dict[str, Any], yaml.safe_load(path.read_text(encoding="utf-8"))) or {}


def problems(error: ValidationError, raw: dict[str, Any]) -> Iterator[str]:
    """Yield a line a key; the alternatives of a union share theirs."""
    messages: dict[str, list[str]] = {}
    inputs: dict[str, Any] = {}
    for problem in error.errors():
        key = _key(problem["loc"], raw)
        if problem["type"] == "missing":  # and so no part of the configuration
            key = ".".join(filter(None, [key, str(problem["loc"][-1])]))
        key = source(key, raw)
        messages.setdefault(key, []).append(_OF_KEYS.get(problem["type"]) or lower(problem["msg"]))
        inputs[key] = problem["input"]
    for key, alternatives in messages.items():
        got = "" if set(alternatives) <= set(_OF_KEYS.values()) else f", got {inputs[key]!r}"
        yield f"{key}: {' or '.join(alternatives)}{got}"


def _key(loc: tuple[int | str, ...], raw: Any) -> str:
    """Return the part of pydantic's location that is a key of the configuration."""
    key = []
    for part in loc:
        if not isinstance(raw, dict):
            break
        if part in raw:  # else it names an alternative of a union
            key.append(str(part))
            raw = raw[part]
    return ".".join(key)


def lower(message: str) -> str:
    """Return a message that begins in lower case."""
    return message[0].lower() + message[1:]


def source(key: str, raw: dict[str, Any]) -> str:
    """Return the key that the user typed for ``key``, which may be interpolated from it."""
    node: Any = raw
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    match = re.fullmatch(r"\$\{([\w.]+)\}", node) if isinstance(node, str) else None
    return source(match[1], raw) if match else key
