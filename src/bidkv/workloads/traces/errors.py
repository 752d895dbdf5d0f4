"""The one error of a broken trace, and how it quotes what was found."""

from __future__ import annotations

from typing import NoReturn

_MOST_CHARS = 60


class TraceError(ValueError):
    """A trace that cannot be read; the message names file, line, field and what was expected."""


def quote(value: object) -> str:
    """Quote `value` in at most about 60 characters, whatever its size or nesting."""
    if isinstance(value, (bytes, str)):
        # Sliced before repr: the repr of a long value would itself be as long.
        text = repr(value[:_MOST_CHARS]).removeprefix("b")
        return f"{text}... ({len(value):,} long)" if len(value) > _MOST_CHARS else text
    if isinstance(value, list):
        return f"a list of {len(value):,}"
    if isinstance(value, dict):
        return f"an object of {len(value):,} fields"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = str(value)
    return f"{text[:_MOST_CHARS]}..." if len(text) > _MOST_CHARS else text


def fail(file: str, line: int, field: str, expected: str, value: object = ...) -> NoReturn:
    """Raise the :class:`TraceError` for one field of one line.

    Args:
        file: name of the trace.
        line: its line, from 1; 0 when the whole file is meant.
        field: the field or column; "" when the whole line is meant.
        expected: what should have stood there.
        value: what stood there; left out of the message by default.
    """
    place = f"{file}, line {line}" if line else file
    where = f"{place}, field {field[:_MOST_CHARS]!r}" if field else place
    what = "" if value is ... else f", found {quote(value)}"
    raise TraceError(f"{where}: expected {expected}{what}")
