"""A decision log as a trace that https://ui.perfetto.dev and chrome://tracing read (Trace Event Format).

One row a slot of the running batch, with a slice for a request's stay; waiting as asynchronous slices, which
the viewer lays out itself; an instant for every preemption and change of policy; counters for KV blocks and
requests.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from bidkv.observability.log_lines import Admission, Finish, Line, PolicyChange, Preemption, Start

RUNNING, WAITING, ENGINE = 1, 2, 3
"""Processes of the trace."""

FIRST_ROW = 10
"""Thread number of the first row. Numbers are told apart in the whole trace: one that is a process's, too, is
taken for its main thread, and Perfetto drops slices that meet what it draws there."""

_NAMES = ((RUNNING, "running"), (WAITING, "waiting"), (ENGINE, "engine"))


class _Stay(NamedTuple):
    row: int
    start_s: float
    args: dict[str, Any]


class _Tracer:
    def __init__(self) -> None:
        self._running: dict[str, _Stay] = {}
        self._waiting_since: dict[str, float] = {}
        self._free_rows: list[int] = []
        self._num_blocks = 0
        self._origin_s: float | None = None

    def events(self, lines: Iterable[Line]) -> Iterator[dict[str, Any]]:
        for process, name in _NAMES:
            yield {"ph": "M", "name": "process_name", "pid": process, "tid": process, "args": {"name": name}}
        last_s = 0.0
        for line in lines:
            if self._origin_s is None:
                self._origin_s = line.time_s
            last_s = line.time_s
            if isinstance(line, Start):
                self._num_blocks = line.num_blocks
            elif isinstance(line, PolicyChange):
                name = line.policy if line.active else f"engine alone: {line.reason}"
                args = {"policy": line.policy, "active": line.active}
                yield self._instant(ENGINE, ENGINE, line, name, args)
            elif isinstance(line, Admission):
                yield from self._admit(line)
            elif isinstance(line, Preemption):
                yield from self._preempt(line)
            elif isinstance(line, Finish):
                yield from self._finish(line)
            yield from self._counters(line)
        for request_id in list(self._running):
            yield from self._stop_running(request_id, last_s, {"end": "the log ends"})
        for request_id in list(self._waiting_since):
            yield from self._stop_waiting(request_id, last_s)

    def _admit(self, line: Admission) -> Iterator[dict[str, Any]]:
        name = line.request_id
        if line.preemptions == 0:
            self._waiting_since[name] = line.arrival_s
        yield from self._stop_waiting(name, line.time_s)
        row = heapq.heappop(self._free_rows) if self._free_rows else FIRST_ROW + len(self._running)
        args = {
            "prompt_tokens": line.prompt_tokens,
            "output_tokens_before": line.output_tokens,
            "cached_tokens": line.cached_tokens,
            "preemptions_before": line.preemptions,
        }
        self._running[name] = _Stay(row, line.time_s, args)

    def _preempt(self, line: Preemption) -> Iterator[dict[str, Any]]:
        name = line.request_id
        args = {
            "end": f"preempted by {line.by}",
            "lost_tokens": line.lost_tokens,
            "recomputed_tokens": line.recomputed_tokens,
        }
        stay = self._running.get(name)
        yield from self._stop_running(name, line.time_s, args)
        yield self._instant(RUNNING, RUNNING if stay is None else stay.row, line, f"preempt {name}", args)
        self._waiting_since[name] = line.time_s

    def _finish(self, line: Finish) -> Iterator[dict[str, Any]]:
        args = {
            "end": "completed" if line.completed else "aborted",
            "output_tokens": line.output_tokens,
            "recomputed_tokens": line.recomputed_tokens,
        }
        yield from self._stop_running(line.request_id, line.time_s, args)
        yield from self._stop_waiting(line.request_id, line.time_s)

    def _stop_running(self, name: str, end_s: float, args: dict[str, Any]) -> Iterator[dict[str, Any]]:
        stay = self._running.pop(name, None)
        if stay is None:  # it was admitted before the log begins
            return
        heapq.heappush(self._free_rows, stay.row)
        yield {
            "ph": "X",
            "name": name,
            "pid": RUNNING,
            "tid": stay.row,
            "ts": self._us(stay.start_s),
            "dur": self._us(end_s) - self._us(stay.start_s),
            "args": {**stay.args, **args},
        }

    def _stop_waiting(self, name: str, end_s: float) -> Iterator[dict[str, Any]]:
        since_s = self._waiting_since.pop(name, None)
        if since_s is not None and end_s > since_s:
            common = {"name": name, "cat": "waiting", "id2": {"local": name}, "pid": WAITING, "tid": WAITING}
            yield {"ph": "b", "ts": self._us(since_s), **common}
            yield {"ph": "e", "ts": self._us(end_s), **common}

    def _instant(self, process: int, row: int, line: Line, name: str, args: dict[str, Any]) -> dict[str, Any]:
        ts = self._us(line.time_s)
        return {"ph": "i", "s": "p", "name": name, "pid": process, "tid": row, "ts": ts, "args": args}

    def _counters(self, line: Line) -> Iterator[dict[str, Any]]:
        common = {"ph": "C", "pid": ENGINE, "ts": self._us(line.time_s)}
        used = max(0, self._num_blocks - line.free_blocks)
        yield {**common, "name": "KV blocks in use", "args": {"blocks": used}}
        yield {**common, "name": "requests", "args": {"running": line.running, "waiting": line.waiting}}

    def _us(self, time_s: float) -> int:
        # Whole numbers, so that slices that meet do not overlap; what came before the log begins with it.
        return max(0, round((time_s - (self._origin_s or 0.0)) * 1e6))


def trace_events(lines: Iterable[Line]) -> Iterator[dict[str, Any]]:
    """Yield the trace events of a decision log; times are microseconds since its first line."""
    return _Tracer().events(lines)
