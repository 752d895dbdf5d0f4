"""Reads a decision log back, the older files of its series first, and says what is wrong with a bad line."""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bidkv.observability.decision_log import CANDIDATE_FIELDS, SCHEMA
from bidkv.observability.log_lines import KINDS, Candidate, DecisionLine, Line, Start
from bidkv.observability.rotating import older_files

_KINDS_OF_VALUE: dict[Any, tuple[str, tuple[type, ...]]] = {
    int: ("an integer", (int,)),
    float: ("a finite number", (int, float)),
    str: ("a text", (str,)),
    bool: ("true or false", (bool,)),
    list[Any]: ("a list", (list,)),
    int | None: ("an integer or null", (int, type(None))),
    float | None: ("a finite number or null", (int, float, type(None))),
    str | None: ("a text or null", (str, type(None))),
}
_CANDIDATE_KINDS = (
    str, float, int, int, int, int | None, int, int, int, int, float | None, float,
)  # fmt: skip
_TERM_KIND = float | None
_LARGEST = 1e300
"""Largest number read: sums of such numbers, and their products with a unit, are finite."""

_CANDIDATE_NAMES = tuple(Candidate.__annotations__)[: len(CANDIDATE_FIELDS)]
"""What a candidate's fields are called on live requests, in the order of the log's own names."""


class LogError(ValueError):
    """A line that is none of a decision log's; the message names file, line, field and what was expected."""


def read_log(path: Path) -> Iterator[Line]:
    """Yield the lines of a log in the order they were written.

    Lines of kinds that a later version added are passed over, and so is a last line that is still being
    written.

    Raises:
        OSError: the log cannot be read.
        LogError: a line is malformed, or of another schema, or there is none.
    """
    is_empty = True
    for file in (*reversed(older_files(path)), path):
        for line in _read_file(file):
            is_empty = False
            yield line
    if is_empty:
        raise LogError(f"{path}: expected a decision log, found no line of one")


def _read_file(file: Path) -> Iterator[Line]:
    with file.open(encoding="utf-8", errors="replace") as source:
        for number, text in enumerate(source, 1):
            if not text.endswith("\n"):
                return
            where = f"{file}, line {number}"
            try:
                record = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise LogError(f"{where}: expected a JSON object, got {text[:60]!r}") from error
            if not isinstance(record, dict) or not isinstance(record.get("kind"), str):
                raise LogError(f"{where}: expected a JSON object with a field 'kind', got {text[:60]!r}")
            kind = KINDS.get(record["kind"])
            if kind is not None:
                yield _build(kind, record, where)


def _build(kind: type[Line], record: dict[str, Any], where: str) -> Line:
    if kind is DecisionLine:
        record["candidates"] = _candidates(record, where)
    values = {name: _checked(record, name, hint, where) for name, hint in _HINTS[kind].items()}
    line = kind(**values)
    if isinstance(line, Start):
        if line.schema != SCHEMA:
            raise LogError(f"{where}: field 'schema': this version reads {SCHEMA}, got {line.schema}")
        for name in ("num_blocks", "block_size"):
            if values[name] < 1:
                raise LogError(f"{where}: field {name!r}: expected at least 1, got {values[name]}")
    return line


_HINTS = {kind: typing.get_type_hints(kind) for kind in KINDS.values()}


def _checked(record: dict[str, Any], name: str, hint: Any, where: str) -> Any:
    if name not in record:
        raise LogError(f"{where}: field {name!r} is missing")
    value = record[name]
    expected = _KINDS_OF_VALUE.get(hint)
    if expected is not None and not _is(value, expected[1]):
        raise LogError(f"{where}: field {name!r}: expected {expected[0]}, got {value!r:.60}")
    return value


def _is(value: Any, kinds: tuple[type, ...]) -> bool:
    if isinstance(value, bool):
        return bool in kinds
    if float in kinds and isinstance(value, int | float):
        return abs(value) <= _LARGEST  # false for NaN and the infinities, which Python's reader takes
    return isinstance(value, kinds)


def _candidates(record: dict[str, Any], where: str) -> list[Candidate]:
    terms, rows = record.get("terms"), record.get("candidates")
    if not isinstance(terms, list) or not isinstance(rows, list) or not rows:
        raise LogError(f"{where}: fields 'terms' and 'candidates': expected lists, candidates not empty")
    if not all(isinstance(term, str) for term in terms):
        raise LogError(f"{where}: field 'terms': expected texts, got {terms!r:.60}")
    columns = [*zip(CANDIDATE_FIELDS, _CANDIDATE_KINDS, strict=True), *((term, _TERM_KIND) for term in terms)]
    width = len(CANDIDATE_FIELDS)
    found = []
    for row in rows:
        if not isinstance(row, list) or len(row) != len(columns):
            raise LogError(f"{where}: field 'candidates': expected rows of {len(columns)} values")
        for (name, hint), value in zip(columns, row, strict=True):
            what, kinds = _KINDS_OF_VALUE[hint]
            if not _is(value, kinds):
                raise LogError(f"{where}: candidate's {name!r}: expected {what}, got {value!r:.60}")
            if hint is int and value < 0 and name != "priority":
                raise LogError(f"{where}: candidate's {name!r}: expected at least 0, got {value}")
        values: dict[str, Any] = dict(zip(_CANDIDATE_NAMES, row, strict=False))
        found.append(Candidate(**values, terms=dict(zip(terms, row[width:], strict=True))))
    return found
