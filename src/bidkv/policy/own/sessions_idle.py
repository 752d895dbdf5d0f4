"""The idle sessions of the `sessions` policy, in the order in which they would be dropped."""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from math import log2

from bidkv.policy.own.sessions_retention import RetentionIndices
from bidkv.protocol.session_views import SessionView

_HINT_KINDS = (-3, 10)
"""Hints are classed by powers of two, from 1/8 s to 1,024 s; each class learns the gaps that really came."""
_GAP_KINDS_S = (1.0, 4.0, 16.0, 64.0)
"""Sessions without a hint are classed by their last gap, cut at these seconds: a tool, or a person."""
_WEIGHTS = (-3, 3)
"""Weights count in powers of two, from 2^-3 to 2^3, so that there are few classes."""


@dataclass(slots=True)
class KnownSession:
    """What the policy remembers of a session.

    Attributes:
        kind: class of its gaps.
        since_s: start of its idle time; None while a turn is live.
        last_gap_s: its last gap; None before the second turn.
        context_tokens: its past at the end of its last turn.
    """

    kind: object = None
    since_s: float | None = None
    last_gap_s: float | None = None
    context_tokens: int = 0


def gap_kind(session: SessionView, last_gap_s: float | None) -> object:
    """Return the class of the gap that begins now: by the client's hint, or by the session's last gap."""
    hint_s = session.gap_hint_s
    if hint_s is not None:
        low, high = _HINT_KINDS
        return "hint", max(low, min(high, round(log2(max(hint_s, 1e-3)))))
    if last_gap_s is None:
        return "first"
    return "after", bisect_left(_GAP_KINDS_S, last_gap_s)


class _Members:
    """Idle sessions of one class, the longest idle first."""

    __slots__ = ("sessions", "since_s")

    def __init__(self) -> None:
        self.since_s: list[float] = []
        self.sessions: list[SessionView] = []

    def add(self, session: SessionView, since_s: float) -> None:
        place = bisect_left(self.since_s, since_s)
        if place < len(self.since_s):  # ended with others of the same step: behind them
            while place < len(self.since_s) and self.since_s[place] == since_s:
                place += 1
        self.since_s.insert(place, since_s)
        self.sessions.insert(place, session)

    def remove(self, session: SessionView, since_s: float) -> None:
        place = bisect_left(self.since_s, since_s)
        while place < len(self.since_s) and self.since_s[place] == since_s:
            if self.sessions[place] is session:
                del self.since_s[place], self.sessions[place]
                return
            place += 1


class IdleSessions:
    """Idle sessions by importance and class; finds those whose memory pays least."""

    def __init__(self, retention: RetentionIndices) -> None:
        self._retention = retention
        # By (-priority, weight class, kind): a larger priority number is dropped first.
        self._members: dict[tuple[int, int, object], _Members] = {}
        self._groups: dict[str, tuple[tuple[int, int, object], float]] = {}
        self._first: list[tuple[float, SessionView]] = []
        self._first_is_of: tuple[float, int] | None = None

    def __len__(self) -> int:
        return len(self._groups)

    def add(self, session: SessionView, kind: object, since_s: float) -> None:
        """`session` is idle since `since_s`."""
        self._first_is_of = None
        low, high = _WEIGHTS
        weight_class = max(low, min(high, round(log2(session.weight)))) if session.weight > 0.0 else low
        group = (-session.priority, weight_class, kind)
        members = self._members.get(group)
        if members is None:
            members = self._members[group] = _Members()
        members.add(session, since_s)
        self._groups[session.session_id] = (group, since_s)

    def discard(self, session: SessionView) -> None:
        """`session` is idle no more, or was dropped; unknown ones are ignored."""
        self._first_is_of = None
        entry = self._groups.pop(session.session_id, None)
        if entry is None:
            return
        group, since_s = entry
        members = self._members[group]
        members.remove(session, since_s)
        if not members.sessions:
            del self._members[group]

    def index(self, session: SessionView, now_s: float) -> float:
        """Return the retention index of an idle session, its weight included."""
        (_, weight_class, kind), since_s = self._groups[session.session_id]
        return self._retention.index(kind, now_s - since_s, now_s) * 2.0**weight_class

    def first(self, most: int, now_s: float) -> list[tuple[float, SessionView]]:
        """Return the first `most` of :meth:`ascending`; asked again at the same moment, at no cost."""
        if self._first_is_of != (now_s, most):
            self._first = list(islice(self.ascending(now_s), most))
            self._first_is_of = now_s, most
        return self._first

    def ascending(self, now_s: float) -> Iterator[tuple[float, SessionView]]:
        """Yield (index, session): the least important first, among those the lowest index first."""
        groups = self._members
        if len(groups) == 1:
            (group,) = groups
            for _, index, _, session in self._in_group(group, 0, now_s):
                yield index, session
            return
        for _, index, _, session in heapq.merge(
            *(self._in_group(group, number, now_s) for number, group in enumerate(groups))
        ):
            yield index, session

    def _in_group(
        self, group: tuple[int, int, object], number: int, now_s: float
    ) -> Iterator[tuple[tuple[int, float], float, tuple[int, int], SessionView]]:
        members = self._members[group]
        since_s, sessions = members.since_s, members.sessions
        priority, weight_class, kind = group
        factor = 2.0**weight_class
        # Stretches of sessions whose idle times have one index; of equal indices the longest idle first.
        stretches = []
        start = 0
        while start < len(since_s):
            index, from_s = self._retention.index_from(kind, now_s - since_s[start], now_s)
            end = max(bisect_right(since_s, now_s - from_s, start), start + 1)
            stretches.append((index, start, end))
            start = end
        stretches.sort()
        for index, start, end in stretches:
            value = index * factor
            for place in range(start, end):
                yield (priority, value), value, (number, place), sessions[place]
