"""Sessions in closed loop on one engine: the loop that submits turns, steps, and records what came back."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from bidkv.calibration.replay_plan import TIMELINE_EVERY
from bidkv.gpu_host.served_engine import ServedEngine
from bidkv.gpu_host.session_plan import SessionRun
from bidkv.protocol.sessions import Session, SessionArrivals
from bidkv.results import EngineTotals, RequestRecord, RunResult, TimelinePoint
from bidkv.results.gaps import TokenGaps
from bidkv.simulator.arrivals import Arrival
from bidkv.simulator.sessions import SessionSource
from bidkv.workloads.token_ids import ConversationTokens

_SHORT_SLEEP_S = 0.001
"""Pause while requests wait, none runs and the policy admits none: the engine would step without any work."""


@dataclass(slots=True)
class _LiveTurn:
    """A turn in the engine."""

    arrival: Arrival
    first_token_s: float | None = None
    last_token_s: float | None = None
    cached_tokens: int | None = None
    answer: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Moment:
    """Everything that has been counted by one moment of a run."""

    time_s: float
    steps: int
    scheduled_tokens: int
    used_block_seconds: float
    prompt_tokens_seen: int
    prefix_hit_tokens: int
    lost_prefix_tokens: int
    control: dict[str, int]


class SessionDrive:
    """One run of sessions on an engine.

    Args:
        served: the engine, at rest.
        run: what to do.
        sessions: in the order in which they start; every turn fits the engine.
        clock: seconds, monotonic.
        sleep: pauses for some seconds.
    """

    def __init__(
        self,
        served: ServedEngine,
        run: SessionRun,
        sessions: Sequence[Session],
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._served = served
        self._run = run
        self._clock = clock
        self._sleep = sleep
        arrivals = SessionArrivals.at_concurrency(run.concurrent, stagger_s=run.stagger_s)
        self._source = SessionSource(sessions, arrivals, tells_sessions=run.told)
        self._tokens = ConversationTokens(served.vocabulary, run.name)
        self._live: dict[str, _LiveTurn] = {}
        self._records: list[RequestRecord] = []
        self._timeline: list[TimelinePoint] = []
        self._gaps, self._window_gaps = TokenGaps(), TokenGaps()
        self._used_block_seconds = 0.0
        self._steps = 0
        self._prompt_tokens_seen = self._prefix_hit_tokens = self._lost_prefix_tokens = 0
        self._started_s = 0.0

    @property
    def live_requests(self) -> list[str]:
        """Ids of the requests in the engine."""
        return list(self._live)

    def to_end(self) -> RunResult:
        """Drive the engine until the run is cut, or until all sessions have ended."""
        engine, source, run = self._served.engine, self._source, self._run
        self._started_s = self._clock()
        start = self._count(0.0)
        window: _Moment | None = None
        while (now_s := self._now_s()) < run.duration_s:
            if window is None and now_s >= run.warm_up_s:
                window = self._count(now_s)
            while source.next_arrival_s <= now_s:
                self._submit(source.take())
            if not self._live:
                if source.next_arrival_s == math.inf:
                    break
                self._sleep(max(0.0, min(source.next_arrival_s, run.duration_s) - self._now_s()))
                continue
            outputs = engine.step()
            self._take(outputs, now_s, self._now_s())
            if not outputs and not self._served.scheduler.running:
                self._sleep(_SHORT_SLEEP_S)
        end = self._count(min(self._now_s(), run.duration_s))
        return self._make_result(start, window or end, end)

    def _now_s(self) -> float:
        return self._clock() - self._started_s

    def _count(self, time_s: float) -> _Moment:
        served = self._served
        return _Moment(
            time_s,
            self._steps,
            served.view.num_scheduled_tokens,
            self._used_block_seconds,
            self._prompt_tokens_seen,
            self._prefix_hit_tokens,
            self._lost_prefix_tokens,
            served.controller.counters.as_dict(),
        )

    def _submit(self, arrival: Arrival) -> None:
        request = arrival.request
        stated: dict[str, Any] = {"bidkv_max_tokens": request.max_tokens or 0}
        if self._run.told:
            stated["bidkv_session_id"] = request.session_id
            if request.is_last_turn:
                stated["bidkv_session_end"] = 1
        self._live[request.request_id] = _LiveTurn(arrival)
        prompt = self._tokens.write_prompt(request)
        self._served.submit(request.request_id, prompt, request.output_tokens, stated, deltas=True)

    def _take(self, outputs: Sequence[Any], began_s: float, ended_s: float) -> None:
        served, view = self._served, self._served.view
        self._steps += 1
        used = view.num_blocks - view.free_blocks
        self._used_block_seconds += used * (ended_s - began_s)
        if self._steps % TIMELINE_EVERY == 1:
            self._timeline.append(self._make_point(ended_s, used, len(served.scheduler.running)))
        for output in outputs:
            live = self._live[output.request_id]
            if output.outputs[0].token_ids:
                self._take_tokens(live, output.outputs[0].token_ids, output.num_cached_tokens, ended_s)
            if output.finished:
                self._finish(live, ended_s)

    def _make_point(self, now_s: float, used_blocks: int, running: int) -> TimelinePoint:
        view, counters = self._served.view, self._served.controller.counters
        preemptions = counters.preemptions_by_policy + counters.preemptions_by_engine
        table = getattr(view, "sessions", None)
        idle_blocks = 0 if table is None else table.retained_blocks
        return TimelinePoint(now_s, used_blocks, running, view.num_waiting, preemptions, idle_blocks)

    def _take_tokens(
        self, live: _LiveTurn, token_ids: Sequence[int], cached_tokens: int | None, now_s: float
    ) -> None:
        if live.last_token_s is None:
            live.first_token_s, live.cached_tokens = now_s, cached_tokens or 0
            request, size = live.arrival.request, self._served.block_size
            # What could have been cached: whole blocks of the past, never the prompt's last token.
            past_tokens = min(live.arrival.past_tokens, request.prompt_tokens - 1) // size * size
            self._prompt_tokens_seen += request.prompt_tokens
            self._prefix_hit_tokens += live.cached_tokens
            self._lost_prefix_tokens += max(0, past_tokens - live.cached_tokens)
        else:
            gap_s = now_s - live.last_token_s
            self._gaps.add(gap_s)
            if now_s >= self._run.warm_up_s:
                self._window_gaps.add(gap_s)
        live.last_token_s = now_s
        live.answer.extend(token_ids)

    def _finish(self, live: _LiveTurn, now_s: float) -> None:
        request = live.arrival.request
        del self._live[request.request_id]
        self._tokens.keep_answer(request, live.answer)
        self._source.close(request, now_s, len(live.answer), completed=True)
        if live.arrival.ends_session:
            self._tokens.forget(request.session_id)
        self._records.append(
            RequestRecord(
                request.request_id,
                request.arrival_s,
                request.prompt_tokens,
                len(live.answer),
                live.first_token_s,
                now_s,
                session_id=request.session_id,
                turn=request.turn,
                ends_session=live.arrival.ends_session,
                new_tokens=live.arrival.new_tokens,
                cached_tokens=live.cached_tokens,
            )
        )

    def _make_result(self, start: _Moment, window: _Moment, end: _Moment) -> RunResult:
        """Return the result of the whole run; the figures of its window are in the notes."""
        controller = self._served.controller
        result = self._result_between(start, end, self._records, self._gaps)
        in_window = [r for r in self._records if (r.finish_s or 0.0) >= window.time_s]
        windowed = self._result_between(window, end, in_window, self._window_gaps)
        figures = replace(windowed, notes={"per_request_preemptions": False}).summary()
        figures["sessions"] = _window_sessions(windowed, end.time_s - window.time_s)
        result.notes.update(
            run=asdict(self._run),
            active=controller.active,
            breaker=controller.breaker.reason,
            window={"from_s": window.time_s, "to_s": end.time_s, **figures},
        )
        return result

    def _result_between(
        self, start: _Moment, end: _Moment, records: list[RequestRecord], gaps: TokenGaps
    ) -> RunResult:
        control = {name: count - start.control[name] for name, count in end.control.items()}
        totals = EngineTotals(
            steps=end.steps - start.steps,
            scheduled_tokens=end.scheduled_tokens - start.scheduled_tokens,
            recomputed_tokens=control["recomputed_tokens"],
            preemptions=control["preemptions_by_policy"] + control["preemptions_by_engine"],
            used_block_seconds=end.used_block_seconds - start.used_block_seconds,
            usable_blocks=self._served.view.num_blocks,
            busy_s=end.time_s - start.time_s,
            prompt_tokens_seen=end.prompt_tokens_seen - start.prompt_tokens_seen,
            prefix_hit_tokens=end.prefix_hit_tokens - start.prefix_hit_tokens,
            lost_prefix_tokens=end.lost_prefix_tokens - start.lost_prefix_tokens,
            token_gaps=gaps,
        )
        notes = {"control": control, "per_request_preemptions": False, "cut_s": end.time_s}
        seconds = end.time_s - start.time_s
        return RunResult(self._run.policy, records, totals, seconds, seconds, self._timeline, notes)


def _window_sessions(windowed: RunResult, seconds: float) -> dict[str, Any] | None:
    """Return the session figures of the turns that finished in a window of some seconds.

    Sessions count as completed by their last turn. Completion times are left out: those of sessions that
    started before the window are not known from its turns.
    """
    sessions = windowed.summary()["sessions"]
    if sessions is None:
        return None
    del sessions["completion_s"]
    return {
        **sessions,
        "turns_per_s": sessions["turns"] / seconds if seconds > 0 else 0.0,
        "completed": sum(record.ends_session for record in windowed.records),
    }
