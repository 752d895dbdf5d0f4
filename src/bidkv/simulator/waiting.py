"""Waiting queues, first come first served or by (priority, arrival, id), and what may be asked of them."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterator, Sequence

from bidkv.protocol.engine_defaults import EngineViewDefaults
from bidkv.protocol.requests import RequestView
from bidkv.protocol.session_views import SessionTable
from bidkv.simulator.request import SimRequest


class FCFSQueue:
    """Arrivals at the back, preempted requests at the front; any member leaves in O(1)."""

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
        """Who the engine itself would admit next."""
        return next(iter(self._members.values()))

    def remove(self, request: SimRequest) -> None:
        """`request` is admitted."""
        del self._members[request.request_id]


class PriorityQueue:
    """A heap on (priority, arrival, request id); leaving from the middle is lazy."""

    __slots__ = ("_heap", "_members")

    def __init__(self) -> None:
        self._heap: list[tuple[int, float, str]] = []
        self._members: dict[str, SimRequest] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[SimRequest]:
        return iter(sorted(self._members.values(), key=_priority_key))

    def __contains__(self, request: RequestView) -> bool:
        return self._members.get(request.request_id) is request

    def append(self, request: SimRequest) -> None:
        """`request` arrived."""
        self._members[request.request_id] = request
        heapq.heappush(self._heap, _priority_key(request))

    prepend = append  # a preempted request keeps its place in the order

    def head(self) -> SimRequest:
        """Who the engine itself would admit next."""
        heap, members = self._heap, self._members
        while heap[0][2] not in members:
            heapq.heappop(heap)
        return members[heap[0][2]]

    def remove(self, request: SimRequest) -> None:
        """`request` is admitted."""
        del self._members[request.request_id]
        if self._heap[0][2] == request.request_id:
            heapq.heappop(self._heap)


def _priority_key(request: SimRequest) -> tuple[int, float, str]:
    return (request.priority, request.arrival_s, request.request_id)


class QueueView(EngineViewDefaults):
    """What a policy may ask about the requests of a simulated engine, whichever engine that is."""

    _waiting: FCFSQueue | PriorityQueue
    sessions: SessionTable | None = None

    def track_sessions(self, *, find_by_prefix: bool) -> None:
        """Show sessions to the policy; an engine without a prefix cache has nothing of them to show."""

    def cached_tokens(self, request: RequestView) -> int:
        """0 in an engine without a prefix cache."""
        return 0

    @property
    def num_waiting(self) -> int:
        """Requests that wait to enter."""
        return len(self._waiting)

    def waiting(self) -> Sequence[SimRequest]:
        """The waiting requests in the engine's own order."""
        return list(self._waiting)

    def is_waiting(self, request: RequestView) -> bool:
        """Whether `request` waits to enter."""
        return request in self._waiting

    def true_output_tokens(self, request: RequestView) -> int:
        """Tokens `request` will have generated in the end."""
        if not isinstance(request, SimRequest):
            raise TypeError(f"expected a request of this engine, got {request!r}")
        return request._target_tokens - request.num_prompt_tokens
