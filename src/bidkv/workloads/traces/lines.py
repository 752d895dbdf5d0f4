"""Lines of a trace file, streamed: never more than one of them in memory."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bidkv.workloads.traces.errors import TraceError, fail
from bidkv.workloads.traces.limits import MAX_LINE_BYTES

_BOM = b"\xef\xbb\xbf"


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (line number from 1, line without its ending) for every line of `path`.

    A UTF-8 byte order mark is dropped, CRLF and LF both end a line, and empty lines are allowed at the
    end of the file only.

    Raises:
        TraceError: the file cannot be read, a line is over 1 MiB, or an empty line has data after it.
    """
    blank = 0
    try:
        with path.open("rb") as file:
            if file.read(3) != _BOM:
                file.seek(0)
            for number, line in enumerate(iter(partial(file.readline, MAX_LINE_BYTES), b""), 1):
                if len(line) == MAX_LINE_BYTES and line[-1:] != b"\n":
                    fail(str(path), number, "", f"a line of at most {MAX_LINE_BYTES:,} bytes")
                body = line.rstrip(b"\r\n")
                if not body:
                    blank = blank or number
                elif blank:
                    fail(str(path), blank, "", "a request (empty lines may only end the file)", body)
                else:
                    yield number, body
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error}") from error
