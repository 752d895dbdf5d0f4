"""A trace file as rows with named columns: of a CSV, JSON lines, a JSON document or Parquet."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

from bidkv.workloads.traces.errors import TraceError, fail
from bidkv.workloads.traces.limits import MAX_DOCUMENT_BYTES, MAX_LINE_BYTES
from bidkv.workloads.traces.lines import open_unpacked, read_lines
from bidkv.workloads.traces.table import read_rows, split_header, split_quoted
from bidkv.workloads.traces.values import decode_json

SAMPLE_ROWS = 100
"""Rows looked at before a trace is read: enough to tell its format, time unit and tokens a hash id."""
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Source:
    """A trace file, its container and the beginning of its content.

    Attributes:
        path: the file.
        container: "csv", "json lines", "json" (one document) or "parquet".
        columns: of the table; of JSON rows, the fields of the first one.
        document: the content of a "json" file.
        sample: the first rows, as (row number, values by column); empty for a document that is not a list of
            objects. A CSV cell is bytes.
    """

    path: Path
    container: str
    columns: tuple[str, ...]
    document: Any
    sample: tuple[tuple[int, dict[str, Any]], ...]

    def objects(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield (number, values by name) of every row, streaming where the container allows."""
        if self.container == "csv":
            for number, cells in read_rows(self.path, self.columns):
                yield number, dict(zip(self.columns, cells, strict=True))
        elif self.container == "json lines":
            file = str(self.path)
            for number, line in read_lines(self.path):
                row = decode_json(file, number, line)
                if type(row) is not dict:
                    fail(file, number, "", "one JSON object", row)
                yield number, row
        elif self.container == "json":
            rows = self.document if isinstance(self.document, list) else [self.document]
            for number, row in enumerate(rows, 1):
                if type(row) is not dict:
                    fail(str(self.path), number, "", "one JSON object", row)
                yield number, row
        else:
            yield from _parquet_rows(self.path)

    def tuples(self, names: Sequence[str]) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """Yield (number, the values of the columns `names`); what a JSON row lacks is None.

        A name with dots reaches into the objects of JSON rows.
        """
        if self.container == "csv":
            yield from read_rows(self.path, names)
        elif any("." in name for name in names):
            for number, row in self.objects():
                yield number, tuple([look_up(row, name) for name in names])
        else:
            for number, row in self.objects():
                yield number, tuple([row.get(name) for name in names])

    def has(self, name: str) -> bool:
        """Tell whether the rows have a column, or a field of that dotted name."""
        return name in self.columns or any(look_up(row, name) is not None for _, row in self.sample)


def look_up(row: dict[str, Any], name: str) -> Any:
    """Return a field of a JSON row, by its name or by a path of names with dots; None where there is none."""
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        if type(value) is not dict:
            return None
        value = value.get(part)
    return value


def open_source(path: Path) -> Source:
    """Look at the beginning of a file and tell what contains its rows.

    Raises:
        TraceError: the file cannot be read, or its beginning is neither a table nor JSON.
    """
    with open_unpacked(path) as file:
        head = file.read(4096)
    if head.startswith(b"PAR1"):
        sample = tuple(islice(_parquet_rows(path), SAMPLE_ROWS))
        return Source(path, "parquet", _fields(sample), None, sample)
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"[") or (start.startswith(b"{") and _is_document(path)):
        document = _load_document(path)
        rows = document if isinstance(document, list) else [document]
        sample = tuple((n, r) for n, r in enumerate(rows[:SAMPLE_ROWS], 1) if isinstance(r, dict))
        return Source(path, "json", _fields(sample), document, sample)
    if start.startswith(b"{"):
        return Source(path, "json lines", *_json_lines_head(path))
    line = next(read_lines(path), (0, b""))[1].strip()
    columns = tuple(split_header(str(path), line))
    sample = ()
    if line and len(set(columns)) == len(columns):
        cells = islice(_lenient_rows(path, len(columns)), SAMPLE_ROWS)
        sample = tuple((number, dict(zip(columns, row, strict=True))) for number, row in cells)
    return Source(path, "csv", columns, None, sample)


def _fields(sample: Sequence[tuple[int, dict[str, Any]]]) -> tuple[str, ...]:
    return tuple(sample[0][1]) if sample else ()


def _is_document(path: Path) -> bool:
    """Tell a JSON document from JSON lines: its first line is no whole object, or too long for a row."""
    try:
        with open_unpacked(path) as file:
            line = file.readline(MAX_LINE_BYTES)
            if len(line) == MAX_LINE_BYTES and line[-1:] != b"\n":
                return True
            rest = file.read(1)
    except TraceError:
        return False
    try:
        decode_json(str(path), 1, line.removeprefix(b"\xef\xbb\xbf"))
    except TraceError:
        # One broken line is a broken row; several may be one object written over many lines.
        return (bool(rest) and line.strip() in (b"{", b"")) or line.rstrip().endswith((b"{", b"[", b","))
    return False


def _load_document(path: Path) -> Any:
    read = io.BytesIO()
    with open_unpacked(path) as file:
        # Piece by piece: a reader that unpacks takes the memory of all that it is asked for at once.
        while read.tell() <= MAX_DOCUMENT_BYTES and (piece := file.read(_PIECE_BYTES)):
            read.write(piece)
    content = read.getvalue()
    if len(content) > MAX_DOCUMENT_BYTES:
        expected = f"a JSON document of at most {MAX_DOCUMENT_BYTES:,} bytes; JSON lines may be of any size"
        fail(str(path), 0, "", expected)
    return decode_json(str(path), 1, content.removeprefix(b"\xef\xbb\xbf"))


def _json_lines_head(path: Path) -> tuple[tuple[str, ...], None, tuple[tuple[int, dict[str, Any]], ...]]:
    """The fields of the first row and the rows before the first broken one, which its reader will name."""
    sample = []
    try:
        for number, line in islice(read_lines(path), SAMPLE_ROWS):
            row = decode_json(str(path), number, line)
            if type(row) is not dict:
                break
            sample.append((number, row))
    except TraceError:
        pass
    return _fields(sample), None, tuple(sample)


def _lenient_rows(path: Path, width: int) -> Iterator[tuple[int, list[bytes]]]:
    """The rows below a CSV header, up to the first broken one."""
    try:
        for number, line in islice(read_lines(path), 1, None):
            cells = split_quoted(line) if b'"' in line else line.split(b",", width)
            if len(cells) != width:
                return
            yield number, cells
    except TraceError:
        return


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        parquet = import_module("pyarrow.parquet")
    except ImportError as error:
        raise TraceError(
            f"{path}: a Parquet file: install the extra bidkv[traces], or convert it to CSV"
        ) from error
    try:
        number = 0
        for batch in parquet.ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (OSError, ValueError, RuntimeError, TypeError) as error:  # pyarrow's own errors derive from these
        raise TraceError(f"{path}: expected a Parquet file ({str(error)[:120]})") from error
