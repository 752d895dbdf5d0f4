"""Traces: one reader for many formats, writers, and the data that ships.

`read_trace("azure-conv")` or `read_trace("file.jsonl", rate_rps=2.0)` streams
:class:`~bidkv.protocol.requests.WorkloadRequest` objects, `read_sessions("file.jsonl")` gives sessions of
several turns, and `open_trace` tells which of the two a file holds. :class:`TraceError` names what is broken
and where.
"""

from bidkv.workloads.traces.errors import TraceError
from bidkv.workloads.traces.options import TraceOptions, parse_columns
from bidkv.workloads.traces.reader import (
    TRACE_FORMATS,
    Trace,
    detect_format,
    open_trace,
    read_sessions,
    read_trace,
)
from bidkv.workloads.traces.report import TraceReport
from bidkv.workloads.traces.session_writer import SESSION_FORMATS, write_sessions
from bidkv.workloads.traces.shipped import available_traces
from bidkv.workloads.traces.writer import write_mooncake

__all__ = [
    "SESSION_FORMATS",
    "TRACE_FORMATS",
    "Trace",
    "TraceError",
    "TraceOptions",
    "TraceReport",
    "available_traces",
    "detect_format",
    "open_trace",
    "parse_columns",
    "read_sessions",
    "read_trace",
    "write_mooncake",
    "write_sessions",
]
