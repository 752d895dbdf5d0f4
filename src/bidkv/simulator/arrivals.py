"""Where requests come from: open workloads, inboxes, and the protocol of every source."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from bidkv.protocol.requests import WorkloadRequest
from bidkv.results import Outcome, RequestRecord


class SimulationError(RuntimeError):
    """The workload cannot be run as given; the message names the request."""


class Arrival(NamedTuple):
    """A request that arrives, and what its source knows of it beside what the request itself says.

    Attributes:
        request: with its prompt's content.
        new_tokens: prompt tokens that no earlier turn of its session had; None for a single request.
        past_tokens: leading prompt tokens whose KV was computed for an earlier turn of its session.
        ends_session: whether it is its session's last turn, told to the engine or not.
    """

    request: WorkloadRequest
    new_tokens: int | None = None
    past_tokens: int = 0
    ends_session: bool = False


class RequestSource(Protocol):
    """Where a run's requests come from. It is told when requests leave, so it can close the loop."""

    @property
    def tells_sessions(self) -> bool:
        """Whether the requests' clients name their sessions to the engine."""

    @property
    def next_arrival_s(self) -> float:
        """When the next request arrives as far as is known now; infinity when none is known."""

    def take(self) -> Arrival:
        """Return the request that :attr:`next_arrival_s` speaks of; the next call returns the one after."""

    @property
    def next_give_up_s(self) -> float:
        """When the next client gives up its request unless it is complete by then; infinity for never."""

    def take_given_up(self) -> str:
        """Return the id of the request that :attr:`next_give_up_s` speaks of; it may have left already."""

    def close(self, request: WorkloadRequest, now_s: float, output_tokens: int, *, completed: bool) -> None:
        """`request` left the engine with `output_tokens` generated: completed, or rejected or given up."""


class InOrder(Iterator[WorkloadRequest]):
    """The requests of a workload in order of arrival; after its end it may go on when the workload has grown.

    Raises:
        SimulationError: while iterating, a request that arrives before its predecessor.
    """

    __slots__ = ("_previous", "_source")

    def __init__(self, requests: Iterable[WorkloadRequest]) -> None:
        self._source = iter(requests)
        self._previous: WorkloadRequest | None = None

    def __next__(self) -> WorkloadRequest:
        """Return the next request."""
        request = next(self._source)
        previous = self._previous
        if previous is not None and request.arrival_s < previous.arrival_s:
            raise SimulationError(
                f"request {request.request_id!r} arrives at {request.arrival_s} s, before "
                f"{previous.request_id!r} at {previous.arrival_s} s: arrivals must be in order"
            )
        self._previous = request
        return request


class OpenSource:
    """Requests whose arrivals are known beforehand: nothing that happens in the engine changes them.

    Raises:
        SimulationError: while it is read, a request that arrives before its predecessor.
    """

    next_give_up_s = math.inf
    tells_sessions = True

    def __init__(self, requests: Iterable[WorkloadRequest]) -> None:
        self._requests = InOrder(requests)
        self._next: WorkloadRequest | None = None

    @property
    def next_arrival_s(self) -> float:
        """When the next request arrives; infinity while the workload has no more."""
        request = self._next
        if request is None:
            request = self._next = next(self._requests, None)
        return math.inf if request is None else request.arrival_s

    def take(self) -> Arrival:
        """Return the next request."""
        request, self._next = self._next, None
        return Arrival(next(self._requests) if request is None else request)

    def take_given_up(self) -> str:
        """No client of an open workload gives up."""
        raise LookupError("no client gives up")

    def close(self, request: WorkloadRequest, now_s: float, output_tokens: int, *, completed: bool) -> None:
        """`request` left the engine, which changes nothing."""


class Inbox(Iterator[WorkloadRequest]):
    """Requests handed in one by one during a run; an empty inbox may be filled again."""

    __slots__ = ("_queue",)

    def __init__(self) -> None:
        self._queue: deque[WorkloadRequest] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def push(self, request: WorkloadRequest) -> None:
        """Hand in a request."""
        self._queue.append(request)

    def __next__(self) -> WorkloadRequest:
        """Return the oldest request not taken yet."""
        if not self._queue:
            raise StopIteration
        return self._queue.popleft()


class LiveRequestIds:
    """The ids of the requests in an engine; policies and queues tell requests apart by them."""

    __slots__ = ("_ids",)

    def __init__(self) -> None:
        self._ids: set[str] = set()

    def enter(self, request_id: str) -> None:
        """A request came in.

        Raises:
            SimulationError: one with the same id has not left yet.
        """
        if request_id in self._ids:
            raise SimulationError(
                f"request {request_id!r} occurs twice: ids must be unique within a workload"
            )
        self._ids.add(request_id)

    def leave(self, request_id: str) -> None:
        """A request left."""
        self._ids.remove(request_id)


def make_rejection(request: WorkloadRequest, longest_prompt: int) -> RequestRecord:
    """Return the record of a request whose prompt is too long for the engine."""
    return RequestRecord(
        request.request_id,
        request.arrival_s,
        request.prompt_tokens,
        0,
        None,
        None,
        outcome=Outcome.REJECTED,
        detail=f"prompt of {request.prompt_tokens} tokens, the engine takes at most {longest_prompt}",
    )
