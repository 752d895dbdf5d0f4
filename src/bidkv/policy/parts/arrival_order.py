"""How long the order of arrival would make new requests wait, told from the work that entered so far."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from itertools import islice

from bidkv.protocol.requests import RequestView

_WINDOW = 256
"""Arrivals after which the longest wait of those before the last window is forgotten."""
_KEEP = 0.99
"""Weight that one more entry leaves the older ones in the pace: about 100 count."""
_SLOWEST = 2.0
"""Seconds that a machine second of work takes at most. Where it seems to take longer, costs were guessed too
low, and those of the requests that wait may be right by now."""
_NEEDS = 0.87
"""Share of the work before the last in the queue that it is taken to wait for: costs are guessed too high
more often where the law of lengths has changed, and a bound that is too long is found out only later."""
_LEAST_BUSY_S = 5.0
"""Seconds with a queue after which the pace is believed."""


class ArrivalOrder:
    """The engine's own order beside another one: the work that has entered says how far it would have come.

    Let the new requests that arrived before one have cost A together. In the order of arrival that request
    enters when requests of cost A have entered. Whatever the order, about as much work enters by a given
    moment, so that is the moment at which those that really entered cost A. The longest such wait is what a
    user would have seen. A request that arrives now would wait for all work before it, at the pace at which
    work enters; that counts as well, so that in a growing queue the bound grows before the waits do.

    Every method is O(1) on average. Requests that were preempted are not new and take no part.

    Attributes:
        seen_s: the longest wait that has come to its end, in this window and the one before.
    """

    __slots__ = (
        "_ahead",
        "_arrived_s",
        "_busy_s",
        "_busy_since_s",
        "_entered_s",
        "_in_window",
        "_longest_s",
        "_waiting",
        "_work_s",
        "seen_s",
    )

    def __init__(self) -> None:
        # The new requests that wait, in order of arrival, each with its cost. In a plain dict the way to the
        # first leads over all that left.
        self._waiting: OrderedDict[str, tuple[RequestView, float]] = OrderedDict()
        # Arrivals that the order of arrival would still make wait: what had to enter before, and when each
        # arrived.
        self._ahead: deque[tuple[float, float]] = deque()
        self._arrived_s = 0.0  # cost of all new requests so far
        self._entered_s = 0.0  # and of those that no longer wait
        self.seen_s = 0.0
        self._longest_s = 0.0  # in this window
        self._in_window = 0
        # What entered while a queue waited, and the seconds that took.
        self._work_s = 0.0
        self._busy_s = 0.0
        self._busy_since_s: float | None = None

    def arrive(self, request: RequestView, cost_s: float) -> None:
        """A new request waits; it will take `cost_s` machine seconds."""
        self._in_window += 1
        if self._in_window > _WINDOW:
            self.seen_s, self._longest_s, self._in_window = self._longest_s, 0.0, 1
        self._waiting[request.request_id] = (request, cost_s)
        self._ahead.append((self._arrived_s, request.arrival_s))
        self._arrived_s += cost_s

    def leave(self, request: RequestView, now_s: float) -> None:
        """`request` entered or was aborted; one that is not new is ignored."""
        entry = self._waiting.pop(request.request_id, None)
        if entry is None:
            return
        cost_s = entry[1]
        self._entered_s = entered_s = self._entered_s + cost_s
        if self._busy_since_s is not None:
            self._busy_s = self._busy_s * _KEEP + (now_s - self._busy_since_s)
            self._work_s = self._work_s * _KEEP + cost_s
        self._busy_since_s = now_s if self._waiting else None
        ahead = self._ahead
        while ahead and ahead[0][0] < entered_s:
            waited_s = now_s - ahead.popleft()[1]
            if waited_s > self._longest_s:
                self._longest_s = waited_s
                if waited_s > self.seen_s:
                    self.seen_s = waited_s
        if not self._waiting:  # sums of floats drift; an empty queue is exactly nothing
            self._arrived_s = self._entered_s = 0.0
            ahead.clear()

    def first(self) -> RequestView | None:
        """Return the new request that has waited longest, or None."""
        entry = next(iter(self._waiting.values()), None)
        return None if entry is None else entry[0]

    def oldest(self, count: int) -> Iterator[tuple[RequestView, float]]:
        """Return the `count` new requests that arrived first, each with its cost in machine seconds."""
        return islice(self._waiting.values(), count)

    @property
    def pace(self) -> float:
        """Seconds in which a machine second of work enters, at most 2; 0 while that is not known."""
        return min(self._busy_s / self._work_s, _SLOWEST) if self._busy_s > _LEAST_BUSY_S else 0.0

    def longest_s(self, now_s: float) -> float:
        """Return the longest wait of new requests in the order of arrival, as far as it is known by now."""
        ahead = self._ahead
        if not ahead:
            return self.seen_s
        # The first that the order of arrival would still make wait has waited until now, and the last will
        # wait for most of what is before it.
        needs_s = _NEEDS * (self._arrived_s - self._entered_s) * self.pace
        return max(self.seen_s, now_s - ahead[0][1], now_s - ahead[-1][1] + needs_s)
