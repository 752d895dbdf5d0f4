"""Rules that know true output lengths: no server can run them; they bound what prediction could win."""

from __future__ import annotations

from typing import ClassVar

from bidkv.policy.parts.ordering import WaitingHeap
from bidkv.policy.published.future_memory import ArrivalOrder, FutureMemory
from bidkv.protocol.policy import EngineView, Policy
from bidkv.protocol.requests import RequestView


class _Gate(Policy):
    """Admits the head of an order only if the true peak of memory then fits."""

    clairvoyant: ClassVar[bool] = True

    def __init__(self) -> None:
        self._memory = FutureMemory()

    def _head(self) -> RequestView | None:
        raise NotImplementedError

    def _leave(self, request: RequestView) -> None:
        raise NotImplementedError

    def select_next(self, engine: EngineView) -> RequestView | None:
        """Return the head, or None while its peak does not fit beside those that run."""
        for late in self._memory.take_overdue(engine):
            self._memory.add(late, self._remaining_tokens(late, engine), engine)
        head = self._head()
        if head is None or not self._memory:
            return head
        peak = self._memory.peak_tokens_with(head, self._remaining_tokens(head, engine), engine)
        return head if peak <= engine.num_blocks * engine.block_size else None

    def on_admit(self, request: RequestView, engine: EngineView) -> None:
        """It runs from now on."""
        self._leave(request)
        self._memory.add(request, self._remaining_tokens(request, engine), engine)

    def on_preempt(self, request: RequestView, lost_tokens: int, engine: EngineView) -> None:
        """It holds nothing any more and waits."""
        self._memory.discard(request)

    def on_finish(self, request: RequestView, engine: EngineView, *, completed: bool) -> None:
        """It is gone, from running or from waiting."""
        self._memory.discard(request)
        self._leave(request)

    @staticmethod
    def _remaining_tokens(request: RequestView, engine: EngineView) -> int:
        return max(1, engine.true_output_tokens(request) - request.num_output_tokens)


class PeakGate(_Gate):
    """`peak-gate` (clairvoyant): arrival order; the head enters when the future peak of memory fits.

    Source: the theoretical optimum that Past-Future (arXiv 2507.10150) is compared with.
    """

    name = "peak-gate"

    def __init__(self) -> None:
        super().__init__()
        self._queue = ArrivalOrder()

    def _head(self) -> RequestView | None:
        return self._queue.first()

    def _leave(self, request: RequestView) -> None:
        self._queue.discard(request)

    def on_arrival(self, request: RequestView, engine: EngineView) -> None:
        """It waits behind all others."""
        self._queue.append(request)

    def on_preempt(self, request: RequestView, lost_tokens: int, engine: EngineView) -> None:
        """It waits before all others."""
        super().on_preempt(request, lost_tokens, engine)
        self._queue.prepend(request)


class MemoryConstrainedShortestFirst(_Gate):
    """`mc-sf` (clairvoyant): the shortest output enters first, when the future peak of memory fits.

    Source: MC-SF, arXiv 2502.07115, algorithm 1.
    """

    name = "mc-sf"

    def __init__(self) -> None:
        super().__init__()
        self._queue = WaitingHeap()

    def _head(self) -> RequestView | None:
        return self._queue.first()

    def _leave(self, request: RequestView) -> None:
        self._queue.discard(request)

    def on_arrival(self, request: RequestView, engine: EngineView) -> None:
        """It waits among others, the smallest first."""
        self._queue.push(request, (self._size(request, engine), request.arrival_s))

    def on_preempt(self, request: RequestView, lost_tokens: int, engine: EngineView) -> None:
        """It waits by the same size as before."""
        super().on_preempt(request, lost_tokens, engine)
        self.on_arrival(request, engine)

    @staticmethod
    def _size(request: RequestView, engine: EngineView) -> float:
        return engine.true_output_tokens(request)


class SmallestVolumeFirst(MemoryConstrainedShortestFirst):
    """`smallest-volume` (clairvoyant): the smallest KV volume enters first, when the future peak fits.

    The volume is KV tokens times steps, s * o + o^2 / 2 with o output tokens behind a prompt of s.
    Source: arXiv 2606.22327.
    """

    name = "smallest-volume"

    @staticmethod
    def _size(request: RequestView, engine: EngineView) -> float:
        output_tokens = engine.true_output_tokens(request)
        return output_tokens * (request.num_prompt_tokens + output_tokens / 2)
