"""Published rules for the KV of idle sessions: a time to live, and eviction by predicted reuse."""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections.abc import Mapping
from itertools import accumulate

from bidkv.policy.parts.ordering import WaitingHeap, blocks_to_enter
from bidkv.policy.parts.prices import MachinePrices
from bidkv.policy.published.session_orders import session_arrival
from bidkv.protocol.policy import EngineView, Policy
from bidkv.protocol.requests import RequestView
from bidkv.protocol.session_views import SessionView

_MOST_GAPS = 512
"""Latest gaps that are remembered."""


class _SeenGaps:
    """The latest gaps, sorted."""

    def __init__(self) -> None:
        self._in_order: list[float] = []
        self._sorted: list[float] = []
        # Of each sorted gap the sum of those from it on; empty until it is asked for after a gap came.
        self._sums_from: list[float] = []

    def __len__(self) -> int:
        return len(self._sorted)

    def add(self, gap_s: float) -> None:
        self._sums_from.clear()
        self._in_order.append(gap_s)
        insort(self._sorted, gap_s)
        if len(self._in_order) > _MOST_GAPS:
            oldest = self._in_order.pop(0)
            del self._sorted[bisect_right(self._sorted, oldest) - 1]

    @property
    def ascending(self) -> list[float]:
        return self._sorted

    def mean_beyond(self, idle_s: float) -> float:
        """Mean time left of the gaps longer than `idle_s`; as long again where none was."""
        count = len(self._sorted)
        place = bisect_right(self._sorted, idle_s)
        if place == count:
            return max(idle_s, 1.0)
        if not self._sums_from:
            self._sums_from = list(accumulate(reversed(self._sorted)))[::-1]
        return self._sums_from[place] / (count - place) - idle_s


class KvTtl(Policy):
    """`kv-ttl`: an idle session's KV is pinned for a time to live; turns enter by the age of their sessions.

    At the end of a turn the time to live is the tau that maximizes P(gap <= tau) * benefit - tau * cost. The
    benefit of a hit is the time to compute the past again and the mean time that a turn whose past is gone
    waits; the cost is the session's share of the memory, per second, times the turns that wait, at least one.
    P is the distribution of the gaps seen, an exponential one with a mean of 1 s before 20 were. Preempted
    requests enter first, then turns whose KV is pinned, then the others in the order in which their sessions
    first came; these need memory that is not pinned. If nothing runs and the first one does not fit, pinned
    sessions are given up, the latest first.

    Source: Continuum, arXiv 2511.02230: utility, cold start and order as the paper describes them. It learns
    a distribution for every tool; an engine is not told the tool, so there is one.
    """

    name = "kv-ttl"
    _COLD_GAPS, _COLD_MEAN_S = 20, 1.0

    def __init__(self) -> None:
        self._gaps = _SeenGaps()
        self._prices = MachinePrices()
        self._queue = WaitingHeap()
        self._expires_s: dict[str, float] = {}
        self._idle_since_s: dict[str, float] = {}
        self._cold_since_s: dict[str, float] = {}
        self._mean_wait_s = 0.0

    # --- the questions ---------------------------------------------------------------------------
    def select_next(self, engine: EngineView) -> RequestView | None:
        """Return the first in order; None while it needs memory that is pinned."""
        first = self._queue.first()
        if first is None or not engine.num_running or self._fits(first, engine):
            return first
        return None

    def select_drop(self, idle: Mapping[str, SessionView], engine: EngineView) -> SessionView | None:
        """Return a session whose time is over while memory is short; the latest pinned one on a deadlock."""
        sessions = engine.sessions
        if sessions is None or not sessions.in_use:
            return None
        first = self._queue.first()
        need = engine.num_running + self._step_blocks(engine)
        if first is not None:
            need += self._new_blocks(first, engine)
        if engine.free_blocks - sessions.retained_blocks >= need:
            return None
        now_s = engine.now_s
        expired = [
            session for session in idle.values() if self._expires_s.get(session.session_id, 0.0) <= now_s
        ]
        if expired:
            return min(expired, key=lambda session: self._expires_s.get(session.session_id, 0.0))
        if first is None or engine.num_running:
            return None
        return max(idle.values(), key=lambda session: session.first_arrival_s)

    def drop_terms(self, session: SessionView, engine: EngineView) -> dict[str, float]:
        """Return how long ago its time to live was over, in seconds."""
        return {"expired_for_s": engine.now_s - self._expires_s.get(session.session_id, engine.now_s)}

    # --- helpers ---------------------------------------------------------------------------------
    def _step_blocks(self, engine: EngineView) -> int:
        return engine.max_num_batched_tokens // engine.block_size if engine.num_prefilling else 0

    def _new_blocks(self, request: RequestView, engine: EngineView) -> int:
        session = None if engine.sessions is None else engine.sessions.session_for(request)
        return blocks_to_enter(request, engine) - (0 if session is None else session.cached_blocks)

    def _fits(self, request: RequestView, engine: EngineView) -> bool:
        sessions = engine.sessions
        pinned = 0 if sessions is None or not sessions.in_use else sessions.retained_blocks
        return self._new_blocks(request, engine) <= engine.free_blocks - pinned

    def _time_to_live_s(self, session: SessionView, engine: EngineView) -> float:
        benefit_s = session.context_tokens * self._prices.token_s + self._mean_wait_s
        cost = session.cached_blocks / engine.num_blocks * max(1, engine.num_waiting)
        if len(self._gaps) < self._COLD_GAPS:
            # P = 1 - exp(-tau / mean): the best tau is where its density pays for the cost.
            ratio = benefit_s / (cost * self._COLD_MEAN_S) if cost > 0 else math.inf
            return self._COLD_MEAN_S * math.log(ratio) if 1.0 < ratio < math.inf else 0.0
        gaps = self._gaps.ascending
        best_s, best = 0.0, 0.0
        for count, gap_s in enumerate(gaps, 1):
            utility = count / len(gaps) * benefit_s - gap_s * cost
            if utility > best:
                best_s, best = gap_s, utility
        return best_s

    def _wait(self, request: RequestView, engine: EngineView, *, preempted: bool) -> None:
        session = None if engine.sessions is None else engine.sessions.session_for(request)
        pinned = session is not None and self._expires_s.get(session.session_id, -1.0) >= engine.now_s
        group = 0 if preempted else 1 if pinned else 2
        self._queue.push(request, (group, session_arrival(request, engine)))
        if group == 2:
            self._cold_since_s[request.request_id] = engine.now_s

    # --- events ----------------------------------------------------------------------------------
    def on_arrival(self, request: RequestView, engine: EngineView) -> None:
        """Learn its session's gap."""
        session = None if engine.sessions is None else engine.sessions.session_for(request)
        self._wait(request, engine, preempted=False)
        if session is not None:
            since_s = self._idle_since_s.pop(session.session_id, None)
            if since_s is not None:
                self._gaps.add(engine.now_s - since_s)
            self._expires_s.pop(session.session_id, None)

    def on_admit(self, request: RequestView, engine: EngineView) -> None:
        """Learn how long a turn without pinned KV waits."""
        self._queue.discard(request)
        since_s = self._cold_since_s.pop(request.request_id, None)
        if since_s is not None:
            self._mean_wait_s += 0.05 * (engine.now_s - since_s - self._mean_wait_s)

    def on_preempt(self, request: RequestView, lost_tokens: int, engine: EngineView) -> None:
        """It waits before all others."""
        self._wait(request, engine, preempted=True)

    def on_finish(self, request: RequestView, engine: EngineView, *, completed: bool) -> None:
        """Look at the clock."""
        self._prices.observe(engine)
        self._queue.discard(request)
        self._cold_since_s.pop(request.request_id, None)

    def on_turn_end(self, session: SessionView, engine: EngineView) -> None:
        """Its time to live begins."""
        since_s = engine.now_s if session.idle_since_s is None else session.idle_since_s
        self._idle_since_s[session.session_id] = since_s
        self._expires_s[session.session_id] = since_s + self._time_to_live_s(session, engine)

    def on_session_end(self, session: SessionView, engine: EngineView) -> None:
        """Nothing of it is pinned."""
        self._idle_since_s.pop(session.session_id, None)
        self._expires_s.pop(session.session_id, None)


class ReusePrediction(Policy):
    """`reuse-prediction`: the idle session predicted to come back last loses its KV first.

    The prediction is the client's hint until its time is over, and else the mean time left of the gaps longer
    than the session has been idle. Turns enter with the largest cached share of their prompt first, as it was
    when they began to wait, of equals the older one; nothing is held back for idle sessions.

    Source: CacheWise, arXiv 2606.16824: prefix-aware scheduling with eviction by predicted reuse. It predicts
    from the metadata of tool calls, which an engine is not told; the gap and the client's hint stand for
    them.
    """

    name = "reuse-prediction"

    def __init__(self) -> None:
        self._gaps = _SeenGaps()
        self._queue = WaitingHeap()
        self._idle_since_s: dict[str, float] = {}

    def select_next(self, engine: EngineView) -> RequestView | None:
        """Return the turn with the largest cached share."""
        return self._queue.first()

    def select_drop(self, idle: Mapping[str, SessionView], engine: EngineView) -> SessionView | None:
        """Return the session with the latest predicted return while memory is short."""
        sessions = engine.sessions
        if sessions is None or not sessions.in_use:
            return None
        need = engine.num_running
        if engine.num_prefilling:
            need += engine.max_num_batched_tokens // engine.block_size
        first = self._queue.first()
        if first is not None:
            session = sessions.session_for(first)
            need += blocks_to_enter(first, engine) - (0 if session is None else session.cached_blocks)
        if engine.free_blocks - sessions.retained_blocks >= need:
            return None
        return max(idle.values(), key=lambda session: self._return_in_s(session, engine.now_s))

    def drop_terms(self, session: SessionView, engine: EngineView) -> dict[str, float]:
        """Return when it is predicted to come back, in seconds."""
        return {"return_in_s": self._return_in_s(session, engine.now_s)}

    def _return_in_s(self, session: SessionView, now_s: float) -> float:
        idle_s = 0.0 if session.idle_since_s is None else now_s - session.idle_since_s
        hint_s = session.gap_hint_s
        return hint_s - idle_s if hint_s is not None and hint_s > idle_s else self._gaps.mean_beyond(idle_s)

    def _wait(self, request: RequestView, engine: EngineView) -> None:
        session = None if engine.sessions is None else engine.sessions.session_for(request)
        cached = 0 if session is None else session.cached_blocks
        self._queue.push(request, (-cached / max(1, blocks_to_enter(request, engine)), request.arrival_s))

    def on_arrival(self, request: RequestView, engine: EngineView) -> None:
        """Learn its session's gap."""
        self._wait(request, engine)
        session = None if engine.sessions is None else engine.sessions.session_for(request)
        since_s = None if session is None else self._idle_since_s.pop(session.session_id, None)
        if since_s is not None:
            self._gaps.add(engine.now_s - since_s)

    def on_preempt(self, request: RequestView, lost_tokens: int, engine: EngineView) -> None:
        """It waits again, by what is cached of it now."""
        self._wait(request, engine)

    def on_admit(self, request: RequestView, engine: EngineView) -> None:
        """It runs."""
        self._queue.discard(request)

    def on_finish(self, request: RequestView, engine: EngineView, *, completed: bool) -> None:
        """It may have been aborted while it waited."""
        self._queue.discard(request)

    def on_turn_end(self, session: SessionView, engine: EngineView) -> None:
        """Its idle time begins."""
        if session.idle_since_s is not None:
            self._idle_since_s[session.session_id] = session.idle_since_s

    def on_session_end(self, session: SessionView, engine: EngineView) -> None:
        """It will not come back."""
        self._idle_since_s.pop(session.session_id, None)
