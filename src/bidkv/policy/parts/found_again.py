"""How much of what a preemption throws away is found in the prefix cache when the request returns.

The blocks of a preempted request stay cached until others reuse them, and a prompt that running requests
share stays held. Where most of it is found again, a preemption costs little, and least for the request that
was admitted last and returns first.
"""

from __future__ import annotations

from bidkv.protocol.requests import RequestView

MOSTLY = 0.4
"""Share from which preemptions count as cheap. Samples of one prompt find 0.4 to 0.8 again, other traffic
mostly less than 0.3 (tuning seeds)."""
_LEAST_RETURNS = 8
"""Requests that must have come back before the share is believed."""
_KEEP = 0.98
"""Weight that one more return leaves the older ones: about 50 count."""


class FoundAgain:
    """Learns the share from the requests that return; every method is O(1).

    Attributes:
        lost_share: share of the tokens of a preemption that count as lost: 1 unless preemptions are cheap.
    """

    __slots__ = ("_found", "_lost", "_returns", "_waiting", "lost_share")

    def __init__(self) -> None:
        self._waiting: dict[str, int] = {}  # tokens lost, by the id of the preempted request
        self.clear()

    @property
    def mostly(self) -> bool:
        """Whether most of it is found again: preemptions are cheap."""
        return self.lost_share < 1.0

    def clear(self) -> None:
        """Forget the share."""
        self._waiting.clear()
        self._found = self._lost = 0.0
        self._returns = 0
        self.lost_share = 1.0

    def lose(self, request: RequestView, tokens: int) -> None:
        """`request` was preempted and lost `tokens` computed tokens."""
        self._waiting[request.request_id] = tokens

    def come_back(self, request: RequestView) -> None:
        """`request` runs; if it was preempted, its cached tokens were found again."""
        lost = self._waiting.pop(request.request_id, 0)
        if not lost:
            return
        self._returns += 1
        self._found = self._found * _KEEP + min(request.num_cached_tokens, lost)
        self._lost = self._lost * _KEEP + lost
        believed = self._returns >= _LEAST_RETURNS and self._found >= MOSTLY * self._lost
        self.lost_share = 1.0 - self._found / self._lost if believed else 1.0

    def forget(self, request: RequestView) -> None:
        """`request` left the engine."""
        self._waiting.pop(request.request_id, None)
