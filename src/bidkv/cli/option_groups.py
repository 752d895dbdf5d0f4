"""Options that belong together as one dataclass, so that commands take them as one argument."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

_Result = TypeVar("_Result")


def expand_groups(command: Callable[..., _Result]) -> Callable[..., _Result]:
    """Return a command whose arguments that are dataclasses are given by one option for each of their fields.

    Args:
        command: a typer command. An argument annotated with a dataclass, whose fields are annotated as typer
            reads options and have defaults, is filled from those options.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, type[Any]] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        kind = hints[name]
        if not (isinstance(kind, type) and is_dataclass(kind)):
            parameters.append(parameter.replace(annotation=hints[name]))
            continue
        groups[name] = kind
        options = get_type_hints(kind, include_extras=True)
        parameters += [
            inspect.Parameter(
                field.name, parameter.kind, default=field.default, annotation=options[field.name]
            )
            for field in fields(kind)
        ]

    @functools.wraps(command)
    def take_options(**values: Any) -> _Result:
        for name, kind in groups.items():
            values[name] = kind(**{field.name: values.pop(field.name) for field in fields(kind)})
        return command(**values)

    take_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    take_options.__annotations__ = {each.name: each.annotation for each in parameters}
    del take_options.__wrapped__  # typer would look at the command's own arguments
    return take_options
