"""Tables of no known format, whose columns are stated: logs of servers and gateways."""

from __future__ import annotations

from collections.abc import Iterator

from bidkv.protocol.requests import WorkloadRequest
from bidkv.workloads.traces.errors import TraceError, fail
from bidkv.workloads.traces.formats.base import Format, Timing
from bidkv.workloads.traces.formats.columns import ColumnLayout, read_table
from bidkv.workloads.traces.options import TraceOptions
from bidkv.workloads.traces.report import TraceReport
from bidkv.workloads.traces.source import Source


def _requests(
    source: Source, options: TraceOptions, report: TraceReport, timing: Timing
) -> Iterator[WorkloadRequest]:
    stated = options.columns
    for role in ("prompt", "output"):
        if role not in stated:
            raise TraceError(f"{source.path}: expected --columns to state {role}=COLUMN")
    for role, column in stated.items():
        if not source.has(column):
            expected = f"the column {column!r} that --columns states as {role}"
            fail(str(source.path), 1, "", expected, ",".join(source.columns))
    roles = {role: (column,) for role, column in stated.items()}
    layout = ColumnLayout(
        prompt=roles["prompt"],
        output=roles["output"],
        time=roles.get("time", ()),
        agent=roles.get("agent", roles.get("session", ())),
        priority=roles.get("priority", ()),
        max_tokens=roles.get("max_tokens", ()),
        weight=roles.get("weight", ()),
        zero_is_failure=True,
    )
    if "session" in stated:
        report.note("sessions are read as senders: every request arrives at its recorded time")
    return read_table(source, layout, options, report, timing, exact_names=True)


STATED = Format(
    "columns",
    "any table whose columns are stated with --columns time=...,prompt=...,output=...",
    lambda source, options: bool(options.columns),
    _requests,
    has_times=lambda source, options: "time" in options.columns or not options.columns,
)
