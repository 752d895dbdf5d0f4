"""Helpers for policies: choosing the least, and a waiting queue in any order."""

from __future__ import annotations

import heapq
from bisect import bisect, bisect_left
from collections.abc import Callable, Sequence
from typing import Any

from bidkv.protocol.policy import EngineView, Policy
from bidkv.protocol.requests import RequestView

LOOK_PAST = 16
"""Number of requests scanned behind a head that does not fit: bounds the cost of a decision."""


def least(candidates: Sequence[RequestView], key: Callable[[RequestView], Any]) -> RequestView:
    """Return the candidate with the smallest key; ties go to the later one, as an engine's own rule would.

    `candidates` holds at least one request.
    """
    return min(reversed(candidates), key=key)


def blocks_to_enter(request: RequestView, engine: EngineView, done: int | None = None) -> int:
    """Return the KV blocks that a waiting request takes for its prompt and the `done` tokens it generated."""
    if done is None:
        done = request.num_output_tokens
    return -(-(request.num_prompt_tokens + done) // engine.block_size)


_Entry = tuple[Any, int, RequestView, int]
_LONGEST_FRONT = 32


class WaitingHeap:
    """Waiting requests by a key that is fixed when they join; any member leaves at any time.

    Push and pop are O(log n); a member that leaves from the middle is dropped lazily. Ties go to the member
    that joined first.
    """

    __slots__ = ("_entries", "_front", "_front_sizes", "_heap", "_least", "_next")

    def __init__(self) -> None:
        # The smallest members in order, so that looking at the first few costs no heap operation; the heap
        # holds those after them. A member that leaves is dropped from the front at once, from the heap
        # lazily.
        self._front: list[_Entry] = []
        self._front_sizes: list[int] = []
        self._least = 0  # no size in the front is smaller
        self._heap: list[_Entry] = []
        self._entries: dict[str, _Entry] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._entries)

    def push(self, request: RequestView, key: Any, size: int = 0) -> None:
        """`request` joins; a second push replaces the first. :meth:`first_fitting` looks at its `size`."""
        name = request.request_id
        if name in self._entries:
            self.discard(request)
        self._next = order = self._next + 1
        self._entries[name] = entry = (key, order, request, size)
        front = self._front
        if not front or front[-1] < entry:
            heapq.heappush(self._heap, entry)
            return
        place = bisect(front, entry)
        front.insert(place, entry)
        self._front_sizes.insert(place, size)
        if size < self._least:
            self._least = size
        if len(front) > _LONGEST_FRONT:
            heapq.heappush(self._heap, front.pop())
            self._front_sizes.pop()

    def discard(self, request: RequestView) -> None:
        """`request` leaves; unknown ones are ignored."""
        entry = self._entries.pop(request.request_id, None)
        if entry is None:
            return
        front = self._front
        if front and front[0] is entry:  # mostly: what enters is the first
            del front[0], self._front_sizes[0]
            return
        place = bisect_left(front, entry)
        if place < len(front) and front[place] is entry:
            del front[place], self._front_sizes[place]
            return
        # Lazy deletion must not let the heap outgrow what is alive.
        if len(self._heap) > 64 and len(self._heap) > 2 * len(self._entries):
            entries = self._entries
            self._heap = [entry for entry in self._heap if entries.get(entry[2].request_id) is entry]
            heapq.heapify(self._heap)

    def first(self) -> RequestView | None:
        """Return the member with the smallest key, or None."""
        front = self._front
        if front or self._fill(1):
            return front[0][2]
        return None

    def first_fitting(self, most: int, limit: int, choice: int = 1) -> RequestView | None:
        """Return the largest of the first `choice` whose size is at most `most`, among the `limit` smallest.

        Of equals the first; None if none of the `limit` fits.
        """
        sizes = self._front_sizes
        if len(sizes) < limit and self._heap:
            self._fill(limit)
        if self._least > most or not sizes:  # mostly none fits, and nothing has changed that
            return None
        largest = -1
        for size in sizes if len(sizes) <= limit else sizes[:limit]:
            if size <= most:
                if size > largest:
                    largest = size
                choice -= 1
                if not choice:
                    break
        if largest < 0:
            self._least = min(sizes)
            return None
        return self._front[sizes.index(largest)][2]

    def reorder(self, key: Callable[[RequestView], Any]) -> None:
        """Give every member a new key; O(n log n)."""
        entries = sorted(
            (key(request), order, request, size) for _, order, request, size in self._entries.values()
        )
        self._entries = {entry[2].request_id: entry for entry in entries}
        self._front = entries[:_LONGEST_FRONT]
        self._front_sizes = [entry[3] for entry in self._front]
        self._least = 0
        self._heap = entries[_LONGEST_FRONT:]  # what is sorted is a heap

    def members(self) -> list[RequestView]:
        """Return all members, in no particular order; O(n)."""
        return [entry[2] for entry in self._entries.values()]

    def _fill(self, count: int) -> bool:
        """Move members from the heap to the front until it holds `count`; False when they are too few."""
        front, heap, entries = self._front, self._heap, self._entries
        while len(front) < count and heap:
            entry = heapq.heappop(heap)
            if entries.get(entry[2].request_id) is entry:  # it has not left
                front.append(entry)
                self._front_sizes.append(entry[3])
                if entry[3] < self._least:
                    self._least = entry[3]
        return len(front) >= count


class OrderedAdmission(Policy):
    """Base of a policy that admits by a key fixed when a request starts to wait; smallest first."""

    def __init__(self) -> None:
        self._queue = WaitingHeap()

    def waiting_key(self, request: RequestView) -> Any:
        """Key by which the waiting requests are ordered."""
        raise NotImplementedError

    def on_arrival(self, request: RequestView, engine: EngineView) -> None:
        """Queue it by its key."""
        self._queue.push(request, self.waiting_key(request))

    def on_preempt(self, request: RequestView, lost_tokens: int, engine: EngineView) -> None:
        """Queue it again by the same key."""
        self._queue.push(request, self.waiting_key(request))

    def on_admit(self, request: RequestView, engine: EngineView) -> None:
        """Take it off the queue."""
        self._queue.discard(request)

    def on_finish(self, request: RequestView, engine: EngineView, *, completed: bool) -> None:
        """It may have been aborted while it waited."""
        self._queue.discard(request)

    def select_next(self, engine: EngineView) -> RequestView | None:
        """Return the request with the smallest key."""
        return self._queue.first()
