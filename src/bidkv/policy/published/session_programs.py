"""Published rules that limit which sessions are active: by footprint, and by congestion control."""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field
from heapq import heappop, heappush

from bidkv.policy.parts.ordering import WaitingHeap
from bidkv.protocol.policy import EngineView, Policy
from bidkv.protocol.requests import RequestView
from bidkv.protocol.session_views import SessionView

_TOKENS_PER_PROGRAM = 256
"""Room for decoding that ThunderAgent adds to the context of every program, in tokens."""

_FIRST = (0, 0, 0)
"""A place before all others."""


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


_Place = tuple[int, int, int]


@dataclass(slots=True)
class _Program:
    """A session (or a single request) as ThunderAgent tracks it."""

    number: int
    """Programs began in this order."""
    tokens: int
    turns: int = 1
    acting: bool = False
    active: bool = False
    marked: bool = False
    ended: bool = False
    # Its turns that have not entered yet, by id: a session may send several at once.
    waiting: dict[str, RequestView] = field(default_factory=dict)

    @property
    def place(self) -> _Place:
        """Its place among the paused programs, or among the active ones that are not marked.

        ThunderAgent resumes those with a later turn that waits, then new ones, then those whose tool runs.
        It pauses those whose tool runs before those that compute. Small contexts come first.
        """
        if self.active:
            group = 0 if self.acting else 1
        else:
            group = 2 if not self.waiting else 1 if self.turns == 1 else 0
        return group, self.tokens, self.number


class _Places:
    """Programs in the order of their places; joining and leaving find them by bisection."""

    __slots__ = ("_ordered", "_programs")

    def __init__(self) -> None:
        self._ordered: list[_Place] = []
        self._programs: dict[int, tuple[_Place, _Program]] = {}

    def __len__(self) -> int:
        return len(self._ordered)

    def add(self, program: _Program) -> None:
        """`program` joins at its place, or moves there."""
        self.discard(program)
        place = program.place
        insort(self._ordered, place)
        self._programs[program.number] = place, program

    def discard(self, program: _Program) -> None:
        """`program` leaves, if it is here."""
        found = self._programs.pop(program.number, None)
        if found is not None:
            del self._ordered[bisect_left(self._ordered, found[0])]

    def first_from(self, place: _Place) -> _Program | None:
        """Return the program at `place`, or the first one behind it; None behind the last."""
        index = bisect_left(self._ordered, place)
        return self._programs[self._ordered[index][2]][1] if index < len(self._ordered) else None


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
        self._begun = 0
        self._paused = _Places()
        self._unmarked = _Places()
        # Waiting turns of paused programs by their arrival; one that has entered or left goes when it is met.
        self._held_back: list[tuple[float, int, RequestView]] = []
        self._active_tokens = 0
        self._num_active = 0
        # What the marked programs will give back: contexts, and the room for decoding.
        self._marked_tokens = 0
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
            self._begun += 1
            program = self._programs[name] = _Program(self._begun, request.num_prompt_tokens)
            self._paused.add(program)
            session = None if engine.sessions is None else engine.sessions.session_for(request)
            if session is not None:
                shared = session.cached_blocks * engine.block_size
                self._shared_tokens += 0.1 * (shared - self._shared_tokens)
            if len(self._paused) == 1 and self._fits(program.tokens, engine):
                self._resume(program)
        else:
            program.turns += 1
            self._set_tokens(program, request.num_prompt_tokens)
        program.acting = False
        program.waiting[request.request_id] = request
        self._by_request[request.request_id] = program
        self._put(program)
        if program.active:
            self._ready.push(request, self._places[request.request_id])
        else:
            self._hold_back(request)
        self._check(engine)

    def on_admit(self, request: RequestView, engine: EngineView) -> None:
        """Its program computes."""
        self._ready.discard(request)
        program = self._by_request.get(request.request_id)
        if program is not None:
            program.waiting.pop(request.request_id, None)
            if not program.active and not program.ended:  # the engine was empty and took it all the same
                self._resume(program)
            else:
                self._put(program)
        self._check(engine)

    def on_preempt(self, request: RequestView, lost_tokens: int, engine: EngineView) -> None:
        """It waits by its arrival: its program is active."""
        self._ready.push(request, self._places[request.request_id])

    def on_finish(self, request: RequestView, engine: EngineView, *, completed: bool) -> None:
        """A single request's program ends with it; a turn may have been given up before it entered."""
        self._ready.discard(request)
        self._places.pop(request.request_id, None)
        program = self._by_request.pop(request.request_id, None)
        if program is not None and program.waiting.pop(request.request_id, None) is not None:
            self._put(program)
        self._end(_request_name(request))
        self._check(engine)

    def on_turn_end(self, session: SessionView, engine: EngineView) -> None:
        """Its tool runs; a marked program is paused now."""
        program = self._programs.get(_session_name(session))
        if program is None:
            return
        program.acting = True
        self._set_tokens(program, session.context_tokens)
        self._put(program)
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
        self._resume_fitting(engine)

    def _pause_excess(self, engine: EngineView) -> None:
        excess = self._needed_tokens(0, 0) - engine.num_blocks * engine.block_size
        if excess <= 0:
            return
        # Those marked before will make room without further ado.
        excess -= self._marked_tokens
        while excess > 0 and (program := self._unmarked.first_from(_FIRST)) is not None:
            excess -= program.tokens + _TOKENS_PER_PROGRAM
            if program.acting:
                self._pause(program)
            else:
                self._unmarked.discard(program)
                program.marked = True
                self._marked_tokens += program.tokens + _TOKENS_PER_PROGRAM

    def _resume_fitting(self, engine: EngineView) -> None:
        """Resume paused programs in their order: each that fits, and each whose turn has waited too long.

        Behind a program that does not fit, none of its group does: their contexts are larger.
        """
        overdue = self._take_overdue(engine.now_s)
        program = self._paused.first_from(_FIRST)
        while program is not None:
            place = program.place
            if not self._fits(program.tokens, engine):
                late = bisect_left(overdue, place)
                if late < len(overdue) and overdue[late][0] == place[0]:
                    place = overdue[late]
                    program = self._paused.first_from(place)
                else:
                    program = self._paused.first_from((place[0] + 1, 0, 0))
                    continue
            assert program is not None  # the overdue ones are paused
            self._resume(program)
            program = self._paused.first_from(place)

    def _hold_back(self, request: RequestView) -> None:
        heappush(self._held_back, (request.arrival_s, self._places[request.request_id], request))

    def _take_overdue(self, now_s: float) -> list[_Place]:
        """Return the places of the paused programs with a turn that has waited for half an hour, in order."""
        found: set[_Place] = set()
        held = self._held_back
        while held and now_s - held[0][0] >= self._LONGEST_WAIT_S:
            request = heappop(held)[2]
            program = self._by_request.get(request.request_id)
            if program is None or program.active or program.ended:
                continue
            if request.request_id in program.waiting:
                found.add(program.place)
        return sorted(found)

    def _needed_tokens(self, extra_tokens: int, extra_programs: int) -> float:
        count = self._num_active + extra_programs
        shared = max(0, count - 1) * self._shared_tokens
        return self._active_tokens + extra_tokens + count * _TOKENS_PER_PROGRAM - shared

    def _fits(self, tokens: int, engine: EngineView) -> bool:
        return self._needed_tokens(tokens, 1) <= engine.num_blocks * engine.block_size

    def _set_tokens(self, program: _Program, tokens: int) -> None:
        if program.active:
            self._active_tokens += tokens - program.tokens
        if program.marked:
            self._marked_tokens += tokens - program.tokens
        program.tokens = tokens

    def _put(self, program: _Program) -> None:
        """Move a program to the place that it has now."""
        if program.ended:
            return
        if not program.active:
            self._paused.add(program)
        elif not program.marked:
            self._unmarked.add(program)

    def _unmark(self, program: _Program) -> None:
        if program.marked:
            program.marked = False
            self._marked_tokens -= program.tokens + _TOKENS_PER_PROGRAM

    def _resume(self, program: _Program) -> None:
        self._paused.discard(program)
        program.active = True
        self._put(program)
        self._num_active += 1
        self._active_tokens += program.tokens
        for name, request in program.waiting.items():
            self._ready.push(request, self._places[name])

    def _pause(self, program: _Program) -> None:
        self._unmark(program)
        self._unmarked.discard(program)
        program.active = False
        self._put(program)
        self._num_active -= 1
        self._active_tokens -= program.tokens
        for request in program.waiting.values():
            self._hold_back(request)

    def _end(self, name: str) -> None:
        program = self._programs.pop(name, None)
        if program is None:
            return
        program.ended = True
        if program.active:
            self._unmark(program)
            self._unmarked.discard(program)
            self._num_active -= 1
            self._active_tokens -= program.tokens
        else:
            self._paused.discard(program)


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
