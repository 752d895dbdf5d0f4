"""Lines of a trace file, streamed and unpacked on the way: never more than one of them in memory."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from bidkv.workloads.traces.errors import TraceError, fail
from bidkv.workloads.traces.limits import MAX_LINE_BYTES

_BOM = b"\xef\xbb\xbf"
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"


@contextmanager
def open_unpacked(path: Path) -> Iterator[IO[bytes]]:
    """Open `path` for reading, unpacked when it is a gzip or Zstandard file, whatever its name says.

    Raises:
        TraceError: the file cannot be read or unpacked, or Zstandard is not installed.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(4)
            file.seek(0)
            if magic.startswith(_GZIP):
                with gzip.open(file) as unpacked:
                    yield unpacked  # type: ignore[misc]
            elif magic == _ZSTD:
                module = _zstd_module(path)
                try:
                    with module.ZstdDecompressor().stream_reader(file) as unpacked:
                        yield io.BufferedReader(unpacked)
                except module.ZstdError as error:
                    raise TraceError(f"{path}: cannot be unpacked: {error}") from error
            else:
                yield file
    except (OSError, EOFError, zlib.error) as error:
        raise TraceError(f"{path}: cannot be read: {error}") from error


def _zstd_module(path: Path) -> Any:
    try:
        return import_module("zstandard")
    except ImportError as error:
        raise TraceError(
            f"{path}: a Zstandard file: install the package zstandard, or unpack it first"
        ) from error


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (line number from 1, line without its ending) for every line of `path`.

    A UTF-8 byte order mark is dropped, CRLF and LF both end a line, and empty lines are allowed at the
    end of the file only.

    Raises:
        TraceError: the file cannot be read, a line is over 1 MiB, or an empty line has data after it.
    """
    blank = 0
    with open_unpacked(path) as file:
        for number, line in enumerate(iter(partial(file.readline, MAX_LINE_BYTES), b""), 1):
            if len(line) == MAX_LINE_BYTES and line[-1:] != b"\n":
                fail(str(path), number, "", f"a line of at most {MAX_LINE_BYTES:,} bytes")
            body = line.rstrip(b"\r\n")
            if number == 1:
                body = body.removeprefix(_BOM)
            if not body:
                blank = blank or number
            elif blank:
                fail(str(path), blank, "", "a request (empty lines may only end the file)", body)
            else:
                yield number, body
