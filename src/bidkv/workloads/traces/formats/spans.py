"""Spans of OpenTelemetry's conventions for generative AI, as exporters and inference-perf write them.

OTLP JSON (`resourceSpans`), one span a line, or one trace a line with its `spans`. A span counts when it has
`gen_ai.usage.input_tokens` and `gen_ai.usage.output_tokens` (or the older `prompt_tokens` and
`completion_tokens`). Spans of one `gen_ai.conversation.id`, else of one trace, are the turns of a session:
the next one waits for the last answer, and gaps are measured from the recorded ends. Calls that overlap are
no turns of one session; each starts a session of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bidkv.protocol.requests import WorkloadRequest
from bidkv.protocol.sessions import Session
from bidkv.workloads.traces.errors import fail
from bidkv.workloads.traces.formats.base import Format, Timing
from bidkv.workloads.traces.formats.columns import NO_ANSWER
from bidkv.workloads.traces.formats.whole_prompts import WholePrompt, make_turns
from bidkv.workloads.traces.limits import MAX_TIME_MS
from bidkv.workloads.traces.options import TraceOptions
from bidkv.workloads.traces.report import TraceReport
from bidkv.workloads.traces.source import Source
from bidkv.workloads.traces.values import DateParser, looks_like_date, parse_count

_INPUT = ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens", "llm.token_count.prompt")
_OUTPUT = ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens", "llm.token_count.completion")
_STARTS = ("startTimeUnixNano", "start_time_unix_nano", "start_time", "startTime")
_ENDS = ("endTimeUnixNano", "end_time_unix_nano", "end_time", "endTime")
_TRACES = ("traceId", "trace_id")
_SESSIONS = ("gen_ai.conversation.id", "session.id", "thread.id")
_OTHER = "spans that are no call of a model"
_MAX_NS = MAX_TIME_MS * 1_000_000


def _matches(source: Source, options: TraceOptions) -> bool:
    if source.container not in ("json", "json lines") or not source.sample:
        return False
    row = source.sample[0][1]
    return (
        any(name in row for name in ("resourceSpans", "resource_spans"))
        or type(row.get("spans")) is list
        or (any(name in row for name in _STARTS) and "attributes" in row)
    )


def _spans(source: Source) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yield (row number, the trace that surrounds it, span) for every span."""
    for number, row in source.objects():
        outer = _text(row, _TRACES)
        for resource in _dicts(row.get("resourceSpans", row.get("resource_spans"))):
            for scope in _dicts(resource.get("scopeSpans", resource.get("scope_spans"))):
                yield from ((number, outer, span) for span in _dicts(scope.get("spans")))
        if "spans" in row:
            yield from ((number, outer, span) for span in _dicts(row["spans"]))
        elif "attributes" in row:
            yield number, outer, row


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [entry for entry in value if type(entry) is dict] if type(value) is list else []


def _attributes(span: dict[str, Any]) -> dict[str, Any]:
    """A span's attributes, of OTLP's list of typed values or of a plain object."""
    given = span.get("attributes")
    if type(given) is dict:
        return given
    found = {}
    for entry in _dicts(given):
        value = entry.get("value")
        if type(value) is dict and len(value) == 1:
            value = next(iter(value.values()))
        found[str(entry.get("key"))] = value
    return found


def _text(row: dict[str, Any], names: tuple[str, ...]) -> str:
    value = next((row[name] for name in names if type(row.get(name)) in (str, int)), "")
    text = str(value)[:256]
    return text if text.isprintable() else ""


def _read(source: Source, options: TraceOptions, report: TraceReport) -> list[tuple[str, WholePrompt]]:
    """The calls of models, in order of their starts."""
    file = str(source.path)
    dates = DateParser(file, "start_time")
    calls = []
    for number, outer, span in _spans(source):
        attributes = _attributes(span)
        prompt = next((attributes[name] for name in _INPUT if name in attributes), None)
        output = next((attributes[name] for name in _OUTPUT if name in attributes), None)
        if prompt is None or output is None:
            report.leave_out(_OTHER)
            continue
        prompt_tokens = parse_count(file, number, _INPUT[0], _whole(prompt))
        output_tokens = parse_count(file, number, _OUTPUT[0], _whole(output))
        start_ns = _ns(file, number, span, _STARTS, dates)
        end_ns = _ns(file, number, span, _ENDS, dates)
        if not prompt_tokens or not output_tokens:
            report.leave_out(NO_ANSWER)
            continue
        if end_ns < start_ns:
            fail(file, number, _ENDS[0], "an end that is not before the start", end_ns)
        session = _text(attributes, _SESSIONS) or _text(span, _TRACES) or outer
        calls.append((start_ns, end_ns, session, prompt_tokens, output_tokens))
    if not calls:
        fail(file, 0, "", f"at least one span with {_INPUT[0]} and {_OUTPUT[0]}")
    calls.sort()
    first_ns = calls[0][0]
    report.time_unit = "ns"
    report.note("the first call of a model arrives at 0 s")
    return [
        (session, WholePrompt(prompt, output, (start - first_ns) / 1e9, (end - first_ns) / 1e9))
        for start, end, session, prompt, output in calls
    ]


def _whole(value: Any) -> Any:
    """OTLP writes whole numbers as text."""
    return value.encode() if type(value) is str and value.isascii() else value


def _ns(file: str, number: int, span: dict[str, Any], names: tuple[str, ...], dates: DateParser) -> int:
    name, value = next(((n, span[n]) for n in names if n in span), (names[0], None))
    if looks_like_date(value):
        return dates.parse(number, value)
    digits = str(value) if type(value) in (str, int) else ""
    if not digits.isdecimal() or not digits.isascii() or len(digits) > 20 or int(digits) > _MAX_NS:
        fail(file, number, name, "nanoseconds since 1970, or a date", value)
    return int(digits)


def _requests(
    source: Source, options: TraceOptions, report: TraceReport, timing: Timing
) -> Iterator[WorkloadRequest]:
    for index, (session, call) in enumerate(_read(source, options, report)):
        arrival_s = (call.arrival_s - timing.start_s) * timing.stretch
        yield WorkloadRequest(f"r{index}", arrival_s, call.prompt, call.output, agent_id=session)


def _sessions(source: Source, options: TraceOptions, report: TraceReport) -> list[Session]:
    lines: dict[str, list[WholePrompt]] = {}
    order: list[tuple[str, list[WholePrompt]]] = []
    parallel = 0
    for session, call in _read(source, options, report):
        line = lines.get(session) if session else None
        if line is None or (line[-1].end_s or 0.0) > call.arrival_s:
            parallel += line is not None
            line = [call]
            order.append((session, line))
            lines[session] = line
        else:
            line.append(call)
    if parallel:
        report.note(f"{parallel:,} calls overlap with another of their session and start one of their own")
    sessions = []
    for index, (session, line) in enumerate(order):
        turns = make_turns(line, 512, options, report)
        report.requests += len(turns)
        sessions.append(Session(f"s{index}", turns, line[0].arrival_s, agent_id=session))
    report.sessions = len(sessions)
    report.last_s = max(session.start_s or 0.0 for session in sessions)
    return sessions


SPANS = Format(
    "spans",
    "OpenTelemetry spans with gen_ai.usage.input_tokens and output_tokens (OTLP JSON, inference-perf)",
    _matches,
    _requests,
    _sessions,
)
