"""What a policy is shown can be read and not written, at no cost to those who read.

A view holds what policies read in plain attributes, because reading a property takes several times as long. A
sealed view refuses to have them changed; the engine's side changes them with :func:`write_facts`.
"""

from __future__ import annotations

import functools
from typing import Any, NoReturn, TypeVar

View = TypeVar("View", bound=object)


def seal(view: View) -> View:
    """Return `view` itself, which refuses every write to an attribute from now on, also to a new one.

    Its class becomes a subclass of what it was; reading is as fast as before.
    """
    kind: Any = type(view)
    view.__class__ = _sealed_class(kind)
    return view


def write_facts(view: object, **facts: object) -> None:
    """Change attributes of a sealed view; for the engine's side alone, at events."""
    for name, value in facts.items():
        object.__setattr__(view, name, value)


@functools.cache
def _sealed_class(kind: type[Any]) -> type[Any]:
    # A second base would have to come first, and instances could not change to a class of another layout.
    refusals = {"__setattr__": _refuse_write, "__delattr__": _refuse_deletion}
    return type(kind.__name__, (kind,), {"__slots__": (), "__module__": kind.__module__, **refusals})


def _refuse_write(view: object, name: str, value: object) -> NoReturn:
    raise AttributeError(f"a policy must not write to {_describe(view, name)}")


def _refuse_deletion(view: object, name: str) -> NoReturn:
    raise AttributeError(f"a policy must not delete {_describe(view, name)}")


def _describe(view: object, name: str) -> str:
    return f"what it is shown: {name} of a {type(view).__name__}"
