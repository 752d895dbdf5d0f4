"""Mooncake JSON lines, this project's native format: one JSON object a line.

Mooncake's own fields (Qin et al., FAST 2025): `timestamp` (milliseconds), `input_length`, `output_length`
(tokens), and optionally `hash_ids` (one id for each 512 prompt tokens, the last chunk may be partial).
Ours, all optional: `max_tokens`, `priority`, `deadline_ms`, `weight`, `agent_id`, `request_id`. A field
that is null counts as absent; fields of other names are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Never

from bidkv.protocol.requests import WorkloadRequest
from bidkv.workloads.traces.errors import TraceError, fail, found
from bidkv.workloads.traces.limits import (
    HASH_CHUNK_TOKENS,
    MAX_ABS_PRIORITY,
    MAX_TEXT_CHARS,
    MAX_TIME_MS,
    MAX_TOKENS,
    MAX_WEIGHT,
)
from bidkv.workloads.traces.lines import read_lines

OPTIONAL_FIELDS = ("max_tokens", "priority", "deadline_ms", "weight", "agent_id", "request_id")
_OPTIONAL = frozenset(OPTIONAL_FIELDS)
_TOKENS = f"a whole number from 1 to {MAX_TOKENS:,}"
_TIME = f"a number of milliseconds from 0 to {MAX_TIME_MS:,}"


def read_mooncake(path: Path, *, start_s: float = 0.0, stretch: float = 1.0) -> Iterator[WorkloadRequest]:
    """Stream the requests of a Mooncake JSON lines file.

    A request without `request_id` is called "r0", "r1", ... by its place in the file.

    Args:
        path: the file.
        start_s: subtracted from every arrival, which is the timestamp in seconds.
        stretch: every arrival is then multiplied by it.

    Raises:
        TraceError: a broken row, rows out of order of time, a name given twice, or no request at all.
    """
    parse = RowParser(str(path), start_s=start_s, stretch=stretch).parse
    number = 0
    for number, line in read_lines(path):
        yield parse(number, line)
    if not number:
        fail(str(path), 0, "", "at least one request; the file is empty")


class RowParser:
    """Turns the rows of one file, in their order, into requests."""

    def __init__(self, file: str, *, start_s: float = 0.0, stretch: float = 1.0) -> None:
        self._file = file
        self._start_s = start_s
        self._stretch = stretch
        self._last_ms: int | Decimal = 0
        self._index = -1
        self._names = _Names()

    def parse(self, number: int, line: bytes) -> WorkloadRequest:
        """Return the request of line `number`; TraceError when it is broken or out of order."""
        file = self._file
        row = _decode(file, number, line)
        time_ms: Any = row.get("timestamp")
        # Exact types: a bool is an int in Python, and "12" or 12.0 is no count of tokens.
        if type(time_ms) not in (int, Decimal) or not 0 <= time_ms <= MAX_TIME_MS:
            fail(file, number, "timestamp", _TIME, time_ms)
        if time_ms < self._last_ms:
            expected = f"rows in order of time, none before {found(self._last_ms)} ms"
            fail(file, number, "timestamp", expected, time_ms)
        self._last_ms = time_ms
        # Decimal, as float division would not bring every arrival back bit for bit.
        time_s = time_ms / 1000 if type(time_ms) is int else float(time_ms.scaleb(-3))
        prompt: Any = row.get("input_length")
        if type(prompt) is not int or not 1 <= prompt <= MAX_TOKENS:
            fail(file, number, "input_length", _TOKENS, prompt)
        output: Any = row.get("output_length")
        if type(output) is not int or not 1 <= output <= MAX_TOKENS:
            fail(file, number, "output_length", _TOKENS, output)
        hash_ids = row.get("hash_ids")
        extras = _EMPTY if _OPTIONAL.isdisjoint(row) else _optional(file, number, row, output)
        self._index += 1
        return WorkloadRequest(
            self._names.claim(file, number, self._index, extras.pop("request_id", None)),
            (time_s - self._start_s) * self._stretch,
            prompt,
            output,
            hash_ids=() if hash_ids is None else _hash_ids(file, number, hash_ids, prompt),
            **extras,
        )


class _Names:
    """Which names are taken; remembers none of them until a row brings a name of its own."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._leading = 0  # rows before the first named one: r0 ... r(leading - 1)

    def claim(self, file: str, number: int, index: int, own: str | None) -> str:
        """Return the name of row `index`; TraceError when another row has it."""
        if own is None and not self._taken:
            self._leading = index + 1
            return f"r{index}"
        name = f"r{index}" if own is None else own
        digits = name[1:]
        leads = digits.isdecimal() and int(digits) < self._leading and name == f"r{int(digits)}"
        if leads or name in self._taken:
            fail(file, number, "request_id", "a name that no other request has", name)
        self._taken.add(name)
        return name


def _decode(file: str, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = _DECODE(line.decode("utf-8"))
    except (ValueError, ArithmeticError, RecursionError) as error:
        expected = f"one JSON object ({str(error)[:120]})"
        raise TraceError(f"{file}, line {number}: expected {expected}") from error
    if type(row) is not dict:
        fail(file, number, "", "one JSON object", row)
    return row


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        raise ValueError("a field is given twice")
    return row


def _no_constant(name: str) -> Never:
    raise ValueError(f"{name} is no JSON number")


_DECODE = json.JSONDecoder(
    object_pairs_hook=_distinct, parse_constant=_no_constant, parse_float=Decimal
).decode
_EMPTY: dict[str, Any] = {}


def _hash_ids(file: str, number: int, ids: Any, prompt: int) -> tuple[int, ...]:
    if (
        type(ids) is not list
        or not set(map(type, ids)) <= {int}
        or (ids and not 0 <= min(ids) <= max(ids) < 2**63)
    ):
        fail(file, number, "hash_ids", "a list of whole numbers from 0 to 2**63 - 1", ids)
    chunks = -(-prompt // HASH_CHUNK_TOKENS)
    if len(ids) > chunks:
        expected = f"at most {chunks:,} ids, one for each {HASH_CHUNK_TOKENS} of {prompt:,} prompt tokens"
        fail(file, number, "hash_ids", expected, ids)
    return tuple(ids)


def _optional(file: str, number: int, row: dict[str, Any], output: int) -> dict[str, Any]:
    given = {name: row[name] for name in OPTIONAL_FIELDS if row.get(name) is not None}
    for name, value in given.items():
        if name == "max_tokens":
            if type(value) is not int or not output <= value <= MAX_TOKENS:
                expected = f"a whole number from output_length ({output}) to {MAX_TOKENS:,}"
                fail(file, number, name, expected, value)
        elif name == "priority":
            if type(value) is not int or abs(value) > MAX_ABS_PRIORITY:
                fail(
                    file,
                    number,
                    name,
                    f"a whole number from -{MAX_ABS_PRIORITY} to {MAX_ABS_PRIORITY}",
                    value,
                )
        elif name in ("agent_id", "request_id"):
            least = 1 if name == "request_id" else 0
            # Printable: control characters and lone surrogates would break logs and terminals later.
            if type(value) is not str or not least <= len(value) <= MAX_TEXT_CHARS or not value.isprintable():
                fail(file, number, name, f"printable text of {least} to {MAX_TEXT_CHARS} characters", value)
        else:
            most = MAX_TIME_MS if name == "deadline_ms" else MAX_WEIGHT
            if type(value) not in (int, Decimal) or not 0 < value <= most or not float(value):
                fail(file, number, name, f"a number above 0, at most {most:,}", value)
            given[name] = float(value)
    return given
