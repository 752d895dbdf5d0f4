"""Helpers a policy is built from: choosing the least, and a waiting queue in an order of one's own."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import Any

from bidkv.protocol.policy import EngineView, Policy
from bidkv.protocol.requests import RequestView


def least(candidates: Sequence[RequestView], key: Callable[[RequestView], Any]) -> RequestView:
    """Return the candidate with the smallest key; ties go to the later one, as an engine's own rule would.

    `candidates` holds at least one request.
    """
    return min(reversed(candidates), key=key)


class WaitingHeap:
    """Waiting requests by a key that is fixed when they join; any member leaves at any time.

    Push and pop are O(log n); a member that leaves from the middle is dropped lazily. Ties go to who joined
    first.
    """

    __slots__ = ("_entries", "_heap", "_live", "_next")

    def __init__(self) -> None:
        self._heap: list[tuple[Any, int, RequestView]] = []
        self._entries: dict[str, int] = {}
        self._live: set[int] = set()
        self._next = 0

    def __len__(self) -> int:
        return len(self._entries)

    def push(self, request: RequestView, key: Any) -> None:
        """`request` joins; a second push replaces the first."""
        self.discard(request)
        self._next += 1
        self._entries[request.request_id] = self._next
        self._live.add(self._next)
        heapq.heappush(self._heap, (key, self._next, request))

    def discard(self, request: RequestView) -> None:
        """`request` leaves; unknown ones are ignored."""
        entry = self._entries.pop(request.request_id, None)
        if entry is None:
            return
        self._live.remove(entry)
        # Lazy deletion must not let the heap outgrow what is alive.
        if len(self._heap) > 64 and len(self._heap) > 2 * len(self._entries):
            self._heap = [entry for entry in self._heap if entry[1] in self._live]
            heapq.heapify(self._heap)

    def first(self) -> RequestView | None:
        """Return the member with the smallest key, or None."""
        heap = self._heap
        while heap and heap[0][1] not in self._live:
            heapq.heappop(heap)
        return heap[0][2] if heap else None

    def first_matching(self, accept: Callable[[RequestView], bool], limit: int) -> RequestView | None:
        """Return the first of the `limit` smallest members that `accept` takes, or None."""
        skipped: list[tuple[Any, int, RequestView]] = []
        found = None
        while len(skipped) < limit:
            request = self.first()
            if request is None:
                break
            if accept(request):
                found = request
                break
            skipped.append(heapq.heappop(self._heap))
        for entry in skipped:
            heapq.heappush(self._heap, entry)
        return found


class OrderedAdmission(Policy):
    """Base of a policy that admits by a key fixed when a request starts to wait; smallest first."""

    def __init__(self) -> None:
        self._queue = WaitingHeap()

    def waiting_key(self, request: RequestView) -> Any:
        """What the waiting requests are ordered by."""
        raise NotImplementedError

    def on_arrival(self, request: RequestView, engine: EngineView) -> None:
        """Queue it by its key."""
        self._queue.push(request, self.waiting_key(request))

    def on_preempt(self, request: RequestView, lost_tokens: int, engine: EngineView) -> None:
        """It waits again, by the same key."""
        self._queue.push(request, self.waiting_key(request))

    def on_admit(self, request: RequestView, engine: EngineView) -> None:
        """It runs."""
        self._queue.discard(request)

    def on_finish(self, request: RequestView, engine: EngineView, *, completed: bool) -> None:
        """It may have been aborted while it waited."""
        self._queue.discard(request)

    def select_next(self, engine: EngineView) -> RequestView | None:
        """Return the one with the smallest key."""
        return self._queue.first()
