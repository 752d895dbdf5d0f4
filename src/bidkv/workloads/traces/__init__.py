"""Traces: readers for three formats, one way into all of them, a writer, and the data that ships.

`read_trace("azure-conv")` or `read_trace("file.jsonl", rate_rps=2.0)` streams
:class:`~bidkv.protocol.requests.WorkloadRequest` objects; :class:`TraceError` names what is broken and where.
"""

from bidkv.workloads.traces.errors import TraceError
from bidkv.workloads.traces.reader import TRACE_FORMATS, TraceFormat, detect_format, read_trace
from bidkv.workloads.traces.shipped import available_traces
from bidkv.workloads.traces.writer import write_mooncake

__all__ = [
    "TRACE_FORMATS",
    "TraceError",
    "TraceFormat",
    "available_traces",
    "detect_format",
    "read_trace",
    "write_mooncake",
]
