"""A bound for the rules of sessions: the `sessions` policy with every gap and every end known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from bidkv.policy.own.sessions import Sessions
from bidkv.policy.own.sessions_idle import IdleSessions
from bidkv.policy.own.sessions_retention import RetentionIndices
from bidkv.protocol.policy import EngineView
from bidkv.protocol.session_views import SessionView

_LEAST_S = 1e-3


class _KnownReturns(IdleSessions):
    """Idle sessions by the time of their return: the last one back is dropped first (Belady's rule)."""

    def __init__(self, retention: RetentionIndices) -> None:
        super().__init__(retention)
        self._returns: dict[str, tuple[float, SessionView]] = {}

    def add(self, session: SessionView, kind: object, since_s: float) -> None:
        super().add(session, kind, since_s)
        if session.gap_hint_s is not None:
            self._returns[session.session_id] = (since_s + session.gap_hint_s, session)

    def discard(self, session: SessionView) -> None:
        super().discard(session)
        self._returns.pop(session.session_id, None)

    def index(self, session: SessionView, now_s: float) -> float:
        known = self._returns.get(session.session_id)
        return super().index(session, now_s) if known is None else 1.0 / max(known[0] - now_s, _LEAST_S)

    def ascending(self, now_s: float) -> Iterator[tuple[float, SessionView]]:
        if len(self._returns) < len(self):
            yield from super().ascending(now_s)
            return
        for return_s, session in sorted(self._returns.values(), key=lambda known: -known[0]):
            yield 1.0 / max(return_s - now_s, _LEAST_S), session


class ClairvoyantSessions(Sessions):
    """`clairvoyant-sessions`: `sessions` that knows when every session comes back, and which do not.

    The index of a session that returns in t seconds is exactly 1 / t, so what is dropped first is what is
    needed last (Belady, 1966), priced as in `sessions`. The simulator tells it every gap as the client's
    hint; elsewhere it is as good as the hints it gets.
    """

    name = "clairvoyant-sessions"
    clairvoyant: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self._idle = _KnownReturns(self.retention)

    def drop_terms(self, session: SessionView, engine: EngineView) -> dict[str, float]:
        """Return when it comes back, in seconds, and the price of memory."""
        if session.gap_hint_s is None or session.idle_since_s is None:
            return super().drop_terms(session, engine)
        return_s = session.idle_since_s + session.gap_hint_s
        return {"return_in_s": return_s - engine.now_s, "price_per_s": self.price(engine)}
