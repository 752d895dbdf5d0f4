"""Published orders of admission: SGLang's longest prefix first, and sessions first come first served."""

from __future__ import annotations

from typing import Any

from bidkv.policy.parts.ordering import OrderedAdmission, WaitingHeap
from bidkv.protocol.policy import EngineView, Policy
from bidkv.protocol.requests import RequestView

_LPM_LIMIT = 128
"""SGLang orders by prefix only while at most this many requests wait, since matching costs O(waiting)."""


class LongestPrefixFirst(Policy):
    """`longest-prefix-first`: the request with the most cached tokens enters first, of equals the older one.

    Source: SGLang's schedule policy `lpm` (`SchedulePolicy`), which falls back to arrival order while more
    than 128 requests wait. SGLang matches every waiting request anew in every step. Here a request is matched
    when it starts to wait and when it comes to the front, so a hit that appears later counts late; and
    requests that would wait for each other's prefix are not told apart.
    """

    name = "longest-prefix-first"

    def __init__(self) -> None:
        self._by_prefix = WaitingHeap()
        self._by_arrival = WaitingHeap()
        self._matched: dict[str, int] = {}
        self._arrived = 0
        self._places: dict[str, int] = {}

    def select_next(self, engine: EngineView) -> RequestView | None:
        """Return the request with the longest cached prefix, checked again."""
        if len(self._by_arrival) > _LPM_LIMIT:
            return self._by_arrival.first()
        for _ in range(_LPM_LIMIT):
            first = self._by_prefix.first()
            if first is None or self._match(first, engine):
                return first
        return self._by_prefix.first()

    def _match(self, request: RequestView, engine: EngineView) -> bool:
        """Match a request with the cache; whether it has as many cached tokens as before."""
        cached = engine.cached_tokens(request)
        if self._matched.get(request.request_id) == cached:
            return True
        self._matched[request.request_id] = cached
        self._by_prefix.push(request, (-cached, self._places[request.request_id]))
        return False

    def _wait(self, request: RequestView, engine: EngineView) -> None:
        if request.request_id not in self._places:
            self._arrived += 1
            self._places[request.request_id] = self._arrived
        self._by_arrival.push(request, self._places[request.request_id])
        self._matched.pop(request.request_id, None)
        self._match(request, engine)

    def on_arrival(self, request: RequestView, engine: EngineView) -> None:
        """Match it with the cache."""
        self._wait(request, engine)

    def on_preempt(self, request: RequestView, lost_tokens: int, engine: EngineView) -> None:
        """Match it again: much of what it computed is still cached."""
        self._wait(request, engine)

    def on_admit(self, request: RequestView, engine: EngineView) -> None:
        """Take it off both orders."""
        self._by_prefix.discard(request)
        self._by_arrival.discard(request)

    def on_finish(self, request: RequestView, engine: EngineView, *, completed: bool) -> None:
        """Forget it."""
        self.on_admit(request, engine)
        self._matched.pop(request.request_id, None)
        self._places.pop(request.request_id, None)


class SessionFcfs(OrderedAdmission):
    """`session-fcfs`: turns enter in the order in which their sessions first came; nothing is kept for them.

    Source: program-level first come first served, the order of Continuum (arXiv 2511.02230) and a baseline of
    Autellix (arXiv 2502.13965).
    """

    name = "session-fcfs"
    reads_sessions = True

    def waiting_key(self, request: RequestView) -> Any:
        """Return the arrival of the request itself: without a session it is on its own."""
        return request.arrival_s

    def on_arrival(self, request: RequestView, engine: EngineView) -> None:
        """Queue it by the arrival of its session."""
        self._queue.push(request, session_arrival(request, engine))

    def on_preempt(self, request: RequestView, lost_tokens: int, engine: EngineView) -> None:
        """It waits again, by the same key."""
        self._queue.push(request, session_arrival(request, engine))


def session_arrival(request: RequestView, engine: EngineView) -> float:
    """Return when the request's session first came, in seconds; its own arrival without a session."""
    session = None if engine.sessions is None else engine.sessions.session_for(request)
    return request.arrival_s if session is None else session.first_arrival_s
