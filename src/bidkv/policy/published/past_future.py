"""Past-Future: lengths of the past predict the memory of the future."""

from __future__ import annotations

import random
from bisect import bisect_right, insort
from collections import deque

from bidkv.policy.published.future_memory import ArrivalOrder, FutureMemory
from bidkv.protocol.policy import EngineView, Policy
from bidkv.protocol.requests import RequestView

_SAMPLES = 200
_MOST_SCENARIOS = 5


class PastFuture(Policy):
    """`past-future`: arrival order; the head enters when the predicted peak of memory fits.

    A running request's length is drawn from the finished lengths in a window that exceed what it has
    generated, interpolated up to its cap; a newcomer's is any length in the window. The peak is the largest
    of several scenarios (:class:`FutureMemory`), fewer in large batches.

    Source: arXiv 2507.10150 and its implementation in LightLLM (`PastFutureQueue`: window 200, 5 % kept
    free, 200 / batch + 1 scenarios, at most 5). There every length is drawn anew in every step; here a drawn
    length stays until the request outlives it, which is the same distribution at a fraction of the cost.
    There every request has a cap. Here a request without one is assumed to end at the longest length in the
    window, or at twice what it has generated once it has outlived that. Before any request has finished,
    such a request is admitted at once.

    Args:
        window: finished lengths remembered, at least 1.
        kept_free: share of the memory the peak must leave free, in [0, 1).
        scenarios: how many are drawn, 1 to 200; None as in LightLLM.
        seed: of the draws.
    """

    name = "past-future"

    def __init__(
        self, *, window: int = 200, kept_free: float = 0.05, scenarios: int | None = None, seed: int = 0
    ) -> None:
        if window < 1:
            raise ValueError(f"window must be >= 1, got {window}")
        if not 0.0 <= kept_free < 1.0:
            raise ValueError(f"kept_free must be in [0, 1), got {kept_free}")
        if scenarios is not None and not 1 <= scenarios <= _SAMPLES:
            raise ValueError(f"scenarios must be in [1, {_SAMPLES}] or none, got {scenarios}")
        self._window = window
        self._count = scenarios
        self._kept_free = kept_free
        self._random = random.Random(seed)
        self._queue = ArrivalOrder()
        self._history: deque[int] = deque()
        self._ordered: list[int] = []
        self._scenarios: list[FutureMemory] = []

    def select_next(self, engine: EngineView) -> RequestView | None:
        """Return the head, or None while its predicted peak does not fit beside those that run."""
        head = self._queue.first()
        scenarios = self._futures(engine)
        if head is None or not scenarios[0]:
            return head
        limit = (1.0 - self._kept_free) * engine.num_blocks * engine.block_size
        for future in scenarios:
            for late in future.take_overdue(engine):
                future.add(late, self._draw_remaining(late), engine)
        fits = all(
            future.peak_tokens_with(head, self._draw_new(head), engine) <= limit for future in scenarios
        )
        return head if fits else None

    def on_arrival(self, request: RequestView, engine: EngineView) -> None:
        """It waits behind all others."""
        self._queue.append(request)

    def on_admit(self, request: RequestView, engine: EngineView) -> None:
        """It runs: draw its length."""
        self._queue.discard(request)
        for future in self._futures(engine):
            future.add(request, self._draw_remaining(request), engine)

    def on_preempt(self, request: RequestView, lost_tokens: int, engine: EngineView) -> None:
        """It waits before all others."""
        for future in self._scenarios:
            future.discard(request)
        self._queue.prepend(request)

    def on_finish(self, request: RequestView, engine: EngineView, *, completed: bool) -> None:
        """Remember how long its output was."""
        self._queue.discard(request)
        for future in self._scenarios:
            future.discard(request)
        if completed:
            self._remember(request.num_output_tokens)

    def _remember(self, length: int) -> None:
        self._history.append(length)
        insort(self._ordered, length)
        if len(self._history) > self._window:
            oldest = self._history.popleft()
            del self._ordered[bisect_right(self._ordered, oldest) - 1]

    def _futures(self, engine: EngineView) -> list[FutureMemory]:
        if not self._scenarios:
            count = self._count or min(_MOST_SCENARIOS, _SAMPLES // engine.max_num_seqs + 1)
            self._scenarios = [FutureMemory() for _ in range(count)]
        return self._scenarios

    def _draw_new(self, request: RequestView) -> int:
        if not self._ordered:
            return self._cap(request) - request.num_output_tokens
        length = self._ordered[self._random.randrange(len(self._ordered))]
        return max(1, length - request.num_output_tokens)

    def _draw_remaining(self, request: RequestView) -> int:
        """Draw between the points generated, longer finished lengths..., cap; interpolated."""
        generated, cap = request.num_output_tokens, self._cap(request)
        longer = self._ordered[bisect_right(self._ordered, generated) :]
        if not longer:
            return max(1, round((cap - generated) * self._random.random()))
        place = self._random.random() * (len(longer) + 1)
        below = int(place)
        low = longer[below - 1] if below else generated
        high = longer[below] if below < len(longer) else max(cap, low)
        return max(1, round(low + (high - low) * (place - below)) - generated)

    def _cap(self, request: RequestView) -> int:
        """Return where the output must end, above what is generated."""
        generated = request.num_output_tokens
        if request.max_tokens is not None:
            return max(generated + 1, request.max_tokens)
        longest = self._ordered[-1] if self._ordered else 0
        return longest if longest > generated else max(2 * generated, generated + 1)
