"""What comes in: arrivals in order, and requests no engine of this size could run."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from bidkv.protocol.requests import WorkloadRequest
from bidkv.results import Outcome, RequestRecord


class SimulationError(RuntimeError):
    """The workload cannot be run as given; the message names the request."""


class InOrder(Iterator[WorkloadRequest]):
    """The requests of a workload, in order; may be asked again when its source has more than it had.

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


class Inbox(Iterator[WorkloadRequest]):
    """Requests handed in one by one while a run goes on: empty now does not mean empty for good."""

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


class Inside:
    """The names of the requests that are in an engine; policies and queues tell requests apart by them."""

    __slots__ = ("_names",)

    def __init__(self) -> None:
        self._names: set[str] = set()

    def enter(self, name: str) -> None:
        """A request came in.

        Raises:
            SimulationError: one of the same name has not left yet.
        """
        if name in self._names:
            raise SimulationError(f"request {name!r} occurs twice: names must be unique within a workload")
        self._names.add(name)

    def leave(self, name: str) -> None:
        """A request is through."""
        self._names.remove(name)


def rejection(request: WorkloadRequest, model_len: int) -> RequestRecord:
    """Return the record of a request whose prompt is too long for the engine."""
    return RequestRecord(
        request.request_id,
        request.arrival_s,
        request.prompt_tokens,
        0,
        None,
        None,
        outcome=Outcome.REJECTED,
        detail=f"prompt of {request.prompt_tokens} tokens, the engine takes at most {model_len - 1}",
    )
