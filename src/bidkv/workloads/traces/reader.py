"""One way into every trace: by name or path, whatever its format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import Literal

from bidkv.protocol.requests import WorkloadRequest
from bidkv.workloads.traces.arrivals import Arrivals, arrival_times_s, check_rate
from bidkv.workloads.traces.azure import COLUMNS as AZURE_COLUMNS
from bidkv.workloads.traces.azure import read_azure
from bidkv.workloads.traces.errors import TraceError, fail
from bidkv.workloads.traces.lengths import COLUMN_PAIRS, find_columns, read_lengths
from bidkv.workloads.traces.lines import read_lines
from bidkv.workloads.traces.mooncake import read_mooncake
from bidkv.workloads.traces.shipped import find_trace, require_regular_file
from bidkv.workloads.traces.table import split_header

TraceFormat = Literal["auto", "mooncake", "azure", "lengths"]
TRACE_FORMATS: tuple[TraceFormat, ...] = ("auto", "mooncake", "azure", "lengths")


def read_trace(
    path_or_name: str | Path,
    *,
    trace_format: TraceFormat = "auto",
    rate_rps: float | None = None,
    arrivals: Arrivals = "poisson",
    cv: float = 1.0,
    limit: int | None = None,
    seed: int = 0,
) -> Iterator[WorkloadRequest]:
    """Stream a trace from disk, in order of arrival, one request in memory at a time.

    Args:
        path_or_name: a file, or a name out of :func:`available_traces`.
        trace_format: how to read it; "auto" looks at the first line.
        rate_rps: for a trace with timestamps, time is stretched or squeezed so that the first request
            arrives at 0 s and the n requests read arrive at this mean rate, (n - 1) / (last arrival), their
            bursts kept (the file is read twice, the first time before this returns). For a trace of
            lengths, the rate of the generated arrivals, which it needs. Infinity: all arrive at 0 s. None
            leaves timestamps alone.
        arrivals: for a trace of lengths, "poisson" or "gamma".
        cv: for "gamma", the coefficient of variation of the gaps.
        limit: read only the first so many requests; what follows is not looked at.
        seed: of the generated arrivals.

    Returns:
        An iterator; each row is checked when it is reached.

    Raises:
        TraceError: no such trace, not a trace, or (while iterating) a broken row, timestamps that go
            backwards (equal ones are fine), or no request at all.
        ValueError: an argument out of range, or one that this kind of trace has no use for.
    """
    if trace_format not in TRACE_FORMATS:
        raise ValueError(f"trace_format must be one of {', '.join(TRACE_FORMATS)}, not {trace_format!r}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit!r}")
    if rate_rps is not None:
        check_rate(rate_rps)
    path = find_trace(path_or_name)
    require_regular_file(path)
    kind = detect_format(path) if trace_format == "auto" else trace_format
    if kind == "lengths":
        if rate_rps is None:
            raise TraceError(
                f"{path}: a trace of lengths has no timestamps: state a rate (requests a second)"
            )
        return islice(read_lengths(path, arrival_times_s(rate_rps, Random(seed), arrivals, cv)), limit)
    if (arrivals, cv) != ("poisson", 1.0):
        raise ValueError(f"{path} has timestamps of its own: arrivals and cv are for traces of lengths")
    reader = read_azure if kind == "azure" else read_mooncake
    if rate_rps is None:
        return islice(reader(path), limit)
    return _at_rate(path, reader, rate_rps, limit)


def detect_format(path: Path) -> TraceFormat:
    """Tell the format of a trace by its first line.

    Raises:
        TraceError: the line fits none of the three; the message says what each looks like.
    """
    line = next(read_lines(path), (0, b""))[1].strip()
    if line.startswith(b"{"):
        return "mooncake"
    header = split_header(str(path), line)
    if set(AZURE_COLUMNS) <= set(header):
        return "azure"
    if find_columns(header):
        return "lengths"
    choices = " or ".join(map(",".join, (AZURE_COLUMNS, *COLUMN_PAIRS)))
    fail(str(path), 1, "", f"a JSON object (mooncake) or a CSV header with {choices}", line)


def _at_rate(
    path: Path, reader: Callable[..., Iterator[WorkloadRequest]], rate_rps: float, limit: int | None
) -> Iterator[WorkloadRequest]:
    """Read once for the span of time, and once more with time stretched to the rate."""
    count, first_s, last_s = 0, 0.0, 0.0
    for request in islice(reader(path), limit):
        last_s = request.arrival_s
        first_s = first_s if count else last_s
        count += 1
    if count == 1:
        return islice(reader(path, start_s=first_s), limit)
    if last_s <= first_s:
        raise TraceError(
            f"{path}: its {count:,} requests arrive at one instant: no stretch gives them a rate"
        )
    stretch = (count - 1) / (rate_rps * (last_s - first_s))
    return islice(reader(path, start_s=first_s, stretch=stretch), limit)
