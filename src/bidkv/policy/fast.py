"""`fast`: short work first, with a dial for how far it may pass long work; every wait stays bounded."""

from __future__ import annotations

from collections.abc import Sequence

from bidkv.policy.fair import DEFAULT_PREEMPTION_CAP
from bidkv.policy.guards import PreemptionCap
from bidkv.policy.ordering import WaitingHeap, least
from bidkv.policy.prices import MachinePrices
from bidkv.policy.remaining import RemainingTokens
from bidkv.policy.reserve import SelfTuningReserve
from bidkv.protocol.policy import EngineView, Policy
from bidkv.protocol.requests import RequestView

_LOOK_PAST = 4


class Fast(Policy):
    """Admission as an auction in machine seconds: who costs little enters before who costs much.

    A request's cost c is the machine time it will take: the KV block-seconds it will hold, as a share of the
    whole memory, and the seconds its tokens take to compute. It enters by the key

        arrival + dial * c / weight

    so nobody who arrives later than dial * c / weight seconds after a request ever passes it in the order.
    Beside that, up to `look_past` requests behind a head that does not fit may enter in its place, at most
    `passes` times a head: the head then waits for memory alone, as under first come first served.
    """

    name = "fast"
    victim_rule = "the fewest computed tokens, the cheapest to compute again"

    def __init__(
        self,
        *,
        dial: float = 4.0,
        passes: int = 64,
        cap: int = DEFAULT_PREEMPTION_CAP,
        gain: float = 7.0,
        unit: float = 0.6,
        overhead_s: float = 1.4e-3,
    ) -> None:
        if not dial >= 0:
            raise ValueError(f"dial must be >= 0, got {dial}")
        if passes < 0:
            raise ValueError(f"passes must be >= 0, got {passes}")
        self.preemption_cap = PreemptionCap(cap).limit
        self.prices = MachinePrices()
        self.reserve = SelfTuningReserve(self.prices, gain=gain, unit=unit, overhead_s=overhead_s)
        self.remaining = RemainingTokens()
        self._dial = dial
        self._passes = passes
        self._waiting = WaitingHeap()
        self._passed: dict[str, int] = {}
        self._blocks: dict[str, int] = {}

    # --- the market ------------------------------------------------------------------------------
    def cost_s(self, request: RequestView, engine: EngineView) -> float:
        """Machine seconds `request` will still take."""
        tokens = request.num_prompt_tokens + request.num_output_tokens
        mean, square = self.remaining.moments(request)
        capacity_tokens = engine.num_blocks * engine.block_size
        held = (mean * tokens + square / 2) * self.prices.recent_step_s / capacity_tokens
        return held + self.prices.token_s * tokens

    def _enqueue(self, request: RequestView, engine: EngineView) -> None:
        delay_s = self._dial * self.cost_s(request, engine) / request.weight
        self._waiting.push(request, request.arrival_s + delay_s)
        tokens = request.num_prompt_tokens + request.num_output_tokens
        self._blocks[request.request_id] = -(-tokens // engine.block_size)

    # --- questions -------------------------------------------------------------------------------
    def select_victim(
        self, candidates: Sequence[RequestView], need_blocks: int, engine: EngineView
    ) -> RequestView | None:
        """Return the candidate with the fewest computed tokens: the cheapest to compute again."""
        return least(candidates, lambda request: request.num_computed_tokens)

    def reserve_blocks(self, engine: EngineView) -> int:
        """Return the reserve."""
        return self.reserve.blocks(engine)

    def select_next(self, engine: EngineView) -> RequestView | None:
        """Return the first in the order, or one of the next few where the first does not fit."""
        head = self._waiting.first()
        if head is None:
            return None
        room = engine.free_blocks - (self.reserve.blocks(engine) if engine.num_running else 0)
        blocks = self._blocks
        if blocks[head.request_id] <= room or self._passed.get(head.request_id, 0) >= self._passes:
            return head
        other = self._waiting.first_matching(
            lambda request: blocks[request.request_id] <= room, 1 + _LOOK_PAST
        )
        if other is None:
            return head
        self._passed[head.request_id] = self._passed.get(head.request_id, 0) + 1
        return other

    # --- events ----------------------------------------------------------------------------------
    def on_arrival(self, request: RequestView, engine: EngineView) -> None:
        """Queue it by its key."""
        self._enqueue(request, engine)

    def on_admit(self, request: RequestView, engine: EngineView) -> None:
        """It runs."""
        self._forget(request)

    def on_preempt(self, request: RequestView, lost_tokens: int, engine: EngineView) -> None:
        """It waits again, with what it generated; the reserve rises."""
        self.prices.observe(engine)
        self.reserve.on_preempt(lost_tokens, engine)
        self._enqueue(request, engine)

    def on_finish(self, request: RequestView, engine: EngineView, *, completed: bool) -> None:
        """Learn its length."""
        self.prices.observe(engine)
        self._forget(request)
        if completed:
            self.remaining.learn(request.num_output_tokens)

    def _forget(self, request: RequestView) -> None:
        self._waiting.discard(request)
        self._passed.pop(request.request_id, None)
        self._blocks.pop(request.request_id, None)
