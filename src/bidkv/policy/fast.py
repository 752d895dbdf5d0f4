"""`fast`: short work first, with a dial for how far it may pass long work; every wait stays bounded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bidkv.policy.fair import DEFAULT_PREEMPTION_CAP
from bidkv.policy.guards import PreemptionCap
from bidkv.policy.ordering import LOOK_PAST, WaitingHeap, blocks_to_enter
from bidkv.policy.prices import MachinePrices
from bidkv.policy.recompute import cheapest_to_repeat
from bidkv.policy.remaining import RemainingTokens
from bidkv.policy.reserve import SelfTuningReserve
from bidkv.protocol.policy import EngineView, Policy
from bidkv.protocol.requests import RequestView

_TYPICAL_WEIGHT = 0.01


@dataclass(slots=True)
class Bid:
    """What a live request bids: its place in the order, its cost in machine seconds, its size.

    `blocks` is 0 while it runs. `passed` counts how often others entered in its place while it was first and
    did not fit.
    """

    key_s: float
    cost_s: float
    blocks: int = 0
    passed: int = 0


class Fast(Policy):
    """Admission as an auction in machine seconds: who costs little enters before who costs much.

    A request's cost c is the machine time it will take: the KV block-seconds it will hold, as a share of the
    whole memory, and the seconds its tokens take to compute. The backlog B is the cost of all that wait when
    it arrives: about what it would wait under first come, first served. It enters by the key

        arrival + dial * B * (c / weight) / (c / weight + typical cost)

    so the order lets nobody pass it who arrives more than dial * B seconds later; a deadline pulls the key
    forward to the last moment it can start. A preempted request keeps its key. While all that wait fit at
    once, nobody bids and arrival orders.

    Beside the order, up to 16 requests behind a head that does not fit may enter in its place, at most
    `passes` times a head: the head then waits for memory alone, as under first come, first served.

    Args:
        dial: how many times the backlog it met a request may be put back, at least 0.
        passes: times a head may be passed because it does not fit, at least 0.
        cap: as in `fair`.
        gain: as in `fair`.
        unit: as in `fair`.
        overhead_s: as in `fair`.
    """

    name = "fast"
    victim_rule = "the latest of those with about the fewest computed tokens, the cheapest to compute again"

    def __init__(
        self,
        *,
        dial: float = 1.0,
        passes: int = 40,
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
        self.bids: dict[str, Bid] = {}
        self.backlog_s = 0.0
        self._dial = dial
        self._passes = passes
        self._waiting = WaitingHeap()
        self._waiting_blocks = 0
        self._num_waiting = 0
        self._typical_s = 0.0

    # --- the market ------------------------------------------------------------------------------
    def cost_s(self, request: RequestView, engine: EngineView) -> float:
        """Machine seconds `request` will still take."""
        tokens = request.num_prompt_tokens + request.num_output_tokens
        mean, square = self.remaining.moments(request)
        capacity_tokens = engine.num_blocks * engine.block_size
        held = (mean * tokens + square / 2) * self.prices.recent_step_s / capacity_tokens
        return held + self.prices.token_s * tokens

    def _bid(self, request: RequestView, engine: EngineView) -> Bid:
        cost_s = self.cost_s(request, engine)
        typical_s = self._typical_s
        self._typical_s += (_TYPICAL_WEIGHT if typical_s else 1.0) * (cost_s - typical_s)
        if self._all_fit(request, engine):
            return Bid(request.arrival_s, cost_s)
        # Written so that even an infinite quotient (a tiny weight) gives 1.
        share = 1.0 - self._typical_s / (cost_s / request.weight + self._typical_s)
        key_s = request.arrival_s + self._dial * self.backlog_s * share
        deadline_s = request.deadline_s
        if deadline_s is not None:
            service_s = self.remaining.moments(request)[0] * self.prices.recent_step_s
            key_s = min(key_s, max(request.arrival_s, deadline_s - service_s))
        return Bid(key_s, cost_s)

    def _all_fit(self, request: RequestView, engine: EngineView) -> bool:
        """Whether all that wait could enter in one step: their order is then no market's business."""
        tokens = request.num_prompt_tokens + self._waiting_blocks * engine.block_size
        return (
            tokens <= engine.max_num_batched_tokens
            and engine.num_running + self._num_waiting < engine.max_num_seqs
            and tokens < (engine.free_blocks - self.reserve.blocks(engine)) * engine.block_size
        )

    def _join(self, request: RequestView, engine: EngineView) -> Bid:
        """Count `request` among those that wait, with the key of its first bid."""
        bid = self.bids.get(request.request_id)
        if bid is None:
            bid = self.bids[request.request_id] = self._bid(request, engine)
        else:
            bid.cost_s = self.cost_s(request, engine)
        bid.blocks = blocks_to_enter(request, engine)
        bid.passed = 0
        self.backlog_s += bid.cost_s
        self._waiting_blocks += bid.blocks
        self._num_waiting += 1
        return bid

    def _leave(self, request: RequestView, bid: Bid | None) -> None:
        """`request` waits no more, if it did."""
        if bid is None or not bid.blocks:
            return
        self._waiting.discard(request)
        self._waiting_blocks -= bid.blocks
        self._num_waiting -= 1
        # Sums of floats drift; an empty queue is exactly nothing.
        self.backlog_s = max(0.0, self.backlog_s - bid.cost_s) if self._num_waiting else 0.0
        bid.blocks = 0

    def _next_fitting(self, head: RequestView, room: tuple[int, int]) -> RequestView | None:
        """Return who enters now, `head` or one in its place; None while it waits for memory."""
        bid = self.bids[head.request_id]
        if bid.blocks <= room[0]:
            return head
        if room[1] <= 0 or bid.passed >= self._passes:
            return None
        other = self._waiting.first_fitting(room[1], 1 + LOOK_PAST)
        if other is not None:
            bid.passed += 1
        return other

    # --- questions -------------------------------------------------------------------------------
    def select_victim(
        self, candidates: Sequence[RequestView], need_blocks: int, engine: EngineView
    ) -> RequestView | None:
        """Return the latest of the candidates that are about the cheapest to compute again."""
        return cheapest_to_repeat(candidates, engine)

    def reserve_blocks(self, engine: EngineView) -> int:
        """Return the reserve."""
        return self.reserve.blocks(engine)

    def select_next(self, engine: EngineView) -> RequestView | None:
        """Return the first in the order, or one of the next few where the first does not fit."""
        head = self._waiting.first()
        return None if head is None else self._next_fitting(head, self.reserve.room(engine)) or head

    # --- events ----------------------------------------------------------------------------------
    def on_arrival(self, request: RequestView, engine: EngineView) -> None:
        """It bids."""
        bid = self._join(request, engine)
        self._waiting.push(request, bid.key_s, bid.blocks)

    def on_admit(self, request: RequestView, engine: EngineView) -> None:
        """It runs."""
        self._leave(request, self.bids.get(request.request_id))

    def on_preempt(self, request: RequestView, lost_tokens: int, engine: EngineView) -> None:
        """It waits again, with what it generated; the reserve rises."""
        self.prices.observe(engine)
        self.reserve.on_preempt(lost_tokens, engine)
        bid = self._join(request, engine)
        self._waiting.push(request, bid.key_s, bid.blocks)

    def on_finish(self, request: RequestView, engine: EngineView, *, completed: bool) -> None:
        """Learn its length."""
        self.prices.observe(engine)
        self._leave(request, self.bids.pop(request.request_id, None))  # aborted while it waited
        if completed:
            self.remaining.learn(request)
