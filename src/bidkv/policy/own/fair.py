"""`fair`: the recommended default. New requests keep their order; memory is reserved only while that pays."""

from __future__ import annotations

from bidkv.policy.own.reserving import DEFAULT_PREEMPTION_CAP, ReservingPolicy
from bidkv.policy.parts.ordering import blocks_to_enter
from bidkv.policy.parts.returning import ReturnQueue
from bidkv.protocol.policy import EngineView
from bidkv.protocol.requests import RequestView


class Fair(ReservingPolicy):
    """Preempts the request that is cheapest to recompute, and keeps a self-tuning reserve.

    New requests are admitted in order of arrival, behind the preempted ones. A preempted request returns once
    it fits with room for the running requests to grow while it earns its recompute back. Until then other
    preempted requests may return, and new ones may enter with the same kind of room, at most `passes` of both
    before it returns.

    Where most of what preemptions throw away is found in the prefix cache again, preempted requests return as
    soon as they fit, the last one first: it finds the most.

    A request is chosen as a victim at most `cap` times; beyond that the engine's own rule decides, so the
    policy adds at most `cap` preemptions to what the engine would do to one request.

    Args:
        passes: requests that may enter while a preempted request waits to return, at least 0; 0 keeps the
            engine's own order.
        cap: preemptions after which a request is no longer chosen, at least 1.
        gain: speed of the reserve, per second.
        unit: sensitivity of the reserve, in footprints of one request.
        overhead_s: seconds a preemption costs beside its recomputed tokens.
    """

    name = "fair"

    def __init__(
        self,
        *,
        passes: int = 128,
        cap: int = DEFAULT_PREEMPTION_CAP,
        gain: float = 7.0,
        unit: float = 0.6,
        overhead_s: float = 1.4e-3,
    ) -> None:
        super().__init__(cap=cap, gain=gain, unit=unit, overhead_s=overhead_s)
        self._queue = ReturnQueue(passes)

    def select_next(self, engine: EngineView) -> RequestView | None:
        """Return the next request in line that fits with its room to grow; None while that one must wait."""
        queue = self._queue
        if not queue.holds_preempted:
            return queue.first_new()
        return queue.first_preempted() if self.found.mostly else queue.choose(self.reserve.room(engine))

    def reserve_blocks(self, engine: EngineView) -> int:
        """Blocks the reserve keeps free now; while none waits to return, also room for a new request to earn.

        What enters while a preempted request waits is chosen with more room than that.
        """
        kept = self.reserve.blocks(engine)
        if self._queue.holds_preempted or self.found.mostly:
            return kept
        earning = self.reserve.earning_blocks(engine)
        return earning if earning > kept else kept

    def on_arrival(self, request: RequestView, engine: EngineView) -> None:
        """Queue it behind all others."""
        self._queue.arrive(request, blocks_to_enter(request, engine))

    def on_admit(self, request: RequestView, engine: EngineView) -> None:
        """Take it off the queue."""
        super().on_admit(request, engine)
        self._queue.admit(request)

    def on_preempt(self, request: RequestView, lost_tokens: int, engine: EngineView) -> None:
        """Queue it before all new requests; the reserve rises by what the preemption cost."""
        super().on_preempt(request, lost_tokens, engine)
        self._queue.preempt(request, blocks_to_enter(request, engine), first=self.found.mostly)

    def on_finish(self, request: RequestView, engine: EngineView, *, completed: bool) -> None:
        """Learn from it; it may have been aborted while it waited."""
        super().on_finish(request, engine, completed=completed)
        self._queue.forget(request)
