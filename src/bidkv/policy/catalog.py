"""Every policy by name, and the one resolver from a text to a policy.

The text is `name` or `name:key=value;key=value`, the same on a command line, in the environment and in
Python; a comma separates policies where several are named. Another package adds policies of its own, in
every process, through entry points of the group `bidkv.policies`.
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
from bidkv.policy.published import RULE_POLICIES
from bidkv.policy.published.sglang_rules import SGLANG_POLICIES
from bidkv.protocol.policy import Policy

OWN_POLICIES: tuple[type[Policy], ...] = (Fair, Fast, OnTime, QueueingFloor)
"""This project's own."""

_CATALOG: dict[str, type[Policy]] = {
    str(cls.name): cls for cls in (*CONTRACT_POLICIES, *RULE_POLICIES, *SGLANG_POLICIES, *OWN_POLICIES)
}

ENTRY_POINTS = "bidkv.policies"
"""Group of the entry points that name policy classes of other packages."""

logger = logging.getLogger("bidkv")


_QUOTED = 80
"""Characters of a wrong text that an error shows."""


class PolicySpecError(ValueError):
    """A policy text names what does not exist or gives an impossible value; the message lists what does."""


def available() -> list[str]:
    """Return the names of all policies, sorted."""
    _discover()
    return sorted(_CATALOG)


def register(policy_class: type[Policy]) -> type[Policy]:
    """Add a policy class under its `name`; usable as a decorator.

    Raises:
        ValueError: the name is taken or empty, or holds one of ``: ; , =``.
    """
    name = policy_class.name
    if not isinstance(name, str) or not name or set(name) & set(":;,="):
        raise ValueError(
            f"a policy's name must be a non-empty text without ':', ';', ',' or '=', got {name!r}"
        )
    if name in _CATALOG:
        raise ValueError(f"Policy {name!r} already registered")
    _CATALOG[name] = policy_class
    return policy_class


def resolve(spec: str) -> Policy:
    """Return a fresh policy for `name` or `name:key=value;key=value`.

    Raises:
        PolicySpecError: unknown name or key, or a value of the wrong kind; the message lists what exists.
    """
    name, _, options = spec.strip().partition(":")
    name = name.strip()
    if name not in _CATALOG:
        _discover()
    if name not in _CATALOG:
        raise PolicySpecError(
            f"policy {name[:_QUOTED]!r} does not exist. Available: {', '.join(available())}"
        )
    policy_class = _CATALOG[name]
    arguments = _parse_options(name, policy_class, options)
    try:
        return policy_class(**arguments)
    except ValueError as error:
        raise PolicySpecError(f"policy {name!r}: {error}") from error


def resolve_all(specs: str) -> list[Policy]:
    """Return fresh policies for a comma-separated list; see :func:`resolve`."""
    parts = [part for part in (piece.strip() for piece in specs.split(",")) if part]
    if not parts:
        raise PolicySpecError(f"no policy named. Available: {', '.join(available())}")
    return [resolve(part) for part in parts]


def options_of(name: str) -> dict[str, Any]:
    """Return a policy's options and their defaults, empty when it has none."""
    parameters = inspect.signature(_CATALOG[name]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


@functools.cache
def _discover() -> None:
    """Register the policies of other packages, once; one that cannot be loaded is left out with a warning."""
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            register(entry.load())
        except Exception as error:  # foreign code at import: the other policies must stay usable
            logger.warning(
                "bidkv: policy entry point %s = %s is left out: %r", entry.name, entry.value, error
            )


def _parse_options(name: str, policy_class: type[Policy], text: str) -> dict[str, Any]:
    known = options_of(name)
    parsers = _parsers(policy_class)
    arguments: dict[str, Any] = {}
    for part in (piece.strip() for piece in text.split(";")):
        if not part:
            continue
        key, separator, value = (piece.strip() for piece in part.partition("="))
        if not separator or key not in known:
            options = ", ".join(f"{k}={v}" for k, v in known.items()) or "none"
            raise PolicySpecError(
                f"policy {name!r} has no option {part[:_QUOTED]!r}; options (with defaults): {options}"
            )
        if key in arguments:
            raise PolicySpecError(f"policy {name!r}: option {key!r} is given twice")
        kind, parse = parsers[key]
        try:
            arguments[key] = parse(value)
        except ValueError:
            raise PolicySpecError(
                f"policy {name!r}: option {key!r} must be {kind}, got {value[:_QUOTED]!r}"
            ) from None
    return arguments


def _parsers(policy_class: type[Policy]) -> dict[str, tuple[str, Callable[[str], Any]]]:
    annotations = inspect.get_annotations(policy_class.__init__, eval_str=True)
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
