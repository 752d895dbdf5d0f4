"""What comes in: arrivals in order, and requests no engine of this size could run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bidkv.protocol.requests import WorkloadRequest
from bidkv.results import Outcome, RequestRecord


class SimulationError(RuntimeError):
    """The workload cannot be run as given; the message names the request."""


def in_order(requests: Iterable[WorkloadRequest]) -> Iterator[WorkloadRequest]:
    """Yield the requests.

    Raises:
        SimulationError: one arrives before its predecessor.
    """
    previous: WorkloadRequest | None = None
    for request in requests:
        if previous is not None and request.arrival_s < previous.arrival_s:
            raise SimulationError(
                f"request {request.request_id!r} arrives at {request.arrival_s} s, before "
                f"{previous.request_id!r} at {previous.arrival_s} s: arrivals must be in order"
            )
        previous = request
        yield request


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
