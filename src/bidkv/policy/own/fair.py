"""`fair`: the recommended default. Arrivals are never reordered; memory is reserved only while that pays."""

from __future__ import annotations

from collections.abc import Sequence

from bidkv.policy.parts.cap import validate_cap
from bidkv.policy.parts.ordering import blocks_to_enter
from bidkv.policy.parts.prices import MachinePrices
from bidkv.policy.parts.recompute import cheapest_to_repeat
from bidkv.policy.parts.reserve import SelfTuningReserve
from bidkv.policy.parts.returning import ReturnQueue
from bidkv.protocol.policy import EngineView, Policy
from bidkv.protocol.requests import RequestView

DEFAULT_PREEMPTION_CAP = 8


class Fair(Policy):
    """Preempts whom it costs the machine least to compute again, and keeps a self-tuning reserve.

    Who has not run yet enters in the order of arrival, after those that were preempted. While a preempted
    request does not fit, others may enter in its place, at most `passes` newcomers until it returns.

    A request is chosen at most `cap` times; beyond that the engine's own rule decides, so the policy adds at
    most `cap` preemptions to what the engine would do to one request.

    Args:
        passes: newcomers that may enter while a preempted request waits to return, at least 0.
        cap: preemptions after which a request is no longer chosen, at least 1.
        gain: speed of the reserve, per second.
        unit: sensitivity of the reserve, in footprints of one request.
        overhead_s: seconds a preemption costs beside its recomputed tokens.
    """

    name = "fair"
    victim_rule = "the latest of those with about the fewest computed tokens, the cheapest to compute again"

    def __init__(
        self,
        *,
        passes: int = 4,
        cap: int = DEFAULT_PREEMPTION_CAP,
        gain: float = 7.0,
        unit: float = 0.6,
        overhead_s: float = 1.4e-3,
    ) -> None:
        self.preemption_cap = validate_cap(cap)
        self.prices = MachinePrices()
        self.reserve = SelfTuningReserve(self.prices, gain=gain, unit=unit, overhead_s=overhead_s)
        self._queue = ReturnQueue(passes)

    def select_victim(
        self, candidates: Sequence[RequestView], need_blocks: int, engine: EngineView
    ) -> RequestView | None:
        """Return the latest of the candidates that are about the cheapest to compute again."""
        return cheapest_to_repeat(candidates, engine)

    def reserve_blocks(self, engine: EngineView) -> int:
        """Return the reserve."""
        return self.reserve.blocks(engine)

    def select_next(self, engine: EngineView) -> RequestView | None:
        """Return the engine's own next, or who enters in place of a preempted request that does not fit."""
        return self._queue.choose(*self.reserve.room(engine))

    def on_arrival(self, request: RequestView, engine: EngineView) -> None:
        """It waits behind all others."""
        self._queue.arrive(request, blocks_to_enter(request, engine))

    def on_admit(self, request: RequestView, engine: EngineView) -> None:
        """It runs."""
        self._queue.admit(request)

    def on_preempt(self, request: RequestView, lost_tokens: int, engine: EngineView) -> None:
        """It waits before all others; the reserve rises by what it cost."""
        self.reserve.on_preempt(lost_tokens, engine)
        self._queue.preempt(request, blocks_to_enter(request, engine))

    def on_finish(self, request: RequestView, engine: EngineView, *, completed: bool) -> None:
        """Look at the clock and the memory in use."""
        self.reserve.observe(engine)
        self._queue.discard(request)  # aborted while it waited
