"""The schema of a component: the signature of the class or function that its ``_target_`` names."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from hydra.utils import get_object
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation

from fedmed.errors import ConfigError
from fedmed.refusals import first_line, lower, source


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
        raise ConfigError(f"{path}._target_: {first_line(error)}") from None
    parameters = inspect.signature(called).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    hints = _hints(called)
    for name, value in arguments.items():
        key = source(f"{path}.{name}", raw)
        if name not in parameters and not open_ended:
            raise ConfigError(f"{key}: unknown key; {path} takes {', '.join(parameters)}")
        if name in hints:
            _check_value(key, value, hints[name])


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    function = target.__init__ if inspect.isclass(target) else target
    try:
        return get_type_hints(function, include_extras=True)
    except (NameError, TypeError):  # annotations that do not resolve outside their module
        return {}


def _check_value(key: str, value: Any, hint: Any) -> None:
    try:
        adapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation):
        return
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]
        raise ConfigError(f"{key}: {lower(problem['msg'])}, got {problem['input']!r}") from None
