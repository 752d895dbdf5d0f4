"""Values of a trace, checked: counts, times, names and hash ids, of CSV cells or of JSON and Parquet.

A cell of a CSV file is bytes; a value of JSON or Parquet has its own type. `file`, `number` (of the line) and
`column` or field only name the place in the message of a TraceError.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, Never

from bidkv.workloads.traces.errors import TraceError, fail
from bidkv.workloads.traces.limits import MAX_TEXT_CHARS, MAX_TIME_MS, MAX_TOKENS

_TOKENS = f"a whole number from 1 to {MAX_TOKENS:,}"
_COUNT = f"a whole number from 0 to {MAX_TOKENS:,}"
_MOST_DIGITS = len(str(MAX_TOKENS))
_MOST_TIME_DIGITS = 20
_MOST_KEPT = 4000
_MAX_NS = MAX_TIME_MS * 1_000_000
_NUMBER = re.compile(rb"\d{1,20}(\.\d{1,20})?([eE][+-]?\d{1,2})?")
_WHOLE_FLOAT = re.compile(rb"(\d{1,8})\.0{1,6}")
_DATE = re.compile(rb"\s*(\d{4}-\d\d-\d\d[ T]\d\d:\d\d):(\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)?\s*")
_EPOCH = datetime(1970, 1, 1)
DATE_EXPECTED = "a time such as 2023-11-16 18:15:46.6805900"


def parse_tokens(file: str, number: int, column: str, cell: Any) -> int:
    """Return a count of tokens, at least 1; TraceError unless it is a whole number in range."""
    tokens = whole(cell)
    if tokens is None or tokens < 1:
        fail(file, number, column, _TOKENS, cell)
    return tokens


def parse_count(file: str, number: int, column: str, cell: Any) -> int:
    """Return a count that may be 0; TraceError unless it is a whole number in range."""
    tokens = whole(cell)
    if tokens is None:
        fail(file, number, column, _COUNT, cell)
    return tokens


def whole(cell: Any) -> int | None:
    """Return a count, at least 0, in range; None for anything else."""
    # Exact types: a bool is an int in Python, and "12" or 12.0 in JSON is not a count of tokens.
    if type(cell) is bytes:
        digits = cell.strip()
        if digits.isdigit() and len(digits) <= _MOST_DIGITS:
            tokens = int(digits)
            return tokens if tokens <= MAX_TOKENS else None
        # Spreadsheets and pandas write whole numbers so where a cell of the column is empty.
        written = _WHOLE_FLOAT.fullmatch(digits)
        return int(written[1]) if written else None
    return cell if type(cell) is int and 0 <= cell <= MAX_TOKENS else None


class WholeCells(dict[bytes, int | None]):
    """The counts in CSV cells, None for what is none, each parsed once while they are few."""

    def __missing__(self, cell: bytes) -> int | None:
        value = whole(cell)
        if len(self) < _MOST_KEPT and len(cell) <= _MOST_DIGITS:
            self[cell] = value
        return value


def parse_number(file: str, number: int, column: str, cell: Any, expected: str) -> int | Decimal:
    """Return a number from 0 to 10^19, exactly as it is written; TraceError for anything else.

    `expected` says in the message what should stand there.
    """
    value: Any = cell
    if type(cell) is bytes:
        text = cell.strip()
        if text.isdigit() and len(text) <= _MOST_TIME_DIGITS:
            value = int(text)
        else:
            value = Decimal(text.decode("ascii")) if _NUMBER.fullmatch(text) else None
    elif type(cell) is float:
        value = Decimal(repr(cell))
    if type(value) not in (int, Decimal) or not 0 <= value <= _MAX_NS:
        fail(file, number, column, expected, cell)
    return value  # type: ignore[no-any-return]


def parse_decimals(cell: Any) -> float | None:
    """Return the number of a CSV cell with a decimal point; None for anything else."""
    return float(cell) if type(cell) is bytes and b"." in cell and _NUMBER.fullmatch(cell) else None


class DateParser:
    """Turns dates into whole nanoseconds since 1970; a float of seconds would lose their last digits.

    Args:
        file: name of the trace, for messages.
        column: of the dates, for messages.
    """

    def __init__(self, file: str, column: str) -> None:
        self._file = file
        self._column = column
        self._minute = b""
        self._minute_s = 0
        self._start = b""

    def parse(self, number: int, cell: Any) -> int:
        """Return the nanoseconds since 1970 (UTC) of the date in line `number`; TraceError when it is none.

        A date without an offset counts as UTC.
        """
        # Most rows begin as the one above: the same minute, written without an offset.
        if self._start and type(cell) is bytes and cell.startswith(self._start) and cell[19:20] == b".":
            second, fraction = cell[17:19], cell[20:]
            if second.isdigit() and second <= b"59" and fraction.isdigit() and len(fraction) <= 9:
                return (self._minute_s + int(second)) * 1_000_000_000 + int(fraction.ljust(9, b"0"))
        if type(cell) is str:
            cell = cell.encode("utf-8", "replace")
        match = _DATE.fullmatch(cell) if type(cell) is bytes else None
        if match is None:
            fail(self._file, number, self._column, DATE_EXPECTED, cell)
        head, second, fraction, offset = match.groups(b"")
        # Neighbors mostly share their minute, and turning one into seconds is the slow part.
        if head + offset != self._minute:
            seconds = _minute_s(head, offset)
            if seconds is None:
                fail(self._file, number, self._column, DATE_EXPECTED, cell)
            self._minute, self._minute_s = head + offset, seconds
            self._start = b"" if offset else head + b":"
        if second > b"59":
            fail(self._file, number, self._column, DATE_EXPECTED, cell)
        return (self._minute_s + int(second)) * 1_000_000_000 + int(fraction.ljust(9, b"0"))


def looks_like_date(cell: Any) -> bool:
    """Tell whether a value is written as a date."""
    if type(cell) is str:
        cell = cell.encode("utf-8", "replace")
    return type(cell) is bytes and _DATE.fullmatch(cell) is not None


def _minute_s(head: bytes, offset: bytes) -> int | None:
    """Seconds from 1970 to the start of a minute, or None when there is no such minute."""
    try:
        moment = datetime.fromisoformat((head + (b"" if offset == b"Z" else offset)).decode("ascii"))
    except ValueError:
        return None
    since = moment.replace(tzinfo=None) - _EPOCH
    east = moment.utcoffset()
    return int(since.total_seconds() - (east.total_seconds() if east else 0.0))


def parse_name(file: str, number: int, column: str, value: Any, least: int = 0) -> str:
    """Return a name of at least `least` printable characters; a whole number counts as its digits.

    TraceError for what is neither, or longer than the limit of texts.
    """
    if type(value) is bytes:
        value = value.strip().decode("utf-8", "replace")
    elif type(value) is int:
        value = str(value)
    # Printable: control characters and lone surrogates would break logs and terminals later.
    if type(value) is not str or not least <= len(value) <= MAX_TEXT_CHARS or not value.isprintable():
        fail(file, number, column, f"printable text of {least} to {MAX_TEXT_CHARS} characters", value)
    return value


def parse_hash_ids(file: str, number: int, ids: Any, prompt: int, chunk: int) -> tuple[int, ...]:
    """Return the hash ids of a prompt of `prompt` tokens, `chunk` tokens each; () where there are none.

    TraceError when they are no list of whole numbers from 0 to 2^63 - 1, or more than the prompt has chunks.
    """
    if ids is None:
        return ()
    if (
        type(ids) is not list
        or not set(map(type, ids)) <= {int}
        or (ids and not 0 <= min(ids) <= max(ids) < 2**63)
    ):
        fail(file, number, "hash_ids", "a list of whole numbers from 0 to 2**63 - 1", ids)
    chunks = -(-prompt // chunk)
    if len(ids) > chunks:
        expected = (
            f"at most {chunks:,} ids, one for each {chunk} of {prompt:,} prompt tokens "
            "(--tokens-per-hash-id states another size)"
        )
        fail(file, number, "hash_ids", expected, ids)
    return tuple(ids)


def decode_json(file: str, number: int, text: bytes) -> Any:
    """Return JSON data with exact numbers: a number with a point is a Decimal.

    TraceError when `text` is no JSON, or gives a field twice; line 0 stands for the whole file.
    """
    try:
        return _DECODE(text.decode("utf-8"))
    except (ValueError, ArithmeticError, RecursionError) as error:
        place = f"{file}, line {number}" if number else file
        raise TraceError(f"{place}: expected one JSON object ({str(error)[:120]})") from error


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


@lru_cache(maxsize=64)
def fold_name(column: str) -> str:
    """Return a column's name without case, spaces and underscores, as names are compared."""
    return "".join(c for c in column.casefold() if c.isalnum())


def find_column(columns: Sequence[str], names: Sequence[str]) -> str | None:
    """Return the first column that is called one of `names`, whatever its case and spaces."""
    wanted = {fold_name(name) for name in names}
    return next((column for column in columns if fold_name(column) in wanted), None)
