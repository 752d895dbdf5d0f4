"""`fair`: the recommended default. Arrivals are never reordered; memory is reserved only while that pays."""

from __future__ import annotations

from collections.abc import Sequence

from bidkv.policy.guards import PreemptionCap
from bidkv.policy.prices import MachinePrices
from bidkv.policy.recompute import cheapest_to_repeat
from bidkv.policy.reserve import SelfTuningReserve
from bidkv.protocol.policy import EngineView, Policy
from bidkv.protocol.requests import RequestView

DEFAULT_PREEMPTION_CAP = 8


class Fair(Policy):
    """Preempts whom it costs the machine least to compute again, and keeps a self-tuning reserve.

    Arrival order is the engine's own. A request is chosen at most `cap` times; beyond that the engine's own
    rule decides, so the policy adds at most `cap` preemptions to what the engine would do to one request.

    Args:
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
        cap: int = DEFAULT_PREEMPTION_CAP,
        gain: float = 7.0,
        unit: float = 0.6,
        overhead_s: float = 1.4e-3,
    ) -> None:
        self.preemption_cap = PreemptionCap(cap).limit
        self.prices = MachinePrices()
        self.reserve = SelfTuningReserve(self.prices, gain=gain, unit=unit, overhead_s=overhead_s)

    def select_victim(
        self, candidates: Sequence[RequestView], need_blocks: int, engine: EngineView
    ) -> RequestView | None:
        """Return the latest of the candidates that are about the cheapest to compute again."""
        return cheapest_to_repeat(candidates, engine)

    def reserve_blocks(self, engine: EngineView) -> int:
        """Return the reserve."""
        return self.reserve.blocks(engine)

    def on_preempt(self, request: RequestView, lost_tokens: int, engine: EngineView) -> None:
        """Raise the reserve by what it cost."""
        self.prices.observe(engine)
        self.reserve.on_preempt(lost_tokens, engine)

    def on_finish(self, request: RequestView, engine: EngineView, *, completed: bool) -> None:
        """Look at the clock and the memory in use."""
        self.prices.observe(engine)
