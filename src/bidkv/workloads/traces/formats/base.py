"""What a trace format is: how it is told, and how its requests or sessions are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bidkv.protocol.requests import WorkloadRequest
from bidkv.protocol.sessions import Session
from bidkv.workloads.traces.options import TraceOptions
from bidkv.workloads.traces.report import TraceReport
from bidkv.workloads.traces.source import Source


@dataclass(frozen=True, slots=True)
class Timing:
    """How arrivals are moved when a trace is played at another rate.

    Attributes:
        start_s: subtracted from every arrival.
        stretch: every arrival is then multiplied by it.
        given_s: arrival times for a format that has none of its own; None where it has.
    """

    start_s: float = 0.0
    stretch: float = 1.0
    given_s: Iterator[float] | None = None


ReadRequests = Callable[[Source, TraceOptions, TraceReport, Timing], Iterator[WorkloadRequest]]
ReadSessions = Callable[[Source, TraceOptions, TraceReport], list[Session]]


@dataclass(frozen=True, slots=True)
class Format:
    """One format.

    Attributes:
        name: for `--trace-format`.
        about: its fields and the tools that write it, in one line.
        matches: tells whether a file is of this format, by its columns and first rows.
        requests: streams its requests; None for a format of sessions whose turns have no arrival times.
        sessions: reads its sessions; None for a format of single requests.
        has_times: tells whether a file of this format states arrivals; without them a rate is needed.
    """

    name: str
    about: str
    matches: Callable[[Source, TraceOptions], bool]
    requests: ReadRequests | None = None
    sessions: ReadSessions | None = None
    has_times: Callable[[Source, TraceOptions], bool] = lambda source, options: True
