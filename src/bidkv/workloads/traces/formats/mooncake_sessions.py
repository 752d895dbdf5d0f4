"""Sessions in Mooncake's format, one JSON object a turn, as NVIDIA AIPerf and Dynamo write and read them.

`session_id`; `input_length`, the NEW tokens of the turn (its prompt is everything before, answers included,
plus these); `output_length`; `timestamp` (milliseconds) of a first turn; `delay` (milliseconds from the
previous answer's last token) of a later one; optionally `hash_ids`, which name the chunks of the new tokens.
Dynamo's `created_time`, `input_tokens` and `output_tokens` are accepted.

Ours, all optional: `max_tokens`, `kept_tokens` (leading tokens that the client kept when it rewrote its
past), `gap_kind` ("tool" or "human"), and on a first turn `agent_id`, `priority`, `weight` and `block_size`
(tokens that a hash id stands for, 512 when it is missing).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any

from bidkv.protocol.sessions import Session, Turn
from bidkv.results.files import write_lines
from bidkv.workloads.traces.clock import UNIX_TIME_S, unix_unit
from bidkv.workloads.traces.errors import TraceError, fail
from bidkv.workloads.traces.formats.base import Format
from bidkv.workloads.traces.formats.mooncake import read_optional_fields
from bidkv.workloads.traces.hash_chunks import tell_chunk_tokens
from bidkv.workloads.traces.limits import HASH_CHUNK_TOKENS, MAX_TIME_MS
from bidkv.workloads.traces.options import TIME_UNITS, TraceOptions
from bidkv.workloads.traces.report import TraceReport
from bidkv.workloads.traces.source import Source
from bidkv.workloads.traces.values import (
    parse_count,
    parse_hash_ids,
    parse_name,
    parse_number,
    parse_tokens,
)

_TIMES = ("timestamp", "created_time")
_PROMPTS = ("input_length", "input_tokens")
_OUTPUTS = ("output_length", "output_tokens")
_KINDS = ("", "tool", "human")


def read(source: Source, options: TraceOptions, report: TraceReport) -> list[Session]:
    """Read all sessions, in the order in which their first turns stand in the file.

    Args:
        source: the file.
        options: what it does not say.
        report: takes what was left out or doubtful.

    Raises:
        TraceError: a broken row, or a session whose turns do not fit together.
    """
    file = str(source.path)
    reader = _Reader(file, source, options, report)
    opened: dict[str, _Opened] = {}
    for number, row in source.objects():
        name = parse_name(file, number, "session_id", row.get("session_id"), least=1)
        session = opened.get(name)
        if session is None:
            session = opened[name] = reader.start(number, row)
        reader.add_turn(session, number, row)
    if not opened:
        fail(file, 0, "", "at least one turn; the file is empty")
    report.sessions = len(opened)
    return [reader.finish(name, session) for name, session in opened.items()]


@dataclass(slots=True)
class _Opened:
    """A session of which some turns were read; rows are not kept, since a file may hold millions."""

    line: int
    start_s: float | None
    given: dict[str, Any]
    turns: list[Turn] = field(default_factory=list)
    context: int = 0
    last_output: int = 0
    last_time_s: float | None = None
    last_ids: Any = None


class _Reader:
    def __init__(self, file: str, source: Source, options: TraceOptions, report: TraceReport) -> None:
        self._file = file
        self._report = report
        self._whole = options.input_lengths == "whole"
        self._doubt_lengths = options.input_lengths is None
        self._answer_speed = options.answer_tokens_per_s
        sample = [row for _, row in source.sample]
        first = next((_first(row, _TIMES)[1] for row in sample), None)
        first_time = first if isinstance(first, (int, float, Decimal)) else 0
        unit = options.time_unit or unix_unit(first_time) or "ms"
        report.time_unit = unit
        self._power = {"s": 0, "ms": -3, "us": -6, "ns": -9}[unit]
        stated = sample[0].get("block_size") if sample else None
        if type(stated) is int and stated > 0 and options.tokens_per_hash_id is None:
            self._chunk_tokens = report.tokens_per_hash_id = stated
        else:
            counts = [(_first(row, _PROMPTS)[1], row.get("hash_ids")) for row in sample]
            self._chunk_tokens = tell_chunk_tokens(file, counts, options, report)
        self._from: int | Decimal = 0
        if first_time >= UNIX_TIME_S / TIME_UNITS[unit]:
            self._from = parse_number(file, 0, "timestamp", first, "a number")
            report.note("times count from 1970; the first session starts at 0 s")

    def start(self, number: int, row: dict[str, Any]) -> _Opened:
        """Return the session that starts with a row, still without turns."""
        start_s = self._time(number, row)
        if start_s is not None:
            self._report.last_s = max(self._report.last_s, start_s)
        fields = {name: row.get(name) for name in _SESSION_FIELDS}
        return _Opened(number, start_s, read_optional_fields(self._file, number, fields, 1))

    def add_turn(self, session: _Opened, number: int, row: dict[str, Any]) -> None:
        """Read the next turn of a session; TraceError when its row is broken."""
        file = self._file
        place = len(session.turns)
        time_s = self._time(number, row)
        tokens_name, value = _first(row, _PROMPTS)
        new = parse_tokens(file, number, tokens_name, value)
        output_name, value = _first(row, _OUTPUTS)
        output = parse_tokens(file, number, output_name, value)
        kept = self._kept(number, row, session.context)
        if self._whole and place:
            kept, new = _split_whole(file, number, tokens_name, new, session.context, session.last_output)
        gap_s = self._gap(number, row, place, session.last_time_s, time_s, session.last_output)
        ids = row.get("hash_ids")
        chunks: tuple[int, ...] = ()
        if not (self._whole and place):  # ids of a whole prompt do not start where the new tokens do
            chunks = parse_hash_ids(file, number, ids, new, self._chunk_tokens)
        if place and self._doubt_lengths:
            self._warn_of_whole_prompts(session.last_ids, ids)
        session.turns.append(self._turn(number, row, new, output, gap_s, kept, chunks))
        session.context = (session.context if kept is None else kept) + new + output
        session.last_output, session.last_time_s, session.last_ids = output, time_s, ids
        self._report.requests += 1

    def finish(self, name: str, session: _Opened) -> Session:
        """Return a session whose turns are all there."""
        try:
            return Session(
                name,
                tuple(session.turns),
                session.start_s,
                chunk_tokens=self._chunk_tokens,
                **session.given,
            )
        except ValueError as error:
            raise TraceError(f"{self._file}, line {session.line}: {error}") from error

    def _time(self, number: int, row: dict[str, Any]) -> float | None:
        name, value = _first(row, _TIMES)
        if value is None:
            return None
        time = parse_number(self._file, number, name, value, f"a number from 0 to {MAX_TIME_MS:,}")
        if time < self._from:
            fail(self._file, number, name, f"a time from {self._from} on", value)
        return _in_seconds(time - self._from if self._from else time, self._power)

    def _gap(
        self,
        number: int,
        row: dict[str, Any],
        place: int,
        previous_s: float | None,
        now_s: float | None,
        previous_output: int,
    ) -> float:
        if not place:
            return 0.0
        delay = row.get("delay")
        if delay is not None:
            expected = "a number of milliseconds, at least 0"
            return _in_seconds(parse_number(self._file, number, "delay", delay, expected), self._power)
        if now_s is None or previous_s is None:
            fail(self._file, number, "delay", "the milliseconds from the previous answer to this turn", delay)
        if now_s < previous_s:
            fail(self._file, number, "timestamp", "a time from the previous turn's on", row.get("timestamp"))
        self._report.note(
            "turns without a delay wait as long after the answer as they came after the turn before; "
            "--answer-tokens-per-s takes the time of the answer off"
        )
        spent_s = previous_output / self._answer_speed if self._answer_speed else 0.0
        return max(now_s - previous_s - spent_s, 0.0)

    def _kept(self, number: int, row: dict[str, Any], context: int) -> int | None:
        kept = row.get("kept_tokens")
        if kept is None:
            return None
        kept = parse_count(self._file, number, "kept_tokens", kept)
        if kept > context:
            expected = f"at most the {context:,} tokens of the context before"
            fail(self._file, number, "kept_tokens", expected, kept)
        return kept

    def _turn(
        self,
        number: int,
        row: dict[str, Any],
        new: int,
        output: int,
        gap_s: float,
        kept: int | None,
        ids: tuple[int, ...],
    ) -> Turn:
        file = self._file
        kind = row.get("gap_kind", "")
        if kind not in _KINDS:
            fail(file, number, "gap_kind", '"tool" or "human"', kind)
        cap = row.get("max_tokens")
        if cap is not None:
            cap = parse_tokens(file, number, "max_tokens", cap)
        return Turn(new, output, gap_s, kind, ids, cap, kept)

    def _warn_of_whole_prompts(self, before: Any, after: Any) -> None:
        if (
            type(before) is list
            and type(after) is list
            and len(before) > 1
            and before == after[: len(before)]
        ):
            self._report.warn(
                "hash ids of later turns begin with those of the turn before, as if input_length counted the "
                "whole prompt; it is read as the new tokens: --input-lengths whole or new settles it"
            )


_SESSION_FIELDS = ("agent_id", "priority", "weight")


def _first(row: dict[str, Any], names: Sequence[str]) -> tuple[str, Any]:
    """The first of some fields that a row has, and its value; the usual name when it has none."""
    return next(((name, row[name]) for name in names if row.get(name) is not None), (names[0], None))


def _split_whole(
    file: str, number: int, name: str, prompt: int, context: int, output: int
) -> tuple[int | None, int]:
    """The kept and the new tokens of a prompt that is stated as a whole."""
    if prompt > context:
        return None, prompt - context
    before = context - output
    if prompt > before:  # the previous answer was left out, or shortened
        return before, prompt - before
    fail(file, number, name, f"a whole prompt of more than the {before:,} tokens of the one before", prompt)


def _in_seconds(value: int | Decimal, power: int) -> float:
    return value / 10**-power if type(value) is int else float(value.scaleb(power))  # type: ignore[union-attr]


def write(sessions: Iterable[Session], path: str | Path) -> int:
    """Write sessions so that AIPerf reads them; reading them back gives equal sessions.

    AIPerf wants a turn's hash ids to cover all its new tokens, so a turn that has some ids gets fresh ones
    for the rest. Without any, nothing is shared and none are written.

    Returns:
        How many turns were written.

    Raises:
        ValueError: no session, or sessions whose hash ids stand for different numbers of tokens.
        OSError: the file cannot be written.
    """
    kept = list(sessions)
    if not kept:
        raise ValueError(f"{path}: expected at least one session")
    sizes = {session.chunk_tokens for session in kept}
    if len(sizes) > 1:
        raise ValueError(f"{path}: expected one number of tokens a hash id, found {sorted(sizes)}")
    largest = max((i for s in kept for t in s.turns for i in t.hash_ids), default=-1)
    fresh_ids = count(largest + 1)
    return write_lines(Path(path), (line for s in kept for line in _lines(s, fresh_ids)))


def _lines(session: Session, fresh_ids: Iterable[int]) -> Iterable[str]:
    fresh = iter(fresh_ids)
    for place, turn in enumerate(session.turns):
        row: dict[str, Any] = {
            "session_id": session.session_id,
            "input_length": turn.new_tokens,
            "output_length": turn.output_tokens,
        }
        if turn.hash_ids:
            chunks = -(-turn.new_tokens // session.chunk_tokens)
            row["hash_ids"] = [*turn.hash_ids, *(next(fresh) for _ in range(chunks - len(turn.hash_ids)))]
        if turn.max_tokens is not None:
            row["max_tokens"] = turn.max_tokens
        if turn.kept_tokens is not None:
            row["kept_tokens"] = turn.kept_tokens
        if turn.gap_kind:
            row["gap_kind"] = turn.gap_kind
        time = f', "delay": {_in_ms(turn.gap_s)}'
        if not place:
            time = "" if session.start_s is None else f', "timestamp": {_in_ms(session.start_s)}'
            if session.agent_id:
                row["agent_id"] = session.agent_id
            if session.priority:
                row["priority"] = session.priority
            if session.weight != 1.0:
                row["weight"] = session.weight
            if session.chunk_tokens != HASH_CHUNK_TOKENS:
                row["block_size"] = session.chunk_tokens
        yield f"{json.dumps(row)[:-1]}{time}}}"


def _in_ms(seconds: float) -> str:
    # Shifting the decimal point is exact where a product with 1000 would round.
    return format(Decimal(repr(float(seconds))).scaleb(3), "f")


MOONCAKE_SESSIONS = Format(
    "mooncake-sessions",
    "JSON objects with session_id, input_length (new), output_length, timestamp or delay (ms), as AIPerf",
    lambda source, options: (
        source.container != "csv"
        and "session_id" in source.columns
        and any(name in source.columns for name in _PROMPTS)
    ),
    sessions=read,
)
