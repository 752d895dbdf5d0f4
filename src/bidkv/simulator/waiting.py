"""Waiting queues: first come first served, or by (priority, arrival, id)."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterator

from bidkv.protocol.requests import RequestView
from bidkv.simulator.request import SimRequest


class FCFSQueue:
    """First come, first served: arrivals at the back, preempted requests at the front; leaving is O(1)."""

    __slots__ = ("_members",)

    def __init__(self) -> None:
        self._members: OrderedDict[str, SimRequest] = OrderedDict()

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[SimRequest]:
        return iter(self._members.values())

    def __contains__(self, request: RequestView) -> bool:
        return self._members.get(request.request_id) is request

    def append(self, request: SimRequest) -> None:
        """`request` arrived."""
        self._members[request.request_id] = request

    def prepend(self, request: SimRequest) -> None:
        """`request` was preempted."""
        self._members[request.request_id] = request
        self._members.move_to_end(request.request_id, last=False)

    def head(self) -> SimRequest:
        """Return the request that the engine itself would admit next."""
        return next(iter(self._members.values()))

    def remove(self, request: SimRequest) -> None:
        """`request` is admitted."""
        del self._members[request.request_id]


class PriorityQueue:
    """By (priority, arrival, request id): a heap, from whose middle requests leave lazily."""

    __slots__ = ("_entries", "_heap", "_members")

    def __init__(self) -> None:
        self._heap: list[_PriorityKey] = []
        self._entries: dict[str, _PriorityKey] = {}  # of the members; others in the heap are stale
        self._members: dict[str, SimRequest] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[SimRequest]:
        return iter(sorted(self._members.values(), key=priority_key))

    def __contains__(self, request: RequestView) -> bool:
        return self._members.get(request.request_id) is request

    def append(self, request: SimRequest) -> None:
        """`request` arrived."""
        self._members[request.request_id] = request
        self._entries[request.request_id] = entry = priority_key(request)
        heapq.heappush(self._heap, entry)

    prepend = append  # a preempted request keeps its place in the order

    def head(self) -> SimRequest:
        """Return the request that the engine itself would admit next."""
        heap, entries = self._heap, self._entries
        # Identity: a later request may have the id of one that left.
        while entries.get(heap[0][2]) is not heap[0]:
            heapq.heappop(heap)
        return self._members[heap[0][2]]

    def remove(self, request: SimRequest) -> None:
        """`request` is admitted."""
        del self._members[request.request_id]
        if self._heap[0] is self._entries.pop(request.request_id):
            heapq.heappop(self._heap)


_PriorityKey = tuple[int, float, str]


def priority_key(request: RequestView) -> _PriorityKey:
    """Return what requests are ordered by under priority scheduling."""
    return (request.priority, request.arrival_s, request.request_id)
