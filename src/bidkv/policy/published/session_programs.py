"""Published rules that limit which sessions are active: by footprint, and by congestion control."""

from __future__ import annotations

from dataclasses import dataclass, field

from bidkv.policy.parts.ordering import WaitingHeap
from bidkv.protocol.policy import EngineView, Policy
from bidkv.protocol.requests import RequestView
from bidkv.protocol.session_views import SessionView

_TOKENS_PER_PROGRAM = 256
"""Room for decoding that ThunderAgent adds to the context of every program, in tokens."""


def _request_name(request: RequestView) -> str:
    return f"request {request.request_id}"


def _session_name(session: SessionView) -> str:
    return f"session {session.session_id}"


def _program_name(request: RequestView, engine: EngineView) -> str:
    """Name what `request` belongs to: the session that its client named, or a program of its own.

    The rules here were published for clients that name their programs. What is found by its prefix alone has
    no end that anybody would tell, so as a program it would be in the way for ever.
    """
    session = None if engine.sessions is None else engine.sessions.session_for(request)
    return _session_name(session) if session is not None and session.is_told else _request_name(request)


@dataclass(slots=True)
class _Program:
    """A session (or a single request) as ThunderAgent tracks it."""

    tokens: int
    turns: int = 1
    acting: bool = False
    active: bool = False
    marked: bool = False
    # Its turns that have not entered yet, by id: a session may send several at once.
    waiting: dict[str, RequestView] = field(default_factory=dict)


class ProgramPausing(Policy):
    """`program-pausing`: whole programs are paused while the contexts of the active ones exceed the memory.

    Every `interval_s` seconds programs are paused while the active ones do not fit: those whose tool runs
    first, then those that compute, at the end of their turn; small contexts first. Then paused programs
    resume as far as each fits (those with a waiting turn first, then new ones, then those whose tool runs;
    small contexts first), and one whose turn has waited for half an hour resumes all the same. A new program
    starts at once if none is paused and it fits. Among active programs turns enter in the order of arrival,
    and the KV of paused ones is left to the engine's LRU. A request whose client names no session is a
    program of its own. A program lasts until its client says that it is over: where clients do not, the
    finished ones count as if their tools ran, until they are paused.

    Source: ThunderAgent, arXiv 2602.13692, and its implementation (an interval of 5 s, 256 tokens a program
    for decoding, tool time counted in full, prompts shared by all programs counted once, 1,800 s). The check
    runs at the first event after the interval. A program counts with the prompt of its turn while it
    computes, and with all of its context between two turns.
    """

    name = "program-pausing"
    reads_sessions = True
    _LONGEST_WAIT_S = 1800.0

    def __init__(self, *, interval_s: float = 5.0) -> None:
        if not interval_s > 0:
            raise ValueError(f"interval_s must be > 0, got {interval_s}")
        self._interval_s = interval_s
        self._checked_s = 0.0
        self._programs: dict[str, _Program] = {}
        self._by_request: dict[str, _Program] = {}
        self._ready = WaitingHeap()
        self._arrived = 0
        self._places: dict[str, int] = {}
        self._active_tokens = 0
        self._num_active = 0
        self._num_paused = 0
        self._shared_tokens = 0.0

    # --- the questions ---------------------------------------------------------------------------
    def select_next(self, engine: EngineView) -> RequestView | None:
        """Return the first waiting turn of an active program."""
        return self._ready.first()

    # --- events ----------------------------------------------------------------------------------
    def on_arrival(self, request: RequestView, engine: EngineView) -> None:
        """A turn of an active program may enter; that of a paused one waits until it resumes."""
        name = _program_name(request, engine)
        self._arrived += 1
        self._places[request.request_id] = self._arrived
        program = self._programs.get(name)
        if program is None:
            program = self._programs[name] = _Program(request.num_prompt_tokens)
            self._num_paused += 1
            session = None if engine.sessions is None else engine.sessions.session_for(request)
            if session is not None:
                shared = session.cached_blocks * engine.block_size
                self._shared_tokens += 0.1 * (shared - self._shared_tokens)
            if self._num_paused == 1 and self._fits(program.tokens, engine):
                self._resume(program)
        else:
            program.turns += 1
            self._set_tokens(program, request.num_prompt_tokens)
        program.acting = False
        program.waiting[request.request_id] = request
        self._by_request[request.request_id] = program
        if program.active:
            self._ready.push(request, self._places[request.request_id])
        self._check(engine)

    def on_admit(self, request: RequestView, engine: EngineView) -> None:
        """Its program computes."""
        self._ready.discard(request)
        program = self._by_request.get(request.request_id)
        if program is not None:
            program.waiting.pop(request.request_id, None)
            if not program.active:  # the engine was empty and took it all the same
                self._resume(program)
        self._check(engine)

    def on_preempt(self, request: RequestView, lost_tokens: int, engine: EngineView) -> None:
        """It waits by its arrival: its program is active."""
        self._ready.push(request, self._places[request.request_id])

    def on_finish(self, request: RequestView, engine: EngineView, *, completed: bool) -> None:
        """A single request's program ends with it; a turn may have been given up before it entered."""
        self._ready.discard(request)
        self._places.pop(request.request_id, None)
        program = self._by_request.pop(request.request_id, None)
        if program is not None:
            program.waiting.pop(request.request_id, None)
        self._end(_request_name(request))
        self._check(engine)

    def on_turn_end(self, session: SessionView, engine: EngineView) -> None:
        """Its tool runs; a marked program is paused now."""
        program = self._programs.get(_session_name(session))
        if program is None:
            return
        program.acting = True
        self._set_tokens(program, session.context_tokens)
        if program.marked:
            self._pause(program)

    def on_session_end(self, session: SessionView, engine: EngineView) -> None:
        """Its program is over."""
        self._end(_session_name(session))

    # --- pausing and resuming ----------------------------------------------------------------------
    def _check(self, engine: EngineView) -> None:
        if engine.now_s - self._checked_s < self._interval_s:
            return
        self._checked_s = engine.now_s
        self._pause_excess(engine)
        if self._num_paused:
            paused = [program for program in self._programs.values() if not program.active]
            for program in sorted(paused, key=_resume_key):
                if self._fits(program.tokens, engine) or self._is_overdue(program, engine.now_s):
                    self._resume(program)

    def _pause_excess(self, engine: EngineView) -> None:
        excess = self._needed_tokens(0, 0) - engine.num_blocks * engine.block_size
        if excess <= 0:
            return
        active = [program for program in self._programs.values() if program.active]
        # Those marked before will make room without further ado.
        excess -= sum(program.tokens + _TOKENS_PER_PROGRAM for program in active if program.marked)
        for program in sorted(active, key=lambda program: (not program.acting, program.tokens)):
            if excess <= 0:
                break
            if program.marked:
                continue
            excess -= program.tokens + _TOKENS_PER_PROGRAM
            if program.acting:
                self._pause(program)
            else:
                program.marked = True

    def _is_overdue(self, program: _Program, now_s: float) -> bool:
        waiting = program.waiting.values()
        return any(now_s - request.arrival_s >= self._LONGEST_WAIT_S for request in waiting)

    def _needed_tokens(self, extra_tokens: int, extra_programs: int) -> float:
        count = self._num_active + extra_programs
        shared = max(0, count - 1) * self._shared_tokens
        return self._active_tokens + extra_tokens + count * _TOKENS_PER_PROGRAM - shared

    def _fits(self, tokens: int, engine: EngineView) -> bool:
        return self._needed_tokens(tokens, 1) <= engine.num_blocks * engine.block_size

    def _set_tokens(self, program: _Program, tokens: int) -> None:
        if program.active:
            self._active_tokens += tokens - program.tokens
        program.tokens = tokens

    def _resume(self, program: _Program) -> None:
        program.active, program.marked = True, False
        self._num_paused -= 1
        self._num_active += 1
        self._active_tokens += program.tokens
        for name, request in program.waiting.items():
            self._ready.push(request, self._places[name])

    def _pause(self, program: _Program) -> None:
        program.active = program.marked = False
        self._num_paused += 1
        self._num_active -= 1
        self._active_tokens -= program.tokens

    def _end(self, name: str) -> None:
        program = self._programs.pop(name, None)
        if program is None:
            return
        if program.active:
            self._num_active -= 1
            self._active_tokens -= program.tokens
        else:
            self._num_paused -= 1


def _resume_key(program: _Program) -> tuple[int, int]:
    """ThunderAgent's order: a waiting later turn, a new program, a program whose tool runs; small first."""
    group = 2 if not program.waiting else 1 if program.turns == 1 else 0
    return group, program.tokens


class AgentCongestion(Policy):
    """`agent-congestion`: congestion control of the number of active agents, from memory use and hit rate.

    The window of active agents grows by 2 while less than 20 % of the memory is in use, is halved when more
    than 50 % is in use and less than 20 % of the prompt tokens are found in the cache, and stays otherwise.
    An agent beyond the window is paused at the end of its turn; waiting turns of paused agents enter before
    new agents, in the order of arrival. A request whose client names no session is an agent of its own.

    Source: CONCUR, arXiv 2601.22705, equation 1 with its constants (2, 0.5, 0.2, 0.5, 0.2). Memory in use is
    what running requests hold, and the hit rate is that of the past of sessions. The paper gives neither the
    interval nor the first window: here 1 s and 2.
    """

    name = "agent-congestion"
    reads_sessions = True
    _STEP, _BACKOFF, _LOW_USE, _HIGH_USE, _LOW_HITS = 2.0, 0.5, 0.2, 0.5, 0.2

    def __init__(self, *, interval_s: float = 1.0, first_window: float = 2.0) -> None:
        for option, value in (("interval_s", interval_s), ("first_window", first_window)):
            if not value > 0:
                raise ValueError(f"{option} must be > 0, got {value}")
        self._interval_s = interval_s
        self._window = max(1.0, first_window)
        self._checked_s = 0.0
        self._active: dict[str, None] = {}
        self._ready = WaitingHeap()
        self._held_back = WaitingHeap()
        self._arrived = 0
        self._places: dict[str, tuple[int, int]] = {}
        self._prompt_tokens = 0
        self._hit_tokens = 0

    def select_next(self, engine: EngineView) -> RequestView | None:
        """Return the first waiting turn of an active agent, or let one more agent in."""
        first = self._ready.first()
        if first is not None:
            return first
        return self._held_back.first() if len(self._active) < int(self._window) else None

    def on_arrival(self, request: RequestView, engine: EngineView) -> None:
        """A turn of an active agent may enter; that of another waits for room in the window."""
        self._arrived += 1
        session = None if engine.sessions is None else engine.sessions.session_for(request)
        is_new = session is None or not session.is_told or session.num_turns == 1
        self._places[request.request_id] = (int(is_new), self._arrived)
        queue = self._ready if _program_name(request, engine) in self._active else self._held_back
        queue.push(request, self._places[request.request_id])
        self._control(engine)

    def on_admit(self, request: RequestView, engine: EngineView) -> None:
        """Its agent is active; learn the hit rate."""
        self._discard(request)
        self._active[_program_name(request, engine)] = None
        session = None if engine.sessions is None else engine.sessions.session_for(request)
        if session is not None:
            # Not what the request itself has computed: engines tell an admission before or after its step.
            self._prompt_tokens += request.num_prompt_tokens
            self._hit_tokens += session.cached_blocks * engine.block_size
        self._control(engine)

    def on_preempt(self, request: RequestView, lost_tokens: int, engine: EngineView) -> None:
        """Its agent stays active."""
        self._ready.push(request, self._places[request.request_id])

    def on_finish(self, request: RequestView, engine: EngineView, *, completed: bool) -> None:
        """A single request is an agent of its own, and over now."""
        self._discard(request)
        self._places.pop(request.request_id, None)
        self._active.pop(_request_name(request), None)
        self._control(engine)

    def on_turn_end(self, session: SessionView, engine: EngineView) -> None:
        """An agent beyond the window is paused."""
        if len(self._active) > int(self._window):
            self._active.pop(_session_name(session), None)

    def on_session_end(self, session: SessionView, engine: EngineView) -> None:
        """Its place in the window is free."""
        self._active.pop(_session_name(session), None)

    def _discard(self, request: RequestView) -> None:
        self._ready.discard(request)
        self._held_back.discard(request)

    def _control(self, engine: EngineView) -> None:
        if engine.now_s - self._checked_s < self._interval_s:
            return
        self._checked_s = engine.now_s
        use = 1.0 - engine.free_blocks / engine.num_blocks
        if use < self._LOW_USE:
            # No more than one interval's growth beyond what is there to be let in.
            most = len(self._active) + len(self._held_back) + self._STEP
            self._window = min(self._window + self._STEP, most)
        elif use > self._HIGH_USE and self._hit_tokens < self._LOW_HITS * self._prompt_tokens:
            self._window = max(1.0, self._window * self._BACKOFF)
        self._prompt_tokens = self._hit_tokens = 0
