"""Alibaba Bailian's anonymized usage traces (Qwen): one JSON object a request, linked to conversations.

`chat_id`, `parent_chat_id` (-1 for the first request of a conversation), `turn` (from 1), `timestamp`
(seconds), `input_length` (the whole prompt), `output_length`, `type`, `hash_ids` (one for each 16 tokens of
the whole prompt). As requests, every row arrives at its recorded time. As sessions, a row waits for its
parent's answer. A request whose parent already has a child starts a session of its own: one conversation
cannot go on in two ways.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from bidkv.protocol.requests import WorkloadRequest
from bidkv.protocol.sessions import Session
from bidkv.results.files import write_lines
from bidkv.workloads.traces.clock import make_clock
from bidkv.workloads.traces.errors import TraceError, fail
from bidkv.workloads.traces.formats.base import Format, Timing
from bidkv.workloads.traces.formats.columns import NO_ANSWER
from bidkv.workloads.traces.formats.whole_prompts import WholePrompt, make_turns, whole_prompts
from bidkv.workloads.traces.hash_chunks import tell_chunk_tokens
from bidkv.workloads.traces.options import TraceOptions
from bidkv.workloads.traces.report import TraceReport
from bidkv.workloads.traces.source import Source
from bidkv.workloads.traces.values import parse_hash_ids, parse_tokens

TOKENS_PER_HASH_ID = 16
_NO_PARENT = -1


@dataclass(frozen=True, slots=True)
class _Row:
    number: int
    chat: int
    parent: int
    arrival_s: float
    prompt: int
    output: int
    hash_ids: tuple[int, ...]


def _rows(source: Source, options: TraceOptions, report: TraceReport) -> Iterator[_Row]:
    file = str(source.path)
    chunk = _chunk_tokens(source, options, report)
    times = [row.get("timestamp") for _, row in source.sample]
    clock = make_clock(file, "timestamp", times, "s", options, report)
    for number, row in source.objects():
        if row.get("output_length") == 0:
            report.leave_out(NO_ANSWER)
            continue
        prompt = parse_tokens(file, number, "input_length", row.get("input_length"))
        ids = parse_hash_ids(file, number, row.get("hash_ids"), prompt, chunk)
        yield _Row(
            number,
            _chat(file, number, "chat_id", row.get("chat_id")),
            _chat(file, number, "parent_chat_id", row.get("parent_chat_id")),
            clock.read(number, row.get("timestamp")),
            prompt,
            parse_tokens(file, number, "output_length", row.get("output_length")),
            ids,
        )


def _chunk_tokens(source: Source, options: TraceOptions, report: TraceReport) -> int:
    counts = [(row.get("input_length"), row.get("hash_ids")) for _, row in source.sample]
    return tell_chunk_tokens(str(source.path), counts, options, report, TOKENS_PER_HASH_ID)


def _chat(file: str, number: int, field: str, value: Any) -> int:
    if type(value) is not int or not _NO_PARENT <= value < 2**63:
        fail(file, number, field, "a whole number, -1 for no parent", value)
    return value


def read_requests(
    source: Source, options: TraceOptions, report: TraceReport, timing: Timing
) -> Iterator[WorkloadRequest]:
    """Stream the requests at their recorded times, whatever each turn waited for.

    Args:
        source: the file.
        options: what it does not say.
        report: takes what was left out or doubtful.
        timing: how arrivals are moved.

    Raises:
        TraceError: a broken row, rows out of order of time, or no row at all.
    """
    index = -1
    for index, row in enumerate(_rows(source, options, report)):
        yield WorkloadRequest(
            f"r{index}",
            (row.arrival_s - timing.start_s) * timing.stretch,
            row.prompt,
            row.output,
            hash_ids=row.hash_ids,
        )
    if index < 0:
        fail(str(source.path), 0, "", "at least one request; the file is empty")


def read_sessions(source: Source, options: TraceOptions, report: TraceReport) -> list[Session]:
    """Read the conversations, in the order in which they start.

    `chat_id` and `parent_chat_id` link their turns. A request whose parent is not in the file, or already has
    another successor, starts a conversation of its own; both are noted in the report.

    Args:
        source: the file.
        options: what it does not say.
        report: takes what was left out or doubtful.

    Raises:
        TraceError: a broken row, rows out of order of time, an id that occurs twice, or no row at all.
    """
    file = str(source.path)
    session_of_chat: dict[int, list[_Row]] = {}
    sessions: list[list[_Row]] = []
    branches = orphans = 0
    for row in _rows(source, options, report):
        if row.chat in session_of_chat:
            fail(file, row.number, "chat_id", "an id that no other request has", row.chat)
        line = session_of_chat.get(row.parent)
        goes_on = line is not None and line[-1].chat == row.parent
        if line is None or not goes_on:
            branches += line is not None
            orphans += line is None and row.parent != _NO_PARENT
            line = []
            sessions.append(line)
        line.append(row)
        session_of_chat[row.chat] = line
    if not sessions:
        fail(file, 0, "", "at least one request; the file is empty")
    if branches:
        report.note(f"{branches:,} requests go on from a request that another one already went on from")
    if orphans:
        report.note(f"{orphans:,} requests go on from one that is not in the file")
    chunk = _chunk_tokens(source, options, report)
    made = [_session(file, rows, chunk, options, report) for rows in sessions]
    report.last_s = max(row.arrival_s for rows in sessions for row in rows)
    return made


def _session(
    file: str, rows: Sequence[_Row], chunk: int, options: TraceOptions, report: TraceReport
) -> Session:
    prompts = [
        WholePrompt(row.prompt, row.output, row.arrival_s, hash_ids=row.hash_ids, gap_kind="human")
        for row in rows
    ]
    turns = make_turns(prompts, chunk, options, report)
    report.requests += len(turns)
    report.sessions += 1
    try:
        return Session(str(rows[0].chat), turns, rows[0].arrival_s, chunk_tokens=chunk)
    except ValueError as error:
        raise TraceError(f"{file}, line {rows[0].number}: {error}") from error


def write(sessions: Iterable[Session], path: str | Path) -> int:
    """Write sessions as conversations; reading them back gives equal sessions, with numbers for names.

    A later turn is written at its gap after the turn before, since the format holds no end of an answer.

    Raises:
        ValueError: no session, one without a start time, or one whose hash ids are not for 16 tokens each.
    """
    kept = list(sessions)
    if not kept:
        raise ValueError(f"{path}: expected at least one session")
    for session in kept:
        if session.start_s is None:
            raise ValueError(f"{path}: expected a start time for session {session.session_id!r}")
        if session.chunk_tokens != TOKENS_PER_HASH_ID and any(t.hash_ids for t in session.turns):
            raise ValueError(
                f"{path}: expected hash ids of {TOKENS_PER_HASH_ID} tokens, found {session.chunk_tokens}"
            )
    largest = max((i for s in kept for t in s.turns for i in t.hash_ids), default=-1)
    fresh_ids = count(largest + 1)
    rows = []
    for place, session in enumerate(kept):
        now_s = session.start_s or 0.0
        for turn, prompt in enumerate(whole_prompts(session, fresh_ids)):
            now_s = round(now_s + session.turns[turn].gap_s, 9)
            rows.append((now_s, place, turn, prompt))
    rows.sort(key=lambda row: row[:3])
    chats = {(place, turn): chat for chat, (_, place, turn, _) in enumerate(rows)}
    return write_lines(Path(path), (_line(row, chats) for row in rows))


def _line(row: tuple[float, int, int, WholePrompt], chats: dict[tuple[int, int], int]) -> str:
    now_s, place, turn, prompt = row
    given: dict[str, Any] = {
        "chat_id": chats[place, turn],
        "parent_chat_id": chats.get((place, turn - 1), _NO_PARENT),
        "timestamp": now_s,
        "input_length": prompt.prompt,
        "output_length": prompt.output,
        "type": "text",
        "turn": turn + 1,
    }
    if prompt.hash_ids:
        given["hash_ids"] = list(prompt.hash_ids)
    return json.dumps(given)


BAILIAN = Format(
    "bailian",
    "JSON objects with chat_id, parent_chat_id, timestamp (s), input_length (whole), 16 tokens a hash id",
    lambda source, options: (
        source.container != "csv" and {"chat_id", "parent_chat_id"} <= set(source.columns)
    ),
    read_requests,
    read_sessions,
)
