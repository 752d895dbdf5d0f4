"""`sessions`: `fair` within a step, and between turns the KV of those sessions that are worth it."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, inf

from bidkv.policy.own.fair import Fair
from bidkv.policy.own.reserving import DEFAULT_PREEMPTION_CAP
from bidkv.policy.own.sessions_cold import ColdQueue
from bidkv.policy.own.sessions_growth import GrowthRoom
from bidkv.policy.own.sessions_idle import IdleSessions, KnownSession, gap_kind
from bidkv.policy.own.sessions_lengths import TurnCounts
from bidkv.policy.own.sessions_prices import StepCosts
from bidkv.policy.own.sessions_retention import RetentionIndices
from bidkv.policy.parts.ordering import blocks_to_enter
from bidkv.protocol.policy import EngineView
from bidkv.protocol.requests import RequestView
from bidkv.protocol.session_views import SessionTable, SessionView

_MOST_DROPS_AT_ONCE = 64
"""Idle sessions looked at when room is made for one turn: bounds the cost of a decision."""
_TURN_WEIGHT = 0.02
"""Weight of the newest turn in the means over turns."""
_RESIDENT_SHARE = 0.5
"""A turn is resident if at least this share of its session's past is cached."""
_SHARPNESS = 4
"""Power of price / index up to which idle sessions count as worthless: only those near the price do."""
_LEAST_PART_BLOCKS = 16
"""Blocks of a session dropped at once at least, so that growth block by block does not ask for each one."""
_LEAST_LOSS = 0.5
"""Least price of a lost past at which sessions are kept. Below it something brings most pasts back, and a
turn that waits for room costs more than a lost past."""


class Sessions(Fair):
    """Keeps sessions resident while that pays; everything within a step is decided as by `fair`.

    A turn whose past is cached enters first, in the order of arrival. A *cold* turn, the first of a session
    or one whose past is gone, enters only while its whole context fits beside the resident sessions and their
    growth. Room for growth is kept for the sake of idle sessions: never more than they hold, and the less
    the less they are worth beyond the price of memory (:class:`GrowthRoom`). Turns that the client calls the
    last of their session go first, single requests among them. Then come the sessions that came first, or
    where they differ widely in length and are not worth keeping, the turns that came first. Within both
    lines (:class:`ColdQueue`) no cold turn passes another.
    While the first one does not fit, idle sessions are dropped whole: the least important first, and of those
    the ones with the lowest retention index (:class:`RetentionIndices`). Only sessions whose index is below
    the price of memory are dropped, and only if the turn fits afterwards. The price is what one more running
    request is worth for the memory that it takes: it shares the fixed time of a step. What running requests
    and resident turns need beyond the free blocks is taken from the same sessions whatever their index, but
    no more than that: the last blocks of a past, where the engine can keep the rest.

    Without requests that belong to a session every decision is that of `fair`. So is it where a lost past is
    cheap, because something beside the prefix cache brings it back (`EngineView.lost_past_price`): then every
    turn is taken for a resident one and no session is dropped.

    Bound: while a cold turn is the first of its line, no other of that line and at most `patience` *
    (1 + resident sessions) other turns enter before it. After that only preempted requests do, and the first
    of the other line if that has waited as long. Idle sessions are dropped whatever their index until it
    fits, and it enters at the latest when the turns that run then have ended.

    Args:
        patience: turns of each resident session that may enter before the first cold one, at least 1.
        growth: room kept for every resident session's next turn, in mean turns, at least 0.
        passes: as for `fair`.
        cap: as for `fair`.
        gain: as for `fair`.
        unit: as for `fair`.
        overhead_s: as for `fair`.
    """

    name = "sessions"

    def __init__(
        self,
        *,
        patience: int = 16,
        growth: float = 1.0,
        passes: int = 128,
        cap: int = DEFAULT_PREEMPTION_CAP,
        gain: float = 7.0,
        unit: float = 0.6,
        overhead_s: float = 1.4e-3,
    ) -> None:
        super().__init__(passes=passes, cap=cap, gain=gain, unit=unit, overhead_s=overhead_s)
        if not growth >= 0:
            raise ValueError(f"growth must be >= 0, got {growth}")
        self.retention = RetentionIndices()
        self.costs = StepCosts()
        self._growth = growth
        self._idle = IdleSessions(self.retention)
        self._cold = ColdQueue(patience)
        self._known: dict[str, KnownSession] = {}
        self._prefilling: dict[str, RequestView] = {}
        self._resident_live: set[str] = set()
        self._turn_counts = TurnCounts()
        self._turn_blocks = 0.0
        self._context_blocks = 0.0
        self._drops: list[tuple[SessionView, int | None]] = []
        self._part_blocks: int | None = None

    # --- next admission --------------------------------------------------------------------------
    def select_next(self, engine: EngineView) -> RequestView | None:
        """Return a preempted request or a resident turn, or else a cold turn that fits beside them."""
        first = super().select_next(engine)
        if not self._cold:
            return first
        overdue = self._is_overdue(engine)
        if first is not None and not (overdue and first is self._queue.first_new()):
            return first
        if self._queue.holds_preempted:
            return None
        room = self._cold_room(engine)
        if overdue:
            # What others keep is no obstacle to it any more: they gave up what they could, or lose it now.
            room = max(room, engine.free_blocks - self._pending_blocks(engine))
        fits = self._cold_need_blocks(engine) <= room
        return self._first_cold(engine) if fits or not engine.num_running else None

    def _first_cold(self, engine: EngineView) -> RequestView | None:
        return self._cold.first(self._num_resident(engine))

    def _cold_need_blocks(self, engine: EngineView) -> float:
        """Blocks that the first cold turn takes; infinite if none waits."""
        first = self._first_cold(engine)
        need = None if first is None else self._cold.need_blocks(first)
        return inf if need is None else need

    def wait_reason(self, request: RequestView, engine: EngineView) -> str:
        """Say what a waiting request waits for."""
        need = self._cold.need_blocks(request)
        if need is None:
            return "resident or preempted: waits for free blocks" if engine.is_waiting(request) else ""
        if request is not self._first_cold(engine):
            return f"cold: needs {need} blocks, and other cold turns are before it"
        room = self._cold_room(engine)
        return (
            f"cold: needs {need} blocks, {max(0, int(room))} are left beside {self._num_resident(engine)} "
            f"resident sessions"
        )

    # --- which idle session is dropped -----------------------------------------------------------
    def select_drop(self, idle: Mapping[str, SessionView], engine: EngineView) -> SessionView | None:
        """Return the idle session whose memory pays least, while a turn needs it; None without pressure."""
        if not self._drops:
            self._drops = self._plan_drops(engine)
            self._drops.reverse()
        while self._drops:
            session, self._part_blocks = self._drops.pop()
            if idle.get(session.session_id) is session:
                if self._part_blocks is None:
                    self._idle.discard(session)
                return session
        return None

    def drop_blocks(self, session: SessionView, engine: EngineView) -> int | None:
        """Return how many blocks of the session just chosen are needed, None for all of them."""
        return self._part_blocks

    def drop_terms(self, session: SessionView, engine: EngineView) -> dict[str, float]:
        """Return the index of the session and the price of memory, in returns per second."""
        known = self._known.get(session.session_id)
        if known is None or known.since_s is None:
            return {}
        now_s = engine.now_s
        index = self.retention.index(known.kind, now_s - known.since_s, now_s)
        return {"index_per_s": index, "price_per_s": self.price(engine)}

    def read_figures(self, engine: EngineView) -> dict[str, float]:
        """Return the price of memory, and the index of the idle session that would be dropped first."""
        lowest = next((index for index, _ in self._idle.ascending(engine.now_s)), 0.0)
        price = self.price(engine)
        return {"price_per_s": 0.0 if price == inf else price, "index_per_s": lowest}

    def price(self, engine: EngineView) -> float:
        """Return the price of memory, comparable with a retention index: in returns per second.

        One more running request shares the fixed part of a step with the others. Per token of memory and
        second that is worth (fixed step time / mean step time) / (tokens held by running requests) seconds of
        machine time; a return saves the recompute of each token, or what takes its place. Infinite while
        nothing runs or nothing is lost.

        While a cold turn waits, it is the one more request. If its session goes on, it counts with the mean
        context of such sessions, whatever its own: a large one would have a low price, and all cold turns
        would wait behind it. A last turn counts with what it needs, if that is less.
        """
        first = self._first_cold(engine)
        if first is None or not self._context_blocks:
            return self._mean_price(engine)
        blocks = self._context_blocks
        session = None if engine.sessions is None else engine.sessions.session_for(first)
        if session is not None and session.is_over:
            blocks = min(blocks, float(self._cold.need_blocks(first) or 1))
        return self._price_of(blocks * engine.num_running * engine.block_size, engine)

    def _mean_price(self, engine: EngineView) -> float:
        """Return the price of memory for one more request as large as the mean running one."""
        return self._price_of(None, engine)

    def _price_of(self, held_tokens: float | None, engine: EngineView) -> float:
        loss = engine.lost_past_price
        return self.costs.memory_price(held_tokens) / loss if engine.num_running and loss > 0 else inf

    def _plan_drops(self, engine: EngineView) -> list[tuple[SessionView, int | None]]:
        """Return the sessions to drop, each with the number of its last blocks, None for all of them."""
        sessions = engine.sessions
        if sessions is None or not sessions.in_use or (_is_loss_cheap(engine) and not self._cold):
            return []
        free = engine.free_blocks
        # What the coming step may take, so that the engine's LRU never reaches a session that is kept.
        step_blocks = engine.num_running
        if engine.num_prefilling:
            step_blocks += engine.max_num_batched_tokens // engine.block_size
        first = super().select_next(engine)
        if first is not None and (need := self._resident_need(first, sessions, engine)) <= free:
            step_blocks += need
        shortage = step_blocks - (free - sessions.retained_blocks)
        if shortage > 0:
            return self._cheapest(shortage, engine)
        if not self._cold or self._queue.holds_preempted:
            return []
        overdue = self._is_overdue(engine)
        if first is not None and not overdue:
            return []
        if self._cold_need_blocks(engine) <= self._cold_room(engine):
            return []
        return [(session, None) for session in self._make_room(engine, overdue=overdue)]

    def _make_room(self, engine: EngineView, *, overdue: bool) -> list[SessionView]:
        """The idle sessions to drop so that the first cold turn fits, none if that cannot be."""
        sessions = engine.sessions
        assert sessions is not None  # else no turn is cold
        price = self.price(engine)
        looked_at = self._idle.first(_MOST_DROPS_AT_ONCE, engine.now_s)
        growth = GrowthRoom(looked_at, price, sessions.retained_blocks)
        free = engine.free_blocks - sessions.retained_blocks - self._pending_blocks(engine)
        wanted = self._growth_blocks(engine)
        per_session = self._growth * self._turn_blocks
        need = self._cold_need_blocks(engine)
        dropped: list[SessionView] = []
        for index, session in looked_at:
            if index >= price and not overdue:
                break
            dropped.append(session)
            free += session.exclusive_blocks
            wanted -= per_session
            if need <= free - growth.room(wanted, num_dropped=len(dropped)):
                return dropped
        # An overdue turn takes what becomes idle even before it is enough.
        return dropped if overdue else []

    def _cheapest(self, blocks: int, engine: EngineView) -> list[tuple[SessionView, int | None]]:
        """What to drop of the idle sessions of the lowest indices, so that `blocks` become free.

        Only what is missing, as the rest of a past is as good as ever. To make room for a cold turn in this
        way would not do: there would be ever more sessions that each lack a part.
        """
        sessions = engine.sessions
        assert sessions is not None  # else none is idle
        chosen: list[tuple[SessionView, int | None]] = []
        for _, session in self._idle.ascending(engine.now_s):
            if blocks <= 0:
                break
            chosen.append((session, _part_of(session, blocks, sessions)))
            blocks -= session.exclusive_blocks
        return chosen

    # --- room ------------------------------------------------------------------------------------
    def _cold_room(self, engine: EngineView) -> float:
        """Blocks a cold turn may take beside the residents and their growth.

        Growth that finds no room takes the memory of the idle sessions that are worth least, so room is kept
        only as far as that would hurt (:class:`GrowthRoom`).
        """
        sessions = engine.sessions
        assert sessions is not None  # else no turn is cold
        free = engine.free_blocks - sessions.retained_blocks - self._pending_blocks(engine)
        wanted = self._growth_blocks(engine)
        if wanted <= 0.0 or not sessions.retained_blocks:
            return free
        looked_at = self._idle.first(_MOST_DROPS_AT_ONCE, engine.now_s)
        return free - GrowthRoom(looked_at, self.price(engine), sessions.retained_blocks).room(wanted)

    def _growth_blocks(self, engine: EngineView) -> float:
        """Blocks that the next turns of all residents and of one more take."""
        return self._growth * self._turn_blocks * (self._num_resident(engine) + 1)

    def _pending_blocks(self, engine: EngineView) -> int:
        """Blocks that the prompts being computed still take."""
        pending = 0
        size = engine.block_size
        for name, request in list(self._prefilling.items()):
            missing = -(-(request.num_prompt_tokens + request.num_output_tokens) // size)
            missing -= request.num_held_blocks
            if missing > 0:
                pending += missing
            else:
                del self._prefilling[name]
        return pending

    def _num_resident(self, engine: EngineView) -> int:
        return len(self._idle) + len(self._resident_live)

    def _is_overdue(self, engine: EngineView) -> bool:
        return self._cold.is_overdue(self._num_resident(engine))

    def _resident_need(self, request: RequestView, sessions: SessionTable, engine: EngineView) -> int:
        session = sessions.session_for(request)
        return blocks_to_enter(request, engine) - (0 if session is None else session.cached_blocks)

    # --- events ----------------------------------------------------------------------------------
    def on_arrival(self, request: RequestView, engine: EngineView) -> None:
        """A resident turn waits behind the others that do; a cold one by the age of its session."""
        sessions = engine.sessions
        session = None if sessions is None or not sessions.in_use else sessions.session_for(request)
        if session is None:
            super().on_arrival(request, engine)
            return
        self.found.clear()
        known = self._known.get(session.session_id)
        if known is None:
            known = self._known[session.session_id] = KnownSession()
        elif known.since_s is not None:
            known.last_gap_s = engine.now_s - known.since_s
            self.retention.stop(known.kind, known.since_s, engine.now_s)
            known.since_s = None
            self._idle.discard(session)
        past = min(session.context_tokens, request.num_prompt_tokens)
        cached = session.cached_blocks * engine.block_size
        is_resident = session.num_turns > 1 and cached >= _RESIDENT_SHARE * past
        if is_resident or _is_loss_cheap(engine):
            super().on_arrival(request, engine)
            self._resident_live.add(request.request_id)
            return
        need = blocks_to_enter(request, engine) - session.cached_blocks
        arrival_s = request.arrival_s - self._age_that_counts_s(request, session, known.kind, engine)
        self._cold.push(request, (request.priority, arrival_s), need, is_last=session.is_over)

    def _age_that_counts_s(
        self, request: RequestView, session: SessionView, kind: object, engine: EngineView
    ) -> float:
        """Return by how much an old session's cold turn goes before a new session of its time.

        By the whole age of the session, so that those that came first end first. But where sessions of very
        different lengths are not worth their memory between turns, none is served as a whole anyway: there
        turns go in the order of arrival, and short sessions need not wait for long ones.
        """
        age_s = request.arrival_s - session.first_arrival_s
        difference = self._turn_counts.difference
        if age_s <= 0.0 or not difference:
            return age_s
        index, price = self.retention.index(kind, 0.0, engine.now_s), self._mean_price(engine)
        worthless = 1.0 if index <= price else (price / index) ** _SHARPNESS
        return age_s * (1.0 - difference * worthless)

    def on_admit(self, request: RequestView, engine: EngineView) -> None:
        """It runs: its session is resident from now on."""
        if request in self._cold:
            self._queue.arrive(request, blocks_to_enter(request, engine))
        super().on_admit(request, engine)
        self.costs.observe(engine)
        self._cold.note_entered(request)
        sessions = engine.sessions
        if sessions is not None and sessions.in_use:
            self._prefilling[request.request_id] = request
            self._resident_live.add(request.request_id)

    def on_preempt(self, request: RequestView, lost_tokens: int, engine: EngineView) -> None:
        """It waits before all others."""
        super().on_preempt(request, lost_tokens, engine)
        self.costs.observe(engine)
        self._prefilling.pop(request.request_id, None)

    def on_finish(self, request: RequestView, engine: EngineView, *, completed: bool) -> None:
        """It left, from running or from waiting."""
        super().on_finish(request, engine, completed=completed)
        self.costs.observe(engine)
        self._prefilling.pop(request.request_id, None)
        self._resident_live.discard(request.request_id)
        self._cold.discard(request)

    def on_turn_end(self, session: SessionView, engine: EngineView) -> None:
        """Its idle time begins; learn how much a turn adds, and how large sessions are."""
        sessions = engine.sessions
        if sessions is None or session.idle_since_s is None:
            return
        known = self._known.setdefault(session.session_id, KnownSession())
        if session.num_turns > 1 and session.context_tokens > known.context_tokens > 0:
            grown = (session.context_tokens - known.context_tokens) / engine.block_size
            self._turn_blocks = _with_turn(self._turn_blocks, grown)
        known.context_tokens = session.context_tokens
        if not session.is_over:
            self._context_blocks = _with_turn(
                self._context_blocks, session.context_tokens / engine.block_size
            )
        known.kind = gap_kind(session, known.last_gap_s)
        known.since_s = session.idle_since_s
        self.retention.start(known.kind, known.since_s)
        if session.session_id in sessions.idle:
            self._idle.add(session, known.kind, known.since_s)

    def _is_single(self, request: RequestView, engine: EngineView) -> bool:
        """Whether it belongs to no session, and none is there."""
        sessions = engine.sessions
        return super()._is_single(request, engine) and (sessions is None or not sessions.in_use)

    def on_session_end(self, session: SessionView, engine: EngineView) -> None:
        """Nothing of it is waited for any more."""
        self._turn_counts.learn(session.num_turns)
        known = self._known.pop(session.session_id, None)
        if known is not None and known.since_s is not None:
            self.retention.forget(known.kind, known.since_s)
        self._idle.discard(session)


def _with_turn(mean: float, value: float) -> float:
    """Return a mean over turns after one more; 0 is the mean of none."""
    return mean + (_TURN_WEIGHT if mean else 1.0) * (value - mean)


def _part_of(session: SessionView, blocks: float, sessions: SessionTable) -> int | None:
    """Return how many blocks of `session` give `blocks`, None if all of them are needed."""
    part = max(ceil(blocks), _LEAST_PART_BLOCKS)
    return part if sessions.drops_parts and part < session.exclusive_blocks else None


def _is_loss_cheap(engine: EngineView) -> bool:
    """Return whether a lost past is brought back for less than it is worth to keep it."""
    return engine.lost_past_price < _LEAST_LOSS
