"""What is wrong with a configuration, in the one line that names the key the user typed."""

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import yaml
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf
from pydantic import ValidationError

from fedmed.core.errors import FedmedError

logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # what it logs of a target is told

UNKNOWN = "unknown key"
#: What is wrong with a key and not with its value, by pydantic's type of it.
_OF_KEYS = {"extra_forbidden": UNKNOWN, "missing": "is missing"}
NEAR = 3  # keys of the same name that are asked after
ALIKE = 0.75  # how much a key must be spelt like another one, of 1
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
        takes = ", ".join(str(k) for k in node if k != "_target_") if node is not None else ""
        named = group or "the configuration"
        hints = [f"{named} takes {takes or 'no key'}", *_takers(conf, group, leaf)]
        if meant := near(key, cast(dict[str, Any], OmegaConf.to_container(compose(sane)))):
            hints = [*hints, meant] if group else [meant]
        return f"{key}: unknown key; {'; '.join(hints)}"
    if match := re.search(r"Could not find '([^']+)/([^']+)'", text):
        if match[2] == "submitit_slurm":
            return "hydra/launcher: Slurm needs pip install 'fedmed[slurm]'"
        choices = [path.stem for path in _options(conf / match[1])]
        close = get_close_matches(match[2], choices, 1)
        meant = f"; did you mean {match[1]}={close[0]}?" if close else ""
        return f"{match[1]}={match[2]}: unknown; {match[1]} takes {', '.join(choices)}{meant}"
    return first_line(error)


def near(key: str, raw: Mapping[str, Any]) -> str:
    """Ask whether a key of a configuration was meant, in whatever group it is.

    Args:
        key: dotted, and unknown.
        raw: the configuration, not interpolated; it may hold the key.

    Returns:
        A question, empty if no key is near. One of the same name is nearer than one that is spelt
        alike.
    """
    known = [name for name in _dotted(raw) if not f"{key}.".startswith(f"{name}.")]
    leaves: dict[str, list[str]] = {}
    for name in known:
        leaves.setdefault(name.rpartition(".")[2], []).append(name)
    leaf = key.rpartition(".")[2]
    alike = [leaf] if leaf in leaves else get_close_matches(leaf, leaves, 1, ALIKE)
    meant = leaves[alike[0]][:NEAR] if alike else []
    return f"did you mean {' or '.join(meant)}?" if meant else ""


def _dotted(raw: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys that a user may set: not those that are made of others."""
    for name, value in raw.items():
        if name != "_target_" and not (isinstance(value, str) and value.startswith("${")):
            yield f"{prefix}{name}"
            if isinstance(value, Mapping):
                yield from _dotted(value, f"{prefix}{name}.")


def _takers(conf: Path, group: str, leaf: str) -> Iterator[str]:
    """Say which choices of a group have a key, or of which groups where none is named."""
    folders = [conf / group] if group else sorted(path for path in conf.iterdir() if path.is_dir())
    for folder in folders:
        if takers := [path.stem for path in _options(folder) if leaf in _read(path)]:
            yield f"{leaf} is a key of {folder.name}={'|'.join(takers)}"


def malformed(error: OverrideParseException) -> str:
    """Say what is wrong with an override that Hydra's grammar does not take."""
    return f"{error.override}: is not KEY=VALUE; quote it, and escape what the shell would read"


def first_line(error: Exception) -> str:
    """Return the first line of what an error says, or its type."""
    lines = str(error or error.__cause__).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def import_failure(error: Exception) -> str:
    """Return in a line why Hydra cannot import a target, which takes Hydra three and a log."""
    cause = error.__cause__ or error
    said = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
    told = isinstance(cause, ImportError | FedmedError | SyntaxError)
    return said if told else f"{type(cause).__name__}: {said}"


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
        meant = near(key, raw) if alternatives == [UNKNOWN] else ""
        yield "; ".join(filter(None, (f"{key}: {' or '.join(alternatives)}{got}", meant)))


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
