"""The Azure LLM inference traces (Patel et al., ISCA 2024): a CSV of timestamps and token counts.

Columns TIMESTAMP, ContextTokens, GeneratedTokens. A timestamp is "2023-11-16 18:15:46.6805900": up to nine
digits of a second, kept exactly; the 2024 files append an offset from UTC ("+00:00"), which is honored.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from bidkv.protocol.requests import WorkloadRequest
from bidkv.workloads.traces.errors import fail
from bidkv.workloads.traces.table import parse_tokens, read_rows

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")

_EXPECTED = "a time such as 2023-11-16 18:15:46.6805900"
_TIME = re.compile(rb"\s*(\d{4}-\d\d-\d\d[ T]\d\d:\d\d):(\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)?\s*")
_EPOCH = datetime(1970, 1, 1)


def read_azure(path: Path, *, start_s: float = 0.0, stretch: float = 1.0) -> Iterator[WorkloadRequest]:
    """Stream the requests of an Azure trace, called "r0", "r1", ...; the first arrives at 0 s.

    Args:
        path: the file.
        start_s: subtracted from every arrival.
        stretch: every arrival is then multiplied by it.

    Raises:
        TraceError: a broken row, rows out of order of time, or no request at all.
    """
    file = str(path)
    first_ns = last_ns = -1
    minute, minute_s = b"", 0
    for index, (number, (time, context, generated)) in enumerate(read_rows(path, COLUMNS)):
        match = _TIME.fullmatch(time)
        if match is None:
            fail(file, number, "TIMESTAMP", _EXPECTED, time)
        head, second, fraction, offset = match.groups(b"")
        # Neighbors mostly share their minute, and turning one into seconds is the slow part.
        if head + offset != minute:
            minute, minute_s = head + offset, _minute_s(file, number, time, head, offset)
        if second > b"59":
            fail(file, number, "TIMESTAMP", _EXPECTED, time)
        # Whole nanoseconds, as a float of seconds since 1970 would lose the last digits.
        now_ns = (minute_s + int(second)) * 1_000_000_000 + int(fraction.ljust(9, b"0"))
        if index == 0:
            first_ns = now_ns
        elif now_ns < last_ns:
            fail(file, number, "TIMESTAMP", "rows in order of time, none before the one above", time)
        last_ns = now_ns
        yield WorkloadRequest(
            f"r{index}",
            ((now_ns - first_ns) / 1_000_000_000 - start_s) * stretch,
            parse_tokens(file, number, "ContextTokens", context),
            parse_tokens(file, number, "GeneratedTokens", generated),
        )


def _minute_s(file: str, number: int, time: bytes, head: bytes, offset: bytes) -> int:
    """Seconds from 1970 to the start of a minute."""
    try:
        moment = datetime.fromisoformat((head + (b"" if offset == b"Z" else offset)).decode("ascii"))
    except ValueError:
        fail(file, number, "TIMESTAMP", _EXPECTED, time)
    since = moment.replace(tzinfo=None) - _EPOCH
    east = moment.utcoffset()
    return int(since.total_seconds() - (east.total_seconds() if east else 0.0))
