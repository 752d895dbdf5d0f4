"""Single requests as JSON objects: Mooncake, this project's native format, and its relatives.

Mooncake's own fields (Qin et al., FAST 2025): `timestamp` (milliseconds), `input_length`, `output_length`
(tokens), and optionally `hash_ids` (one id for each 512 prompt tokens, the last chunk may be partial).
Ours, all optional: `max_tokens`, `priority`, `deadline_ms`, `weight`, `agent_id`, `request_id`. A field
that is null counts as absent; fields of other names are ignored. Dynamo writes the same with `created_time`,
`input_tokens` and `output_tokens`, guidellm with `timestamp` (seconds), `prompt_tokens` and `output_tokens`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from bidkv.protocol.requests import WorkloadRequest
from bidkv.workloads.traces.clock import Clock, Numbers, make_clock
from bidkv.workloads.traces.errors import fail
from bidkv.workloads.traces.formats.base import Format, Timing
from bidkv.workloads.traces.formats.columns import NO_ANSWER
from bidkv.workloads.traces.hash_chunks import tell_chunk_tokens
from bidkv.workloads.traces.limits import (
    HASH_CHUNK_TOKENS,
    MAX_ABS_PRIORITY,
    MAX_TIME_MS,
    MAX_TOKENS,
    MAX_WEIGHT,
)
from bidkv.workloads.traces.lines import read_lines
from bidkv.workloads.traces.options import TraceOptions
from bidkv.workloads.traces.report import TraceReport
from bidkv.workloads.traces.source import Source
from bidkv.workloads.traces.values import decode_json, parse_hash_ids, parse_name

OPTIONAL_FIELDS = ("max_tokens", "priority", "deadline_ms", "weight", "agent_id", "request_id")
_OPTIONAL = frozenset(OPTIONAL_FIELDS)
_TOKENS = f"a whole number from 1 to {MAX_TOKENS:,}"


@dataclass(frozen=True, slots=True)
class FieldNames:
    """What a relative of Mooncake calls its fields, and the unit of its times.

    Attributes:
        time: field of the arrival.
        prompt: field of the prompt's tokens.
        output: field of the answer's tokens.
        unit: of the times: "ms" or "s".
    """

    time: str = "timestamp"
    prompt: str = "input_length"
    output: str = "output_length"
    unit: str = "ms"


MOONCAKE_FIELDS = FieldNames()
DYNAMO_FIELDS = FieldNames("created_time", "input_tokens", "output_tokens")
GUIDELLM_FIELDS = FieldNames("timestamp", "prompt_tokens", "output_tokens", "s")


class RowParser:
    """Turns the rows of one file, in their order, into requests.

    Args:
        file: name of the trace.
        clock: of its times; milliseconds from 0 by default.
        names: of its fields.
        chunk_tokens: prompt tokens that a hash id stands for.
        timing: how arrivals are moved.
    """

    def __init__(
        self,
        file: str,
        clock: Clock | None = None,
        names: FieldNames = MOONCAKE_FIELDS,
        chunk_tokens: int = HASH_CHUNK_TOKENS,
        timing: Timing | None = None,
    ) -> None:
        timing = timing or Timing()
        self._file = file
        self._clock = clock or Numbers(file, names.time, "ms")
        self.names = names
        self._chunk_tokens = chunk_tokens
        self._start_s = timing.start_s
        self._stretch = timing.stretch
        self._index = -1
        self._taken = _Names()

    def parse(self, number: int, line: bytes) -> WorkloadRequest:
        """Return the request of line `number`; TraceError when it is broken or out of order."""
        return self.parse_row(number, decode_json(self._file, number, line))

    def parse_row(self, number: int, row: Any) -> WorkloadRequest:
        """Return the request of row `number`; TraceError when it is broken or out of order."""
        file, names = self._file, self.names
        if type(row) is not dict:
            fail(file, number, "", "one JSON object", row)
        time_s = self._clock.read(number, row.get(names.time))
        prompt: Any = row.get(names.prompt)
        # Exact types: a bool is an int in Python, and "12" or 12.0 is not a count of tokens.
        if type(prompt) is not int or not 1 <= prompt <= MAX_TOKENS:
            fail(file, number, names.prompt, _TOKENS, prompt)
        output: Any = row.get(names.output)
        if type(output) is not int or not 1 <= output <= MAX_TOKENS:
            fail(file, number, names.output, _TOKENS, output)
        hash_ids = row.get("hash_ids")
        extras = {} if _OPTIONAL.isdisjoint(row) else read_optional_fields(file, number, row, output)
        self._index += 1
        return WorkloadRequest(
            self._taken.claim(file, number, self._index, extras.pop("request_id", None)),
            (time_s - self._start_s) * self._stretch,
            prompt,
            output,
            hash_ids=parse_hash_ids(file, number, hash_ids, prompt, self._chunk_tokens),
            **extras,
        )


class _Names:
    """Which names are taken; remembers none of them until a row brings a name of its own."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._leading = 0  # rows before the first named one: r0 ... r(leading - 1)

    def claim(self, file: str, number: int, index: int, own: str | None) -> str:
        """Return the name of row `index`; TraceError when another row has it."""
        if own is None and not self._taken:
            self._leading = index + 1
            return f"r{index}"
        name = f"r{index}" if own is None else own
        digits = name[1:]
        leads = digits.isdecimal() and int(digits) < self._leading and name == f"r{int(digits)}"
        if leads or name in self._taken:
            fail(file, number, "request_id", "a name that no other request has", name)
        self._taken.add(name)
        return name


def read_optional_fields(file: str, number: int, row: dict[str, Any], output: int) -> dict[str, Any]:
    """Return this project's own fields of a row by their names, checked, without those that it lacks.

    Args:
        file: name of the trace, for messages.
        number: of the line, for messages.
        row: the JSON object.
        output: tokens of the row's answer; `max_tokens` must not be below it.

    Raises:
        TraceError: a value of another type or out of range.
    """
    given = {name: row[name] for name in OPTIONAL_FIELDS if row.get(name) is not None}
    for name, value in given.items():
        if name == "max_tokens":
            if type(value) is not int or not output <= value <= MAX_TOKENS:
                expected = f"a whole number from output_length ({output}) to {MAX_TOKENS:,}"
                fail(file, number, name, expected, value)
        elif name == "priority":
            if type(value) is not int or abs(value) > MAX_ABS_PRIORITY:
                expected = f"a whole number from -{MAX_ABS_PRIORITY} to {MAX_ABS_PRIORITY}"
                fail(file, number, name, expected, value)
        elif name in ("agent_id", "request_id"):
            if type(value) is not str:
                fail(file, number, name, "printable text", value)
            parse_name(file, number, name, value, least=1 if name == "request_id" else 0)
        else:
            most = MAX_TIME_MS if name == "deadline_ms" else MAX_WEIGHT
            if type(value) not in (int, float, Decimal) or not 0 < value <= most or not float(value):
                fail(file, number, name, f"a number above 0, at most {most:,}", value)
            given[name] = float(value)
    return given


def _make_reader(
    names: FieldNames,
) -> Callable[[Source, TraceOptions, TraceReport, Timing], Iterator[WorkloadRequest]]:
    def requests(
        source: Source, options: TraceOptions, report: TraceReport, timing: Timing
    ) -> Iterator[WorkloadRequest]:
        file = str(source.path)
        sample = [row for _, row in source.sample]
        times = [row.get(names.time) for row in sample]
        clock = make_clock(
            file,
            names.time,
            times,
            names.unit,
            options,
            report,
            from_1970=names.unit == "s" or options.time_unit is not None,
        )
        chunk_tokens = tell_chunk_tokens(
            file, [(row.get(names.prompt), row.get("hash_ids")) for row in sample], options, report
        )
        parser = RowParser(file, clock, names, chunk_tokens, timing)
        return _stream(source, parser, report)

    return requests


def _stream(source: Source, parser: RowParser, report: TraceReport) -> Iterator[WorkloadRequest]:
    request = None
    rows: Iterator[tuple[int, Any]] = source.objects()
    if source.container in ("csv", "json lines"):
        file = str(source.path)
        rows = ((number, decode_json(file, number, line)) for number, line in read_lines(source.path))
    for number, row in rows:
        output = row.get(parser.names.output) if type(row) is dict else None
        if type(output) is int and not output:  # it failed
            report.leave_out(NO_ANSWER)
            continue
        request = parser.parse_row(number, row)
        yield request
    if request is None:
        fail(str(source.path), 0, "", "at least one request with an answer")


def _is_json(source: Source) -> bool:
    return source.container != "csv"


def _make_matcher(*needed: str) -> Callable[[Source, TraceOptions], bool]:
    def matches(source: Source, options: TraceOptions) -> bool:
        return _is_json(source) and set(needed) <= set(source.columns)

    return matches


def _is_mooncake(source: Source, options: TraceOptions) -> bool:
    if source.container == "json lines" and not source.sample:
        return True  # the first row is broken, and its parser says how
    known = (MOONCAKE_FIELDS.time, MOONCAKE_FIELDS.prompt, MOONCAKE_FIELDS.output)
    return _is_json(source) and any(name in source.columns for name in known)


MOONCAKE = Format(
    "mooncake",
    "JSON objects with timestamp (ms), input_length, output_length and optionally hash_ids",
    # One of its fields is enough: the parser then names the field that is missing.
    _is_mooncake,
    _make_reader(MOONCAKE_FIELDS),
)
DYNAMO = Format(
    "dynamo",
    "JSON objects with created_time (ms), input_tokens, output_tokens",
    _make_matcher("created_time", "input_tokens", "output_tokens"),
    _make_reader(DYNAMO_FIELDS),
)
GUIDELLM = Format(
    "guidellm",
    "JSON objects with timestamp (s), prompt_tokens, output_tokens",
    _make_matcher("timestamp", "prompt_tokens", "output_tokens"),
    _make_reader(GUIDELLM_FIELDS),
)
