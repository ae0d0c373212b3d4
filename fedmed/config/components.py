"""The schema of a component: the signature of the class or function that its ``_target_`` names."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, get_type_hints

from hydra.utils import get_object
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError

from fedmed.config.messages import UNKNOWN, import_failure, lower, near, source
from fedmed.config.schema import Component, Config, Custom, Task
from fedmed.core.errors import ConfigError, OutOfMemory, starved

NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def within(task: Task) -> Iterator[tuple[str, Component]]:
    """Yield every component of a task with its key, those within another one first."""
    top: dict[str, Component | None] = {
        "dataset": task.dataset,
        "partition": task.partition,
        "protocol": task.protocol,
        "aggregation": task.aggregation,
        "strategy.server": task.strategy.server,
        **_numbered("strategy.local", task.strategy.local),
        "model.network": task.model.network,
    }
    if isinstance(task, Config):
        top["anchor"] = task.anchor
        if isinstance(task.runner, Custom):
            top["runner.engine"] = task.runner.engine
    for path, component in top.items():
        if component:
            yield from _inner(path, component.arguments)
            yield path, component


def _numbered(path: str, given: Component | list[Component] | None) -> dict[str, Component | None]:
    if not isinstance(given, list):
        return {path: given}
    return {f"{path}[{i}]": component for i, component in enumerate(given)}


def _inner(path: str, node: Any) -> Iterator[tuple[str, Component]]:
    for key, value in node.items() if isinstance(node, dict) else ():
        yield from _inner(f"{path}.{key}", value)
        if isinstance(value, dict) and "_target_" in value:
            yield f"{path}.{key}", Component.model_validate(value)


def check(path: str, target: str, arguments: Mapping[str, Any], raw: dict[str, Any]) -> None:
    """Check a component's arguments against the signature of its target.

    Args:
        path: of the component in the configuration.
        target: import path of a class or function.
        arguments: by name.
        raw: the configuration before interpolation, to name the key that the user typed.

    Raises:
        ConfigError: if there is no such target, or an argument is unknown or of the wrong type.
    """
    try:
        called = get_object(target)
    except Exception as error:
        if starved(error):
            raise OutOfMemory from None
        raise ConfigError(
            f"{path}._target_: cannot import {target}: {import_failure(error)}"
        ) from None
    takes, open_ended = _taken(called, arguments)
    for name, value in arguments.items():
        key = source(f"{path}.{name}", raw)
        if name not in takes and not open_ended:
            takers = f"{path} takes {', '.join(takes)}"
            raise ConfigError(
                "; ".join(filter(None, (f"{key}: {UNKNOWN}", takers, near(key, raw))))
            )
        if takes.get(name) is not None:
            _check_value(key, value, takes[name])


def _taken(called: Callable[..., Any], arguments: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """Return the types of what a target takes, and whether it takes more that is not known.

    What it hands on (``**more``) is what the target named by its argument ``of`` takes, or else
    what the class takes that it is derived from, or makes.
    """
    takes: dict[str, Any] = {}
    for one in _handed_on(called, arguments):
        hints = _hints(one)
        for name, parameter in inspect.signature(one).parameters.items():
            if name != "self" and parameter.kind in NAMED:
                takes.setdefault(name, hints.get(name))
        if not _is_open_ended(one):
            return takes, False
    return takes, True


def _handed_on(
    called: Callable[..., Any], arguments: Mapping[str, Any]
) -> Iterator[Callable[..., Any]]:
    """Yield a target, and what its ``**more`` go to, as long as that is known."""
    yield called
    if isinstance(of := arguments.get("of"), str):
        with suppress(Exception):  # who builds it will say what is wrong
            yield from _handed_on(get_object(of), {})
    elif inspect.isclass(called):
        bases = [vars(kind) for kind in called.__mro__[1:-1]]
        yield from (own["__init__"] for own in bases if "__init__" in own)
    elif inspect.isclass(made := _hints(called).get("return")):
        yield from _handed_on(made, {})


def _is_open_ended(target: Callable[..., Any]) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(target).parameters.values())


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    function = target.__init__ if inspect.isclass(target) else target
    try:
        return get_type_hints(function, include_extras=True)
    except (NameError, TypeError):  # annotations that do not resolve outside their module
        return {}


def _check_value(key: str, value: Any, hint: Any) -> None:
    try:
        adapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except (PydanticUserError, PydanticUndefinedAnnotation):  # of a type that is none of its own
        return
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]
        raise ConfigError(f"{key}: {lower(problem['msg'])}, got {problem['input']!r}") from None
