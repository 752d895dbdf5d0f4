"""Arrival times of a trace: which unit they are in, and each of them in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Protocol

from bidkv.protocol.texts import plain_number
from bidkv.workloads.traces.errors import TraceError, fail, quote
from bidkv.workloads.traces.limits import MAX_TIME_MS
from bidkv.workloads.traces.options import TIME_UNITS, TraceOptions
from bidkv.workloads.traces.report import TraceReport
from bidkv.workloads.traces.values import DateParser, looks_like_date, parse_decimals, parse_number

IMPLAUSIBLE_RPS = 1000.0
"""Arrivals a second above which a unit is doubted; the busiest published traces have a few hundred."""

FEWEST_FOR_DOUBT = 10
"""Rows from which on a rate says anything about the unit."""

UNIX_TIME_S = 1e8
"""Times from here on (the year 1973) count from 1970 and not from the start of the trace."""

_UNIX_MAGNITUDES = {"s": 1.2e9, "ms": 1.2e12, "us": 1.2e15, "ns": 1.2e18}
"""Times of the years 2008 to 2106 in each unit lie from here to three and a half times that."""

_BUSY_RPS = 20.0
_SHORT_S = 60.0
"""A busier and shorter trace than this may count a coarser unit than its format's."""

_SLOW_RPS = 0.01
"""A slower trace than this may count a finer unit than its format's."""

_POWERS = {"s": 0, "ms": -3, "us": -6, "ns": -9}
_WORDS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}


class Clock(Protocol):
    """Turns the times of a trace's rows, in their order, into seconds."""

    def read(self, number: int, cell: Any) -> float:
        """Return the arrival of row `number`; TraceError when it is none, or before the one above."""


def make_clock(
    file: str,
    column: str,
    sample: Sequence[Any],
    unit: str,
    options: TraceOptions,
    report: TraceReport,
    *,
    from_1970: bool = True,
) -> Clock:
    """Return the clock of a column: of dates, which start at 0, or of numbers in a unit.

    Args:
        file: name of the trace.
        column: of the times.
        sample: its first values.
        unit: the format's unit of numbers, or "date"; "" when it has none and `options` must state it.
        options: what was stated.
        report: where the unit is written down.
        from_1970: times that count from 1970 are moved so that the first request arrives at 0 s; else only
            those of at least 10 requests.

    Raises:
        TraceError: the unit is not stated, or makes the arrivals implausible.
    """
    if (sample and looks_like_date(sample[0])) or (unit == "date" and options.time_unit is None):
        if sample and _plain_number(sample[0]) is not None:
            raise TraceError(
                f"{file}, field {column!r}: expected dates, found {quote(sample[0])}: --time-unit s or ms "
                "states what numbers count"
            )
        report.time_unit = "date"
        return _Dates(file, column)
    stated = options.time_unit
    if stated is None and not unit:
        raise TraceError(
            f"{file}, field {column!r}: expected the unit of its times to be stated: --time-unit s or ms"
        )
    times = [t for t in map(_plain_number, sample) if t is not None]
    counted = unix_unit(times[0]) if times and stated is None else None
    if not from_1970 and len(times) < FEWEST_FOR_DOUBT:
        counted = None  # a few requests of a long trace, cut out of it
    chosen = stated or counted or unit
    if stated is None and counted is None:
        _doubt(file, column, times, chosen, report)
    report.time_unit = chosen
    first: int | Decimal = 0
    if times and (counted or (from_1970 and times[0] * TIME_UNITS[chosen] >= UNIX_TIME_S)):
        first = parse_number(file, 0, column, sample[0], "a number")
        report.note(f"times count {_WORDS[chosen]} from 1970; the first request arrives at 0 s")
    return Numbers(file, column, chosen, first)


def unix_unit(first: float | Decimal) -> str | None:
    """Return the unit in which a first time counts from 1970, told by its size; None for a smaller time."""
    return next((u for u, least in _UNIX_MAGNITUDES.items() if least <= first < 3.5 * least), None)


def doubt_pace(report: TraceReport) -> None:
    """Warn of a trace so busy or so slow that its format's unit may not be the file's."""
    count, what = (report.sessions, "sessions") if report.sessions else (report.requests, "requests")
    unit = report.time_unit
    if count < FEWEST_FOR_DOUBT or report.span_s <= 0.0 or unit not in _WORDS:
        return
    rate = (count - 1) / report.span_s
    units = list(_WORDS)
    place = units.index(unit)
    if place and rate > _BUSY_RPS and report.span_s < _SHORT_S:
        other = units[place - 1]
    elif place + 1 < len(units) and rate < _SLOW_RPS:
        other = units[place + 1]
    else:
        return
    report.warn(
        f"{count:,} {what} within {plain_number(report.span_s, 3)} s, read in {_WORDS[unit]}; if the file "
        f"counts {_WORDS[other]}, state --time-unit {other}"
    )


def _doubt(file: str, column: str, times: list[float], unit: str, report: TraceReport) -> None:
    """Refuse a unit that makes thousands arrive in a second where a coarser one would not."""
    if len(times) < 2 or times[-1] <= times[0]:
        return
    span_s = (times[-1] - times[0]) * TIME_UNITS[unit]
    rate = (len(times) - 1) / span_s
    if rate <= IMPLAUSIBLE_RPS or unit == "s":
        return
    text = (
        f"{len(times):,} requests would arrive within {plain_number(span_s, 3)} s if {column!r} counted "
        f"{_WORDS[unit]} ({rate:,.0f} a second): state --time-unit {unit} if so, or --time-unit s"
    )
    if len(times) >= FEWEST_FOR_DOUBT:
        raise TraceError(f"{file}, field {column!r}: expected a plausible rate; {text}")
    report.warn(text)


def _plain_number(cell: Any) -> float | None:
    try:
        return float(cell) if type(cell) in (bytes, int, float, Decimal) else None
    except (ValueError, OverflowError):
        return None


class _Dates:
    def __init__(self, file: str, column: str) -> None:
        self._file = file
        self._column = column
        self._parse = DateParser(file, column).parse
        self._first_ns = -1
        self._last_ns = -1

    def read(self, number: int, cell: Any) -> float:
        now_ns = self._parse(number, cell)
        if self._first_ns < 0:
            self._first_ns = now_ns
        elif now_ns < self._last_ns:
            expected = "rows in order of time, none before the one above (sort them first)"
            fail(self._file, number, self._column, expected, cell)
        self._last_ns = now_ns
        return (now_ns - self._first_ns) / 1_000_000_000


class Numbers:
    """Times as numbers in a unit.

    Args:
        file: name of the trace.
        column: of the times.
        unit: a key of `TIME_UNITS`.
        first: what counts as 0 s.
    """

    def __init__(self, file: str, column: str, unit: str, first: int | Decimal = 0) -> None:
        self._file = file
        self._column = column
        self._power = _POWERS[unit]
        self._divisor: int = 10**-self._power
        self._first = first
        self._last: float | Decimal = 0
        self._is_plain = self._power == 0 and not first
        self._most = int(MAX_TIME_MS * 10 ** (-self._power - 3)) if self._power <= -3 else MAX_TIME_MS // 1000
        self._expected = f"a number of {_WORDS[unit]} from 0 to {self._most:,}"

    def read(self, number: int, cell: Any) -> float:
        """Return the arrival of row `number` in seconds."""
        # Seconds as they are written need no exact arithmetic, which is slow.
        seconds = parse_decimals(cell) if self._is_plain else None
        if seconds is not None:
            self._check(number, cell, seconds)
            return seconds
        time = parse_number(self._file, number, self._column, cell, self._expected)
        self._check(number, cell, time)
        if self._first:
            time -= self._first
        # Decimal, as float division would not bring every arrival back bit for bit.
        if isinstance(time, int):
            return time / self._divisor
        return float(time.scaleb(self._power))

    def _check(self, number: int, cell: Any, time: float | Decimal) -> None:
        if time > self._most:
            fail(self._file, number, self._column, self._expected, cell)
        if time < self._last:
            expected = f"rows in order of time, none before {quote(self._last)}{self._name} (sort them first)"
            fail(self._file, number, self._column, expected, cell)
        self._last = time

    @property
    def _name(self) -> str:
        return {0: " s", -3: " ms", -6: " us", -9: " ns"}[self._power]
