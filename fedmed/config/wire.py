"""A run's task as the text that travels to its clients: canonical JSON, held against its hash.

The values are resolved before they are written. Who reads them composes nothing and resolves
nothing: an interpolation in the text is a text. What is read must be, written again, the very text
that came, so both sides mean the same values or one refuses.

JSON has no infinities, no tuples and no keys but texts. They are written as an object with one key
that begins with a dollar, and so is an object that has such a key itself.
"""

import hashlib
import json
import math
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from fedmed.config import checks, components, identity
from fedmed.config.messages import problems
from fedmed.config.schema import Task
from fedmed.core.errors import ConfigError

FORMAT = 1  # of the text; counted up when an older version could read another task in it
#: Of a task's components, those that a client builds.
BUILT = ("aggregation", "model.network", "strategy.local", "strategy.server")
_TAG = "$"
_NOT_FINITE = ("inf", "-inf", "nan")


class WireError(ConfigError):
    """A task that a client does not take; the text names nothing but versions and its keys."""


def dumps(task: Task) -> str:
    """Return a task as text.

    Args:
        task: the resolved values. Of a whole configuration only the task is written: the server's
            folders, tracking and literature are no client's business.

    Returns:
        ASCII without spaces, in the order of the values, which may matter to a component. Equal
        texts are equal tasks, of one version of fedmed.

    Raises:
        ConfigError: naming the key, if a value is of a type that has no text.
    """
    values = task.model_dump(by_alias=True, include=set(Task.model_fields))
    content = {**_version(), "task": {k: _packed(v, k) for k, v in values.items()}}
    return json.dumps(content, separators=(",", ":"), allow_nan=False)


def sha256(text: str) -> str:
    """Return the hash of a text, as hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def loads(text: str, digest: str) -> Task:
    """Return the task that a text holds.

    Args:
        text: what :func:`dumps` wrote, elsewhere.
        digest: the :func:`sha256` that its writer found.

    Raises:
        WireError: if the text is not the one that was sent, is another version's, or holds a key
            or a value that this version does not know.
        ConfigError: if a component that a client builds is not installed here, or takes no such
            argument; the others are the server's, and are not even imported.
    """
    task = parsed(text, digest)
    for path, component in components.within(task):
        if path.startswith(BUILT):
            components.check(path, component.target, component.arguments, {})
    return task


def parsed(text: str, digest: str) -> Task:
    """Return the task that a text holds, without importing anything that it names.

    Its components are names and values, and nothing more: whoever does not trust the writer decides
    by them whether to go on. See :func:`loads` for what is raised.
    """
    if (found := sha256(text)) != digest:
        raise WireError(f"the task that came is not the one that was sent: {found}, not {digest}")
    try:
        content = json.loads(text, parse_constant=_refuse)
        theirs = {key: content[key] for key in _version()}
        packed = content["task"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise WireError("the task that came cannot be read: it is no text of fedmed's") from None
    if theirs != _version():
        raise WireError(
            f"the task that came is of {_named(theirs)}, and this is {_named(_version())}: the "
            "server and its clients take the same version"
        )
    task = _parsed(packed)
    if not _is(task, text):
        raise WireError("the task that came would be another one here: it is not written as it is")
    return task


def leaves(task: Task) -> dict[str, str]:
    """Return each value of a task that has no keys below it, as text, by its dotted key.

    Equal texts are equal values of the same type: 1, 1.0 and true are three.
    """
    values = task.model_dump(by_alias=True, include=set(Task.model_fields))
    return {
        key: json.dumps(_packed(value, key), sort_keys=True)
        for key, value in identity.leaves(values)
    }


def _is(task: Task, text: str) -> bool:
    """Return whether a task is written as a text, letter by letter."""
    try:
        return dumps(task) == text
    except (ValueError, RecursionError):  # of what is too deep to be written
        return False


def _parsed(packed: Any) -> Task:
    try:
        values = _unpacked(packed)
    except (ValueError, TypeError, RecursionError):
        raise WireError("the task that came cannot be read: a value in it is none") from None
    try:
        task = Task.model_validate(values)
    except ValidationError as error:
        wrong = "; ".join(problems(error, values if isinstance(values, dict) else {}))
        raise WireError(f"the task that came: {wrong}") from None
    checks.check_values(task)
    return task


@cache
def _version() -> dict[str, str | int]:
    return {"format": FORMAT, "fedmed": version("fedmed"), "semantics": identity.SEMANTICS}


def _named(of: dict[str, Any]) -> str:
    return f"fedmed {of['fedmed']} (format {of['format']}, semantics {of['semantics']})"


def _packed(node: Any, key: str) -> Any:
    """Return a value as JSON has it; ``key`` names it where there is none."""
    if node is None or isinstance(node, bool | int | str):
        return node
    if isinstance(node, float):
        return node if math.isfinite(node) else {"$float": str(node)}
    if isinstance(node, Path):
        return {"$path": str(node)}
    if isinstance(node, list):
        return [_packed(value, key) for value in node]
    if isinstance(node, tuple):
        return {"$tuple": [_packed(value, key) for value in node]}
    if not isinstance(node, dict):
        raise ConfigError(f"{key}: a {type(node).__name__} cannot be sent to clients")
    items = [(name, _packed(value, f"{key}.{name}")) for name, value in node.items()]
    if all(isinstance(name, str) and not name.startswith(_TAG) for name in node):
        return dict(items)
    return {"$dict": [[_packed(name, key), value] for name, value in items]}


def _unpacked(node: Any) -> Any:
    """Undo :func:`_packed`. Raises ValueError or TypeError for what it never makes."""
    if isinstance(node, list):
        return [_unpacked(value) for value in node]
    if not isinstance(node, dict):
        return node
    tag = next((name for name in node if name.startswith(_TAG)), None)
    if tag is None:
        return {name: _unpacked(value) for name, value in node.items()}
    ((tag, value),) = node.items()
    if tag == "$float" and value in _NOT_FINITE:
        return float(value)
    if tag == "$path":
        return Path(value)
    if tag == "$tuple":
        return tuple(_unpacked(list(value)))
    if tag == "$dict":
        return {_unpacked(name): _unpacked(inner) for name, inner in value}
    raise ValueError(tag)


def _refuse(word: str) -> NoReturn:
    """Refuse Python's own words for what is not finite, which are no JSON."""
    raise ValueError(word)
