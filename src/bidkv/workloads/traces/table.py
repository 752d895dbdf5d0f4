"""Tables written as CSV: the header, and the cells of a row."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path

from bidkv.workloads.traces.errors import fail
from bidkv.workloads.traces.lines import read_lines

_MOST_COLUMNS = 256


def split_header(file: str, line: bytes) -> list[str]:
    """Return the column names of a CSV header, without spaces around them.

    Args:
        file: its name, for messages.
        line: the header.

    Raises:
        TraceError: there are more than 256 columns, or one occurs twice.
    """
    cells = split_quoted(line) if b'"' in line else line.split(b",", _MOST_COLUMNS)
    if len(cells) > _MOST_COLUMNS:
        fail(file, 1, "", f"a header of at most {_MOST_COLUMNS} columns", line)
    columns = [cell.strip().decode("utf-8", "replace") for cell in cells]
    for column in columns:
        if columns.count(column) > 1:
            fail(file, 1, column[:_MOST_COLUMNS], "each column once")
    return columns


def split_quoted(line: bytes) -> list[bytes]:
    """Return the cells of a line in which some stand in quotes."""
    try:
        cells = next(csv.reader([line.decode("utf-8", "replace")]), [])
    except csv.Error:
        return [line]  # no row of any table has this one cell, so its reader names it
    return [cell.encode() for cell in cells]


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, tuple[bytes, ...]]]:
    """Yield (line number, the cells of `columns` in that order) for every row below the header.

    Cells are separated by commas and may stand in quotes. Other columns are ignored.

    Raises:
        TraceError: a column is missing or occurs twice, a row has more or fewer cells than the header, or
            there is no row.
    """
    file = str(path)
    lines = read_lines(path)
    number, header_line = next(lines, (0, b""))
    header = split_header(file, header_line.strip())
    for column in columns:
        if column not in header:
            fail(file, 1, column, f"a header with the columns {', '.join(columns):.300}", header_line)
    take = _taker([header.index(column) for column in columns])
    width = len(header)
    for number, line in lines:
        cells = split_quoted(line) if b'"' in line else line.split(b",", width)
        if len(cells) != width:
            fail(file, number, "", f"{width} cells, as the header has", line)
        yield number, take(cells)
    if number < 2:
        fail(file, 0, "", "at least one request below the header; there is none")


def _taker(places: Sequence[int]) -> Callable[[Sequence[bytes]], tuple[bytes, ...]]:
    """Return what takes the cells at some places out of a row, as fast as Python does it."""
    if len(places) > 1:
        return itemgetter(*places)
    return lambda cells: tuple([cells[place] for place in places])
