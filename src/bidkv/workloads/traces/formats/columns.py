"""Tables with one row a request, told by the names of their columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bidkv.protocol.requests import WorkloadRequest
from bidkv.workloads.traces.clock import Clock, make_clock
from bidkv.workloads.traces.errors import fail
from bidkv.workloads.traces.formats.base import Format, Timing
from bidkv.workloads.traces.limits import MAX_ABS_PRIORITY, MAX_WEIGHT
from bidkv.workloads.traces.options import TraceOptions
from bidkv.workloads.traces.report import TraceReport
from bidkv.workloads.traces.source import Source, look_up
from bidkv.workloads.traces.values import (
    WholeCells,
    find_column,
    fold_name,
    looks_like_date,
    parse_count,
    parse_name,
    parse_number,
    parse_tokens,
    whole,
)

NO_ANSWER = "without an answer, failed or cancelled"
NO_PROMPT = "without a prompt"
_NO_COUNT = (b"", None)
"""What stands for the answer tokens of a request that failed, besides 0."""

_MOST_KEPT = 1000
_LONGEST_KEPT = 256
"""Of rows' further cells: how many, and of how many bytes each, are not parsed anew when they occur again."""

_TIME_WORDS = ("time", "arriv", "start", "created")


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnLayout:
    """Where a table keeps what a request is made of. Names are compared without case, spaces and underscores.

    Attributes:
        prompt: names of the column of prompt tokens, the first one found counts.
        output: names of the column of output tokens.
        time: names of the column of arrivals; () when the table has none.
        time_unit: unit of numeric arrivals, "date" where they are dates; "" when the layout leaves it open,
            so that it must be stated.
        images: names of a column of image counts.
        agent: names of a column with the sender of a request.
        priority: names of a column of priorities; a lower one is more important.
        max_tokens: names of a column of caps.
        weight: names of a column of weights.
        zero_is_failure: rows without prompt tokens are left out and counted too; otherwise they are an error.
        also: columns a table must have besides, to be of this layout.
    """

    prompt: tuple[str, ...]
    output: tuple[str, ...]
    time: tuple[str, ...] = ()
    time_unit: str = ""
    images: tuple[str, ...] = ()
    agent: tuple[str, ...] = ()
    priority: tuple[str, ...] = ()
    max_tokens: tuple[str, ...] = ()
    weight: tuple[str, ...] = ()
    zero_is_failure: bool = False
    also: tuple[str, ...] = ()


def make_column_format(name: str, about: str, layout: ColumnLayout) -> Format:
    """Return the format of tables laid out like `layout`.

    Args:
        name: what the format is called on the command line.
        about: what such a table is, for the list of formats.
        layout: the columns; a table that has them is taken for one of this format.
    """

    def matches(source: Source, options: TraceOptions) -> bool:
        needed = [layout.prompt, layout.output, *((column,) for column in layout.also)]
        if layout.time:
            needed.append(layout.time)
        return all(find_column(source.columns, names) for names in needed)

    def has_times(source: Source, options: TraceOptions) -> bool:
        return bool(layout.time)

    def requests(
        source: Source, options: TraceOptions, report: TraceReport, timing: Timing
    ) -> Iterator[WorkloadRequest]:
        return read_table(source, layout, options, report, timing)

    return Format(name, about, matches, requests, has_times=has_times)


def read_table(
    source: Source,
    layout: ColumnLayout,
    options: TraceOptions,
    report: TraceReport,
    timing: Timing,
    *,
    exact_names: bool = False,
) -> Iterator[WorkloadRequest]:
    """Stream the requests of a table, called "r0", "r1", ... in the order of its rows.

    Rows without an answer are left out and counted: those requests failed.

    Args:
        source: the table.
        layout: what its columns are called, and what they hold.
        options: what the table does not say.
        report: takes what was left out or doubtful.
        timing: how arrivals are moved, or when they are where the table has none.
        exact_names: take the layout's names as they are, with dots for fields within JSON objects; otherwise
            case, spaces and underscores do not matter.

    Raises:
        TraceError: a broken row, rows out of order of time, a column that is missing, or no request at all.
    """
    file = str(source.path)
    find = _first_name if exact_names else _find_in(source)
    prompt_name, output_name = _need(source, layout.prompt, find), _need(source, layout.output, find)
    time_name = _need(source, layout.time, find) if layout.time else None
    images_name = find(layout.images)
    found = (
        (role, column, parse)
        for role, names, parse in (
            ("agent_id", layout.agent, _parse_agent),
            ("priority", layout.priority, _parse_priority),
            ("max_tokens", layout.max_tokens, _parse_cap),
            ("weight", layout.weight, _parse_weight),
        )
        if (column := find(names)) is not None
    )
    extras: list[_Extra] = list(found)
    names = [prompt_name, output_name, *(n for n in (time_name, images_name) if n)]
    names += [column for _, column, _ in extras]
    clock: Clock | None = None
    if time_name is None:
        _warn_times(source, report)
    else:
        sample = [look_up(row, time_name) for _, row in source.sample]
        clock = make_clock(file, time_name, sample, layout.time_unit, options, report)
    start_s, stretch, given = timing.start_s, timing.stretch, timing.given_s
    time_place = 2 if time_name else 0
    images_place = 2 + bool(time_name)
    extra_place = images_place + bool(images_name)
    tokens = parse_count if layout.zero_is_failure or images_name else parse_tokens
    is_csv = source.container == "csv"
    count = WholeCells().__getitem__ if is_csv else whole
    # Rows repeat their senders, priorities and weights; a cap is compared with the row's own answer.
    kept: dict[Any, dict[str, Any]] = {}
    may_keep = is_csv and all(role != "max_tokens" for role, _, _ in extras)
    index = 0
    for number, cells in source.tuples(names):
        prompt = count(cells[0]) or tokens(file, number, prompt_name, cells[0])
        output = count(cells[1])
        if output is None:
            output = 0 if cells[1] in _NO_COUNT else parse_count(file, number, output_name, cells[1])
        arrival_s = clock.read(number, cells[time_place]) if clock is not None else 0.0
        if images_name is not None:
            images = parse_count(file, number, images_name, cells[images_place])
            prompt += images * (options.tokens_per_image or 0)
            if images and options.tokens_per_image is None:
                _warn_images(report, images_name)
        if not prompt or not output:
            report.leave_out(NO_PROMPT if not prompt else NO_ANSWER)
            continue
        if given is not None:
            arrival_s = next(given)
        arrival_s = (arrival_s - start_s) * stretch
        if extras:
            rest = cells[extra_place:]
            fields = kept.get(rest) if may_keep else None
            if fields is None:
                fields = _read_extras(file, number, output, extras, rest)
                if may_keep and len(kept) < _MOST_KEPT and sum(map(len, rest)) <= _LONGEST_KEPT:
                    kept[rest] = fields
            yield WorkloadRequest(f"r{index}", arrival_s, prompt, output, **fields)
        else:
            yield WorkloadRequest(f"r{index}", arrival_s, prompt, output)
        index += 1
    if not index:
        fail(file, 0, "", "at least one request with a prompt and an answer")


_Find = Callable[[tuple[str, ...]], str | None]


def _find_in(source: Source) -> _Find:
    return lambda names: find_column(source.columns, names)


def _first_name(names: tuple[str, ...]) -> str | None:
    return names[0] if names else None


def _need(source: Source, names: tuple[str, ...], find: _Find) -> str:
    column = find(names)
    if column is None:
        fail(str(source.path), 1, "", f"a column called {' or '.join(names)}", ",".join(source.columns))
    return column


def likely_times(source: Source) -> list[str]:
    """Return the columns that may hold arrivals, by their names."""
    return [column for column in source.columns if any(word in fold_name(column) for word in _TIME_WORDS)]


def _warn_times(source: Source, report: TraceReport) -> None:
    """Warn of columns that are called like arrivals and grow like them."""
    for column in likely_times(source):
        cells = [row.get(column) for _, row in source.sample]
        try:
            times = [float(cell) for cell in cells]  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            grows = bool(cells) and all(looks_like_date(cell) for cell in cells)
        else:
            grows = times == sorted(times) and times[0] < times[-1] if times else False
        if grows:
            report.warn(
                f"column {column[:60]!r} looks like arrivals and is not read: --columns time={column[:60]},"
                "prompt=...,output=... reads it"
            )


def _warn_images(report: TraceReport, column: str) -> None:
    report.warn(
        f"column {column!r} counts images, which are not counted as prompt tokens: --tokens-per-image states "
        "how many tokens one is"
    )


_Parse = Callable[[str, int, str, Any, int], Any]
_Extra = tuple[str, str, _Parse]
"""A field of a request besides its lengths: its name, its column, and what parses a cell."""


def _read_extras(
    file: str, number: int, output: int, extras: Sequence[_Extra], cells: Sequence[Any]
) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for (role, column, parse), cell in zip(extras, cells, strict=True):
        if cell is not None and (type(cell) is not bytes or cell.strip()):
            given[role] = parse(file, number, column, cell, output)
    return given


def _parse_agent(file: str, number: int, column: str, cell: Any, output: int) -> str:
    return parse_name(file, number, column, cell)


def _parse_priority(file: str, number: int, column: str, cell: Any, output: int) -> int:
    expected = f"a whole number from -{MAX_ABS_PRIORITY} to {MAX_ABS_PRIORITY}"
    value = cell
    if type(cell) is bytes:
        digits = cell.strip()
        value = int(digits) if digits.removeprefix(b"-").isdigit() and len(digits) < 12 else None
    if type(value) is not int or abs(value) > MAX_ABS_PRIORITY:
        fail(file, number, column, expected, cell)
    return value


def _parse_cap(file: str, number: int, column: str, cell: Any, output: int) -> int:
    cap = parse_tokens(file, number, column, cell)
    if cap < output:
        fail(file, number, column, f"a cap of at least the {output:,} output tokens", cell)
    return cap


def _parse_weight(file: str, number: int, column: str, cell: Any, output: int) -> float:
    expected = f"a number above 0, at most {MAX_WEIGHT:,}"
    weight = float(parse_number(file, number, column, cell, expected))
    if not 0.0 < weight <= MAX_WEIGHT:
        fail(file, number, column, expected, cell)
    return weight
