"""How long an idle session is worth keeping: gaps between turns, learned online, and the index they give.

Keeping the KV of an idle session costs memory for as long as it is idle; losing it costs a recompute if the
session comes back. Both are proportional to the session's tokens, so what decides is the best rate at which
keeping pays: the largest ratio, over every horizon h, of the probability of a return within h to the expected
time kept within h (a Gittins index, in returns per second). It falls with the idle time when gaps are
heavy-tailed, and rises again before a time at which many sessions come back.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort

_EDGES_S = (0.0, *(2.0 ** (half / 2 - 7) for half in range(33)))
"""Lower edges of the buckets of idle times, in seconds: two for each doubling from 1/128 s to 512 s."""
_BUCKETS = len(_EDGES_S)
_LAST_WIDTH_S = 512.0
"""Width given to the last bucket, which has no end: a return in it comes about this much later."""
GIVEN_UP_S = 1024.0
"""After this idle time a session counts as ended when gaps are learned; it may still come back."""

_KEEP = 0.998
"""Weight that one more gap leaves to the older ones: about the last 500 gaps count."""
_CLASS_WEIGHT = 10.0
"""Gaps of one class that count as much as the gaps of all classes together."""
_PRIOR_GAPS_S = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Gaps assumed before any was seen: a session is then kept for a few seconds."""
_PRIOR_WEIGHT = 1.0
_REBUILD_AFTER = 24
"""Gaps and turn ends after which the indices are computed anew; between them they are looked up."""


def bucket_for(idle_s: float) -> int:
    """Return the bucket of an idle time."""
    return bisect_right(_EDGES_S, idle_s) - 1 if idle_s > 0.0 else 0


class _Gaps:
    """Gaps of one class by bucket, the newer ones weighing more, and the idle times still running."""

    __slots__ = ("counts", "ended", "grow", "since_s")

    def __init__(self) -> None:
        self.counts = [0.0] * _BUCKETS
        self.ended = 0.0
        self.grow = 1.0
        self.since_s: list[float] = []  # start of every idle time in progress, sorted

    def learn(self, bucket: int) -> None:
        """One idle time ended in a return in `bucket`; -1: the session is taken to have ended."""
        self.grow /= _KEEP
        if self.grow > 1e12:
            self.counts = [count / self.grow for count in self.counts]
            self.ended /= self.grow
            self.grow = 1.0
        if bucket < 0:
            self.ended += self.grow
        else:
            self.counts[bucket] += self.grow

    def total(self) -> float:
        return (sum(self.counts) + self.ended) / self.grow

    def start(self, since_s: float) -> None:
        if self.since_s and since_s < self.since_s[-1]:
            insort(self.since_s, since_s)
        else:
            self.since_s.append(since_s)

    def stop(self, since_s: float) -> bool:
        place = bisect_left(self.since_s, since_s)
        if place == len(self.since_s) or self.since_s[place] != since_s:
            return False
        del self.since_s[place]
        return True

    def give_up(self, now_s: float) -> None:
        """Idle times beyond any bucket are taken for ends."""
        while self.since_s and now_s - self.since_s[0] > GIVEN_UP_S:
            del self.since_s[0]
            self.learn(-1)


class _Table:
    """The indices of one class, by bucket of idle time."""

    __slots__ = ("changes", "indices")

    def __init__(self) -> None:
        self.indices = [0.0] * _BUCKETS
        self.changes = -_REBUILD_AFTER


class RetentionIndices:
    """Learns gaps by class, and gives the index of a session by its class and idle time.

    An idle time in progress counts too: what has passed of it brought no return. So sessions that ended
    without a word lower the index of those idle for as long, and the probability of an end is learned
    without being told (a Kaplan-Meier estimate by buckets).

    A class is any hashable value; there should be few. Learning is O(log idle). A lookup is O(1) but for a
    rebuild of the class's table every few events.
    """

    __slots__ = ("_all", "_by_class", "_changes", "_tables")

    def __init__(self) -> None:
        self._all = _Gaps()
        for gap_s in _PRIOR_GAPS_S:
            self._all.counts[bucket_for(gap_s)] += _PRIOR_WEIGHT
        self._all.ended = _PRIOR_WEIGHT
        self._by_class: dict[object, _Gaps] = {}
        self._tables: dict[object, _Table] = {}
        self._changes = 0

    def start(self, kind: object, since_s: float) -> None:
        """A session of class `kind` is idle since `since_s`."""
        self._changes += 1
        self._all.start(since_s)
        self._gaps(kind).start(since_s)

    def stop(self, kind: object, since_s: float, now_s: float) -> None:
        """The session came back."""
        self._changes += 1
        gaps = self._gaps(kind)
        bucket = bucket_for(now_s - since_s)
        # One that was given up comes back after all: the gap counts, in the last bucket.
        self._all.stop(since_s)
        self._all.learn(bucket)
        gaps.stop(since_s)
        gaps.learn(bucket)

    def forget(self, kind: object, since_s: float) -> None:
        """The session is over or unknown from now on: it will not be waited for."""
        self._changes += 1
        gaps = self._gaps(kind)
        if self._all.stop(since_s):
            self._all.learn(-1)
        if gaps.stop(since_s):
            gaps.learn(-1)

    def index(self, kind: object, idle_s: float, now_s: float) -> float:
        """Return the best rate at which keeping a session pays, in returns per second."""
        return self._table(kind, now_s).indices[bucket_for(idle_s)]

    def index_from(self, kind: object, idle_s: float, now_s: float) -> tuple[float, float]:
        """Return the index, and the shortest idle time from which on up to `idle_s` it is the same."""
        bucket = bucket_for(idle_s)
        return self._table(kind, now_s).indices[bucket], _EDGES_S[bucket]

    # --- helpers ---------------------------------------------------------------------------------
    def _gaps(self, kind: object) -> _Gaps:
        gaps = self._by_class.get(kind)
        if gaps is None:
            gaps = self._by_class[kind] = _Gaps()
        return gaps

    def _table(self, kind: object, now_s: float) -> _Table:
        table = self._tables.get(kind)
        if table is None:
            table = self._tables[kind] = _Table()
        if self._changes - table.changes >= _REBUILD_AFTER:
            table.changes = self._changes
            self._rebuild(table, self._gaps(kind), now_s)
        return table

    def _rebuild(self, table: _Table, gaps: _Gaps, now_s: float) -> None:
        everything = self._all
        everything.give_up(now_s)
        gaps.give_up(now_s)
        share = _CLASS_WEIGHT / max(everything.total() + len(everything.since_s), 1.0)
        own, all_ = 1.0 / gaps.grow, share / everything.grow
        counts = [
            own * mine + all_ * theirs for mine, theirs in zip(gaps.counts, everything.counts, strict=True)
        ]
        # At risk in a bucket: every idle time that ended in it or later, and those in progress beyond it.
        finished = own * gaps.ended + all_ * everything.ended
        survival, reached = [1.0] * (_BUCKETS + 1), [0.0] * _BUCKETS
        for k in range(_BUCKETS - 1, -1, -1):
            finished += counts[k]
            end_s = _EDGES_S[k + 1] if k + 1 < _BUCKETS else GIVEN_UP_S
            reached[k] = (
                finished
                + bisect_left(gaps.since_s, now_s - end_s)
                + share * bisect_left(everything.since_s, now_s - end_s)
            )
        returns, kept_s = [0.0] * _BUCKETS, [0.0] * _BUCKETS
        for k in range(_BUCKETS):
            hazard = counts[k] / reached[k] if reached[k] > 0.0 else 0.0
            returns[k] = survival[k] * hazard
            survival[k + 1] = survival[k] - returns[k]
            width_s = _EDGES_S[k + 1] - _EDGES_S[k] if k + 1 < _BUCKETS else _LAST_WIDTH_S
            kept_s[k] = 0.5 * width_s * (survival[k] + survival[k + 1])
        indices = table.indices
        for k in range(_BUCKETS):
            best = returned = time_s = 0.0
            for later in range(k, _BUCKETS):
                returned += returns[later]
                time_s += kept_s[later]
                if time_s > 0.0 and returned > best * time_s:
                    best = returned / time_s
            indices[k] = best
