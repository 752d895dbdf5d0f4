"""Which of a request's tokens are computed again."""

from __future__ import annotations


class RecomputeLedger:
    """For each live request: when it was first admitted, and which positions were computed before.

    A request's life between an admission and the next preemption or finish computes positions
    [start, computed); those below the highest position ever computed are recomputed ones.
    """

    __slots__ = ("_admitted_s", "_high", "_start")

    def __init__(self) -> None:
        self._admitted_s: dict[str, float] = {}
        self._high: dict[str, int] = {}
        self._start: dict[str, int] = {}

    def begin(self, request_id: str, now_s: float, cached_tokens: int) -> None:
        """A request was admitted, `cached_tokens` of it from the prefix cache."""
        self._admitted_s.setdefault(request_id, now_s)
        if request_id in self._high:
            self._start[request_id] = cached_tokens

    def preempt(self, request_id: str, computed: int) -> int:
        """A request lost its `computed` tokens; return how many of them had been computed before."""
        high = self._high.get(request_id, 0)
        recomputed = max(0, min(computed, high) - self._start.pop(request_id, 0))
        self._high[request_id] = max(high, computed)
        return recomputed

    def end(self, request_id: str, computed: int) -> tuple[int, float | None]:
        """A request left; return its recomputed tokens and when it was first admitted, in seconds."""
        high = self._high.pop(request_id, 0)
        recomputed = max(0, min(computed, high) - self._start.pop(request_id, high))
        return recomputed, self._admitted_s.pop(request_id, None)
