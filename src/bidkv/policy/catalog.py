"""Every policy by name, and the one resolver from a text to a policy.

The text is `name` or `name:key=value;key=value`, the same on a command line, in the environment and in
Python; a comma separates policies in a list. Names are hyphenated; an underscore is read as a hyphen, so that
the older `sglang_default` and `slack_aware` keep working. Another package adds its policies, in every
process, through entry points of the group `bidkv.policies`.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from bidkv.policy.contract_strategies import CONTRACT_POLICIES
from bidkv.policy.own.fair import Fair
from bidkv.policy.own.fast import Fast
from bidkv.policy.own.on_time import OnTime
from bidkv.policy.own.queueing_floor import QueueingFloor
from bidkv.policy.own.sessions import Sessions
from bidkv.policy.published import RULE_POLICIES, SESSION_POLICIES
from bidkv.policy.published.sglang_rules import SGLANG_POLICIES
from bidkv.protocol.policy import Policy
from bidkv.protocol.texts import split_list

OWN_POLICIES: tuple[type[Policy], ...] = (Fair, Fast, OnTime, QueueingFloor, Sessions)
"""This project's own."""

_CATALOG: dict[str, type[Policy]] = {
    str(cls.name): cls
    for cls in (*CONTRACT_POLICIES, *RULE_POLICIES, *SESSION_POLICIES, *SGLANG_POLICIES, *OWN_POLICIES)
}

ENTRY_POINTS = "bidkv.policies"
"""Entry-point group that lists the policy classes of other packages."""

logger = logging.getLogger("bidkv")


_QUOTED_CHARS = 80
"""An error message quotes at most this much of a wrong text, which may be a whole file."""


class PolicySpecError(ValueError):
    """A policy text with an unknown name or option, or an impossible value; the message lists what exists."""


def available() -> list[str]:
    """Return the names of all policies, sorted."""
    _discover()
    return sorted(_CATALOG)


def register(policy_class: type[Policy]) -> type[Policy]:
    """Add a policy class under its `name`; usable as a decorator.

    Raises:
        ValueError: it is not a subclass of :class:`Policy`, or its name is taken or empty, or has a blank or
            one of ``: ; , =``.
    """
    if not (isinstance(policy_class, type) and issubclass(policy_class, Policy)):
        raise ValueError(f"expected a subclass of bidkv.protocol.policy.Policy, got {policy_class!r:.80}")
    name = policy_class.name
    if not isinstance(name, str) or name.split() != [name] or set(name) & set(":;,="):
        raise ValueError(
            f"a policy's name must be a non-empty text without blanks, ':', ';', ',' or '=', got {name!r:.80}"
        )
    if name in _CATALOG or _hyphenated(name) in _CATALOG:
        raise ValueError(f"Policy {name!r} already registered")
    _CATALOG[name] = policy_class
    return policy_class


def resolve(spec: str) -> Policy:
    """Return a fresh policy for `name` or `name:key=value;key=value`.

    Raises:
        PolicySpecError: unknown name or key, or a value of the wrong kind; the message lists what exists.
        ValueError: a policy of another package cannot be made: its ``__init__`` or its annotations fail.
    """
    name, colon, options = spec.strip().partition(":")
    name = name.strip()
    policy_class = _find(name)
    if policy_class is None:
        raise PolicySpecError(
            f"policy {name[:_QUOTED_CHARS]!r} does not exist. Available: {', '.join(available())}"
        )
    arguments = _parse_options(name, policy_class, options) if colon else {}
    try:
        return policy_class(**arguments)
    except ValueError as error:
        raise PolicySpecError(f"policy {name!r}: {error}") from error
    except Exception as error:  # other packages' code may raise anything
        raise ValueError(f"policy {name!r} cannot be made: {error!r:.200}") from error


def resolve_all(specs: str) -> list[Policy]:
    """Return fresh policies for a comma-separated list; see :func:`resolve`."""
    try:
        parts = split_list(specs)
    except ValueError as error:
        raise PolicySpecError(f"{error}. Available: {', '.join(available())}") from error
    return [resolve(part) for part in parts]


def policy_options(name: str) -> dict[str, Any]:
    """Return the options of the policy `name` with their defaults; empty when it has none.

    Raises:
        PolicySpecError: there is no such policy.
    """
    policy_class = _find(name)
    if policy_class is None:
        raise PolicySpecError(f"policy {name[:_QUOTED_CHARS]!r} does not exist")
    return _options(policy_class)


def _find(name: str) -> type[Policy] | None:
    """Return the class registered under `name`, or under its hyphenated spelling."""
    if name not in _CATALOG and _hyphenated(name) not in _CATALOG:
        _discover()
    return _CATALOG.get(name) or _CATALOG.get(_hyphenated(name))


def _hyphenated(name: str) -> str:
    return name.replace("_", "-")


def _options(policy_class: type[Policy]) -> dict[str, Any]:
    parameters = inspect.signature(policy_class).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


@functools.cache
def _discover() -> None:
    """Register the policies of other packages, once. One that cannot be loaded is skipped with a warning."""
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            policy_class = entry.load()
            if policy_class not in _CATALOG.values():  # its module may hold @register as well
                register(policy_class)
        except Exception as error:  # other packages' code may raise anything when imported
            logger.warning("bidkv: policy entry point %s = %s is skipped: %r", entry.name, entry.value, error)


def _parse_options(name: str, policy_class: type[Policy], text: str) -> dict[str, Any]:
    known = _options(policy_class)
    parsers = _parsers(policy_class)
    arguments: dict[str, Any] = {}
    for part in (piece.strip() for piece in text.split(";")):
        if not part:
            raise PolicySpecError(
                f"policy {name!r}: expected key=value;key=value after the ':', found {text[:_QUOTED_CHARS]!r}"
            )
        key, separator, value = (piece.strip() for piece in part.partition("="))
        if not separator or key not in known:
            options = ", ".join(f"{k}={v}" for k, v in known.items()) or "none"
            raise PolicySpecError(
                f"policy {name!r} has no option {part[:_QUOTED_CHARS]!r}; options (with defaults): {options}"
            )
        if key in arguments:
            raise PolicySpecError(f"policy {name!r}: option {key!r} is given twice")
        if key not in parsers:
            raise PolicySpecError(
                f"policy {name!r}: option {key!r} cannot be given as text: its annotation in __init__ must "
                "be int, float, str, bool or int | None"
            )
        kind, parse = parsers[key]
        try:
            arguments[key] = parse(value)
        except ValueError:
            raise PolicySpecError(
                f"policy {name!r}: option {key!r} must be {kind}, got {value[:_QUOTED_CHARS]!r}"
            ) from None
    return arguments


def _parsers(policy_class: type[Policy]) -> dict[str, tuple[str, Callable[[str], Any]]]:
    try:
        annotations = inspect.get_annotations(policy_class.__init__, eval_str=True)
    except NameError as error:  # an annotation that is imported for type checkers alone
        raise ValueError(f"policy {policy_class.name!r}: annotations of __init__: {error}") from error
    kinds: dict[Any, tuple[str, Callable[[str], Any]]] = {
        int: ("an integer", int),
        float: ("a finite number", _finite),
        str: ("a text", str),
        bool: ("true or false", _boolean),
        int | None: ("an integer or none", lambda text: None if text.lower() == "none" else int(text)),
    }
    return {key: kinds[kind] for key, kind in annotations.items() if kind in kinds}


def _finite(text: str) -> float:
    value = float(text)
    if value - value != 0.0:  # NaN and the infinities
        raise ValueError(text)
    return value


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"
