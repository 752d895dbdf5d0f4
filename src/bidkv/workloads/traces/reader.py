"""One way into every trace: by name or path, whatever its format."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from random import Random

from bidkv.protocol.requests import WorkloadRequest
from bidkv.protocol.sessions import Session
from bidkv.workloads.traces.arrivals import Arrivals, arrival_times_s, check_rate
from bidkv.workloads.traces.clock import doubt_pace
from bidkv.workloads.traces.errors import TraceError, fail
from bidkv.workloads.traces.formats.azure import AZURE_COLUMNS
from bidkv.workloads.traces.formats.base import Format, Timing
from bidkv.workloads.traces.formats.bench_result import BENCH_RESULT
from bidkv.workloads.traces.formats.columns import likely_times
from bidkv.workloads.traces.formats.lengths import COLUMN_PAIRS
from bidkv.workloads.traces.lines import read_lines
from bidkv.workloads.traces.options import TraceOptions
from bidkv.workloads.traces.registry import FORMATS
from bidkv.workloads.traces.report import TraceReport
from bidkv.workloads.traces.shipped import find_trace, require_regular_file
from bidkv.workloads.traces.source import Source, open_source

TRACE_FORMATS: tuple[str, ...] = ("auto", *FORMATS)


@dataclass(frozen=True, slots=True)
class Trace:
    """A trace whose format is known; its requests or sessions are read when they are asked for.

    Attributes:
        source: the file.
        format: its format.
        options: what was stated about it.
        report: what was understood; complete once the trace was read.
    """

    source: Source
    format: Format
    options: TraceOptions
    report: TraceReport

    @property
    def has_sessions(self) -> bool:
        """Whether it holds sessions of several turns, where the next turn waits for the last answer."""
        return self.format.sessions is not None

    def sessions(self, limit: int | None = None) -> list[Session]:
        """Read the sessions, the first `limit` of them.

        Raises:
            TraceError: a broken row, or a format of single requests.
        """
        if self.format.sessions is None:
            raise TraceError(
                f"{self.source.path}: expected sessions of several turns, found {self.format.name}, a format "
                "of single requests"
            )
        _check_limit(limit)
        sessions = self.format.sessions(self.source, self.options, self.report)
        if self.options.time_unit is None:
            doubt_pace(self.report)
        return sessions[:limit]

    def requests(
        self,
        *,
        rate_rps: float | None = None,
        arrivals: Arrivals = "poisson",
        cv: float = 1.0,
        limit: int | None = None,
        seed: int = 0,
    ) -> Iterator[WorkloadRequest]:
        """Stream the requests in order of arrival; see :func:`read_trace` for the arguments.

        Raises:
            TraceError: a trace of sessions, one of lengths without a rate, one whose requests all arrive at
                one instant with a rate, or (while iterating) a broken row.
            ValueError: an argument out of range, or `arrivals` or `cv` for a trace with times of its own.
        """
        path = self.source.path
        read = self.format.requests
        if read is None:
            raise TraceError(
                f"{path}: expected single requests, found sessions whose turns have no times of their own "
                f"({self.format.name}): simulate them as sessions"
            )
        _check_limit(limit)
        if rate_rps is not None:
            check_rate(rate_rps)
        if not self.format.has_times(self.source, self.options):
            if rate_rps is None:
                raise TraceError(
                    f"{path}: a trace of lengths has no timestamps: state a rate (--rate, requests a second)"
                    f"{_possible_times(self.source)}"
                )
            timing = Timing(given_s=arrival_times_s(rate_rps, Random(seed), arrivals, cv))
            return self._counted(islice(read(self.source, self.options, self.report, timing), limit))
        if (arrivals, cv) != ("poisson", 1.0):
            raise ValueError(f"{path} has timestamps of its own: arrivals and cv are for traces of lengths")
        timing = Timing() if rate_rps is None else self._timing_at(rate_rps, limit)
        doubts_pace = rate_rps is None and self.options.time_unit is None and self.format is not BENCH_RESULT
        requests = read(self.source, self.options, self.report, timing)
        return self._counted(islice(requests, limit), doubts_pace)

    def _timing_at(self, rate_rps: float, limit: int | None) -> Timing:
        """Read once for the span of time; time is then stretched to the rate."""
        assert self.format.requests is not None
        aside = TraceReport(str(self.source.path))
        count, first_s, last_s = 0, 0.0, 0.0
        for request in islice(self.format.requests(self.source, self.options, aside, Timing()), limit):
            last_s = request.arrival_s
            first_s = first_s if count else last_s
            count += 1
        if count == 1:
            return Timing(start_s=first_s)
        if last_s <= first_s:
            raise TraceError(
                f"{self.source.path}: its {count:,} requests arrive at one instant: no stretch gives them a "
                "rate"
            )
        return Timing(start_s=first_s, stretch=(count - 1) / (rate_rps * (last_s - first_s)))

    def _counted(
        self, requests: Iterator[WorkloadRequest], doubts_pace: bool = False
    ) -> Iterator[WorkloadRequest]:
        report = self.report
        first = next(requests, None)
        if first is None:
            return
        last, count = first, 0
        try:
            for last in chain((first,), requests):
                count += 1
                yield last
        finally:
            report.requests = count
            report.first_s, report.last_s = first.arrival_s, last.arrival_s
        if doubts_pace:
            doubt_pace(report)


def open_trace(
    path_or_name: str | Path, *, trace_format: str = "auto", options: TraceOptions | None = None
) -> Trace:
    """Look at a trace and tell its format.

    Args:
        path_or_name: a file, or a name out of :func:`available_traces`.
        trace_format: one of `TRACE_FORMATS`; "auto" tells it by the first rows.
        options: what the file does not say.

    Raises:
        TraceError: no such trace, or a file of no known format.
        ValueError: a format that does not exist.
    """
    if trace_format not in TRACE_FORMATS:
        raise ValueError(f"trace_format must be one of {', '.join(TRACE_FORMATS)}, not {trace_format!r}")
    path = find_trace(path_or_name)
    require_regular_file(path)
    options = options or TraceOptions()
    source = open_source(path)
    found = _tell_format(source, options) if trace_format == "auto" else FORMATS[trace_format]
    report = TraceReport(str(path_or_name), found.name)
    return Trace(source, found, options, report)


def read_trace(
    path_or_name: str | Path,
    *,
    trace_format: str = "auto",
    rate_rps: float | None = None,
    arrivals: Arrivals = "poisson",
    cv: float = 1.0,
    limit: int | None = None,
    seed: int = 0,
    options: TraceOptions | None = None,
) -> Iterator[WorkloadRequest]:
    """Stream a trace of single requests from disk, in order of arrival, one request in memory at a time.

    Args:
        path_or_name: a file, or a name out of :func:`available_traces`.
        trace_format: how to read it; "auto" looks at the first rows.
        rate_rps: for a trace with timestamps, time is stretched or squeezed so that the first request
            arrives at 0 s and the n requests read arrive at this mean rate, (n - 1) / (last arrival), their
            bursts kept (the file is read twice, the first time before this returns). For a trace of
            lengths, the rate of the generated arrivals, which it needs. Infinity: all arrive at 0 s. None
            leaves timestamps alone.
        arrivals: for a trace of lengths, "poisson" or "gamma".
        cv: for "gamma", the coefficient of variation of the gaps.
        limit: read at most this many requests; what follows is not looked at.
        seed: of the generated arrivals.
        options: what the file does not say: its time unit, tokens a hash id, columns, ...

    Returns:
        An iterator; each row is checked when it is reached.

    Raises:
        TraceError: no such trace, not a trace, a trace of sessions, or (while iterating) a broken row,
            timestamps that go backwards (equal ones are fine), or no request at all.
        ValueError: an argument out of range, or one that this kind of trace has no use for.
    """
    _check_limit(limit)
    if rate_rps is not None:
        check_rate(rate_rps)
    trace = open_trace(path_or_name, trace_format=trace_format, options=options)
    return trace.requests(rate_rps=rate_rps, arrivals=arrivals, cv=cv, limit=limit, seed=seed)


def read_sessions(
    path: str | Path,
    *,
    trace_format: str = "auto",
    limit: int | None = None,
    options: TraceOptions | None = None,
) -> list[Session]:
    """Read a trace of sessions of several turns, in the order in which they start or stand in the file.

    Args:
        path: the file.
        trace_format: how to read it; "auto" looks at the first rows.
        limit: return at most this many sessions, at least 1; the whole file is read and checked.
        options: what the file does not say.

    Raises:
        TraceError: no such trace, not a trace of sessions, or a broken row.
        ValueError: an argument out of range.
    """
    return open_trace(path, trace_format=trace_format, options=options).sessions(limit)


def detect_format(path: Path, options: TraceOptions | None = None) -> str:
    """Return the name of a trace's format, told by its first rows.

    Args:
        path: the file.
        options: what the file does not say; stated columns decide the format.

    Raises:
        TraceError: a file of no known format; the message says what the common ones look like.
    """
    return _tell_format(open_source(path), options or TraceOptions()).name


def _tell_format(source: Source, options: TraceOptions) -> Format:
    for known in FORMATS.values():
        if known.matches(source, options):
            return known
    line = next(read_lines(source.path), (0, b""))[1].strip() if source.container == "csv" else b""
    if not line and not any(source.columns):
        fail(str(source.path), 0, "", "at least one request; the file is empty")
    for mark, name in ((b";", "semicolons"), (b"\t", "tabs")):
        if len(source.columns) == 1 and mark in line:
            fail(str(source.path), 1, "", f"commas between the cells, not {name}", line)
    choices = " or ".join(map(",".join, (AZURE_COLUMNS, *COLUMN_PAIRS)))
    expected = (
        f"a JSON object (mooncake) or a CSV header with {choices}, or --columns that state what other "
        "columns hold"
    )
    if source.container == "csv":
        fail(str(source.path), 1, "", expected, line)
    fail(str(source.path), 0, "", expected, ",".join(source.columns))


def _possible_times(source: Source) -> str:
    """A hint at columns that may hold arrivals, for a table that is read without any."""
    likely = likely_times(source)
    return f", or --columns time={likely[0][:60]},... if that column holds arrivals" if likely else ""


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit!r}")
