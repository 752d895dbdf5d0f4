"""TraceLab's rounds of coding agents (arXiv 2606.30560): one JSON object a call of the model.

`session_id`, `round_index`, `provider`, `input_tokens_total` (the whole prompt), `prefix_tokens` (of it,
found in the provider's cache), `newly_append_tokens`, `output_tokens`, and `timing_events`, each with an
`event_type` and a `timestamp`. A round arrives with its last input event (a user's message or a tool's
result), and its answer ends with its last output event.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

from bidkv.protocol.sessions import Session
from bidkv.results.files import write_lines
from bidkv.workloads.traces.errors import fail
from bidkv.workloads.traces.formats.base import Format
from bidkv.workloads.traces.formats.whole_prompts import WholePrompt, make_turns, whole_prompts
from bidkv.workloads.traces.options import TraceOptions
from bidkv.workloads.traces.report import TraceReport
from bidkv.workloads.traces.source import Source
from bidkv.workloads.traces.values import DateParser, parse_count, parse_name

_INPUTS = {"user_message": "human", "tool_result": "tool"}
_OUTPUTS = frozenset(("text", "reasoning", "tool_call"))
_UNTIMED = "rounds without timing events"
_UNANSWERED = "rounds without input or output tokens"


def read(source: Source, options: TraceOptions, report: TraceReport) -> list[Session]:
    """Read the sessions, in the order in which they start; the earliest starts at 0 s.

    Args:
        source: the file.
        options: what it does not say.
        report: takes what was left out or doubtful.

    Raises:
        TraceError: a broken row, or no round at all.
    """
    file = str(source.path)
    dates = DateParser(file, "timestamp")
    report.time_unit = "date"
    rounds: dict[str, list[tuple[float, int, WholePrompt]]] = {}
    agents: dict[str, str] = {}
    for number, row in source.objects():
        name = parse_name(file, number, "session_id", row.get("session_id"), least=1)
        total = parse_count(file, number, "input_tokens_total", row.get("input_tokens_total"))
        output = parse_count(file, number, "output_tokens", row.get("output_tokens"))
        prefix = parse_count(file, number, "prefix_tokens", row.get("prefix_tokens") or 0)
        times = _times(file, number, row.get("timing_events"), dates)
        if times is None or not total or not output:
            report.leave_out(_UNTIMED if times is None else _UNANSWERED)
            continue
        arrival_s, end_s, kind = times
        index = row.get("round_index", row.get("round_id"))
        order = index if type(index) is int else number
        prompt = WholePrompt(total, output, arrival_s, end_s, kept_at_least=prefix, gap_kind=kind)
        rounds.setdefault(name, []).append((arrival_s, order, prompt))
        provider = row.get("provider")
        agents.setdefault(name, provider if type(provider) is str and provider.isprintable() else "")
    if not rounds:
        fail(file, 0, "", "at least one round with timing events, a prompt and an answer")
    first_s = min(entry[0] for entries in rounds.values() for entry in entries)
    sessions = []
    for name, entries in rounds.items():
        entries.sort(key=lambda entry: entry[:2])
        turns = make_turns([prompt for _, _, prompt in entries], 512, options, report)
        report.requests += len(turns)
        report.sessions += 1
        start_s = round(entries[0][0] - first_s, 6)
        report.last_s = max(report.last_s, start_s)
        sessions.append(Session(name, turns, start_s, agent_id=agents[name][:256]))
    sessions.sort(key=lambda session: session.start_s or 0.0)
    report.note("content that sessions share is not recorded: every session's prompts are taken as its own")
    return sessions


def _times(file: str, number: int, events: Any, dates: DateParser) -> tuple[float, float, str] | None:
    """When a round arrived, when its answer ended, and what triggered it; None when nothing is recorded."""
    if type(events) is not list or not all(type(event) is dict for event in events):
        if events is None:
            return None
        fail(file, number, "timing_events", "a list of objects", events)
    inputs: list[tuple[float, str]] = []
    outputs: list[float] = []
    for event in events:
        kind = event.get("event_type", event.get("type"))
        if event.get("timestamp") is None or type(kind) is not str:
            continue
        if kind in _INPUTS or kind in _OUTPUTS:
            time_s = dates.parse(number, event["timestamp"]) / 1_000_000_000
            if kind in _INPUTS:
                inputs.append((time_s, _INPUTS[kind]))
            else:
                outputs.append(time_s)
    if not inputs and not outputs:
        return None
    arrival_s, trigger = max(inputs) if inputs else (min(outputs), "")
    return arrival_s, max([arrival_s, *outputs]), trigger


def write(sessions: Iterable[Session], path: str | Path) -> int:
    """Write sessions as rounds; every answer is written as if it took no time, so that gaps are kept.

    Raises:
        ValueError: no session, or one without a start time.
    """
    kept = list(sessions)
    if not kept:
        raise ValueError(f"{path}: expected at least one session")
    lines: list[str] = []
    for session in kept:
        if session.start_s is None:
            raise ValueError(f"{path}: expected a start time for session {session.session_id!r}")
        now_s = session.start_s
        context = 0
        for place, prompt in enumerate(whole_prompts(session, count())):
            turn = session.turns[place]
            now_s = round(now_s + turn.gap_s, 6)
            past = context if turn.kept_tokens is None else turn.kept_tokens
            trigger = "tool_result" if turn.gap_kind == "tool" else "user_message"
            row: dict[str, Any] = {
                "provider": session.agent_id,
                "session_id": session.session_id,
                "round_index": place,
                "input_tokens_total": prompt.prompt,
                "prefix_tokens": past,
                "newly_append_tokens": turn.new_tokens,
                "output_tokens": turn.output_tokens,
                "timing_events": [
                    {"event_type": trigger, "timestamp": _date(now_s)},
                    {"event_type": "text", "timestamp": _date(now_s)},
                ],
            }
            lines.append(json.dumps(row))
            context = prompt.prompt + turn.output_tokens
    return write_lines(Path(path), lines)


def _date(seconds: float) -> str:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=round(seconds * 1e6))
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


TRACELAB = Format(
    "tracelab",
    "JSON objects with session_id, input_tokens_total, prefix_tokens, output_tokens, timing_events",
    lambda source, options: (
        source.container != "csv"
        and {"session_id", "input_tokens_total", "timing_events"} <= set(source.columns)
    ),
    sessions=read,
)
