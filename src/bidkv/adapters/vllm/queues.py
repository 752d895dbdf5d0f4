"""vLLM's waiting queues with one addition: the next request is chosen at the moment it can enter.

Both keep the engine's own order exactly and hand out its own head unless an :class:`Admission` names
another member. Any member leaves in O(1) (first come, first served) or O(log n) (priority). They have the
methods of vLLM's `RequestQueue` without inheriting from it, so that this module does not need vLLM.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any, Protocol


class Admission(Protocol):
    """Decides which member of a queue enters next."""

    def next_request(self, queue: WaitingQueue) -> Any | None:
        """Return the member to admit now, or None to admit none; called with a queue that is not empty."""

    def left_queue(self, request: Any) -> None:
        """Note that `request` was popped: admitted, or set aside by the engine for this step."""


class WaitingQueue:
    """First come, first served; preempted requests go to the front."""

    def __init__(self, admission: Admission) -> None:
        self._members: OrderedDict[str, Any] = OrderedDict()
        self._admission = admission

    # --- the engine's interface ------------------------------------------------------------------
    def add_request(self, request: Any) -> None:
        """Put an arrival at the back."""
        self._members[request.request_id] = request

    def prepend_request(self, request: Any) -> None:
        """Put a preempted or skipped request at the front."""
        self._members[request.request_id] = request
        self._members.move_to_end(request.request_id, last=False)

    def prepend_requests(self, requests: Iterable[Any]) -> None:
        """Put each at the front in turn, so that they end up in reverse order, as in vLLM."""
        for request in requests:
            self.prepend_request(request)

    def peek_request(self) -> Any:
        """Return the request that enters next.

        Raises:
            IndexError: the queue is empty, or the policy admits none.
        """
        request = self._admission.next_request(self) if self._members else None
        if request is None:
            raise IndexError("peek from a queue that admits no request")
        return request

    def pop_request(self) -> Any:
        """Take out the request that enters next.

        Raises:
            IndexError: the queue is empty, or the policy admits none.
        """
        request = self.peek_request()
        self._discard(request)
        self._admission.left_queue(request)
        return request

    def remove_request(self, request: Any) -> None:
        """Take out one member (aborted)."""
        self._discard(request)

    def remove_requests(self, requests: Iterable[Any]) -> None:
        """Take out those of `requests` that are members."""
        for request in list(requests):
            if request in self:
                self._discard(request)

    def __bool__(self) -> bool:
        """Whether a request may enter now; outside a scheduling pass, whether any waits."""
        return bool(self._members) and self._admission.next_request(self) is not None

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self._members.values()))

    # --- for the admission -----------------------------------------------------------------------
    def __contains__(self, request: Any) -> bool:
        return self._members.get(request.request_id) is request

    def head(self) -> Any:
        """Return the request that the engine itself would admit; the queue must not be empty."""
        return next(iter(self._members.values()))

    def _discard(self, request: Any) -> None:
        del self._members[request.request_id]


class PriorityWaitingQueue(WaitingQueue):
    """By (priority, arrival time, request id), the smallest first; a preempted request keeps its place."""

    def __init__(self, admission: Admission) -> None:
        super().__init__(admission)
        # The key is frozen when a request joins; entries of members that left are dropped lazily.
        self._heap: list[tuple[int, float, str, Any]] = []

    def add_request(self, request: Any) -> None:
        """Put a request in its place."""
        self._members[request.request_id] = request
        heapq.heappush(self._heap, _entry(request))

    def prepend_request(self, request: Any) -> None:
        """Put a preempted or skipped request back in its place."""
        self.add_request(request)

    def __iter__(self) -> Iterator[Any]:
        return iter(sorted(self._members.values(), key=_entry))

    def head(self) -> Any:
        """Return the request that the engine itself would admit; the queue must not be empty."""
        heap, members = self._heap, self._members
        while members.get(heap[0][2]) is not heap[0][3]:
            heapq.heappop(heap)
        return heap[0][3]

    def _discard(self, request: Any) -> None:
        super()._discard(request)
        if len(self._heap) > 64 and len(self._heap) > 2 * len(self._members):
            self._heap = [_entry(member) for member in self._members.values()]
            heapq.heapify(self._heap)


def _entry(request: Any) -> tuple[int, float, str, Any]:
    return request.priority, request.arrival_time, request.request_id, request
