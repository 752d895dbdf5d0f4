"""The peak of memory that running requests will need, when each has a predicted length."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict

from bidkv.protocol.policy import EngineView
from bidkv.protocol.requests import RequestView

_Entry = tuple[int, int, int, RequestView]


class FutureMemory:
    """Predicted finishing steps of running requests, and the peak of tokens they will hold.

    A decoding request computes one position a step, so `tokens - step` stays as it is and nothing has to be
    updated while time passes. Memory peaks at some finishing step s, where it is the sum over the requests
    that finish at s or later of (tokens - step) + s (Past-Future, arXiv 2507.10150, eq. 4; MC-SF, arXiv
    2502.07115, eq. 5). Every request counts half a block more: the part of its last block it does not use,
    on average.

    Joining and leaving cost a binary search, a peak O(running requests).
    """

    __slots__ = ("_by_id", "_entries", "_number")

    def __init__(self) -> None:
        self._entries: list[_Entry] = []  # by (-finishing step, number): the last to finish comes first
        self._by_id: dict[str, _Entry] = {}
        self._number = 0

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, request: RequestView, remaining_tokens: int, engine: EngineView) -> None:
        """`request` runs and will generate `remaining_tokens` more, at least 1; a second call replaces."""
        self.discard(request)
        self._number += 1
        entry = self._entry(request, remaining_tokens, engine)
        insort(self._entries, entry)
        self._by_id[request.request_id] = entry

    def discard(self, request: RequestView) -> None:
        """`request` runs no more; unknown ones are ignored."""
        entry = self._by_id.pop(request.request_id, None)
        if entry is not None:
            del self._entries[bisect_left(self._entries, entry)]

    def take_overdue(self, engine: EngineView) -> list[RequestView]:
        """Remove and return those that should have finished before the coming step."""
        overdue = []
        while self._entries and -self._entries[-1][0] < engine.num_steps:
            request = self._entries.pop()[3]
            del self._by_id[request.request_id]
            overdue.append(request)
        return overdue

    def peak_tokens_with(self, request: RequestView, remaining_tokens: int, engine: EngineView) -> int:
        """Return the peak if `request` entered now and generated `remaining_tokens` more, at least 1."""
        newcomer = self._entry(request, remaining_tokens, engine)
        place = bisect_left(self._entries, newcomer[:1])
        peak = held = 0
        in_order = (*self._entries[:place], newcomer, *self._entries[place:])
        for count, entry in enumerate(in_order, start=1):
            held += entry[2]
            needed = held - count * entry[0]
            if needed > peak:
                peak = needed
        return peak

    def _entry(self, request: RequestView, remaining_tokens: int, engine: EngineView) -> _Entry:
        tokens = request.num_prompt_tokens + request.num_output_tokens
        pending = max(1, tokens - request.num_computed_tokens)
        # The step that computes the last pending position brings the first new token.
        first_token_step = engine.num_steps + -(-pending // engine.max_num_batched_tokens) - 1
        finish = first_token_step + remaining_tokens - 1
        return (-finish, self._number, tokens + engine.block_size // 2 - first_token_step, request)


class ArrivalOrder:
    """The engine's own queue without asking the engine for it: arrivals last, preempted requests first."""

    __slots__ = ("_members",)

    def __init__(self) -> None:
        self._members: OrderedDict[str, RequestView] = OrderedDict()

    def append(self, request: RequestView) -> None:
        """`request` arrived."""
        self._members[request.request_id] = request

    def prepend(self, request: RequestView) -> None:
        """`request` was preempted."""
        self._members[request.request_id] = request
        self._members.move_to_end(request.request_id, last=False)

    def discard(self, request: RequestView) -> None:
        """`request` waits no more; unknown ones are ignored."""
        self._members.pop(request.request_id, None)

    def first(self) -> RequestView | None:
        """Return the request that is next, or None."""
        return next(iter(self._members.values()), None)
