"""`fast`: short work first, with a dial for how far it may pass long work; every wait stays bounded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bidkv.policy.own.fair import DEFAULT_PREEMPTION_CAP
from bidkv.policy.parts.cap import validate_cap
from bidkv.policy.parts.ordering import WaitingHeap, blocks_to_enter
from bidkv.policy.parts.prices import MachinePrices
from bidkv.policy.parts.recompute import cheapest_to_repeat
from bidkv.policy.parts.remaining import RemainingTokens
from bidkv.policy.parts.reserve import SelfTuningReserve
from bidkv.protocol.policy import EngineView, Policy
from bidkv.protocol.requests import RequestView

_LOOK_AT = 32
"""So many of the first in the order are looked at when the first does not fit."""
_CHOICE = 3
"""Of so many that fit in place of a head that does not, the largest enters: it fills memory best."""
_TYPICAL_WEIGHT = 0.01
_FALL = 0.75
"""Keys follow the backlog down once it has fallen to this share of its highest since they last did."""
_LEFT = 0.125
"""And once so many have left since, as a share of those that wait: O(log n) for each that leaves."""
_MOST_AT_ONCE = 2048
"""While more than these wait, keys stay: bringing all of them down must take less time than a step."""


@dataclass(slots=True)
class Bid:
    """What a live request bids.

    Attributes:
        key_s: its place in the order.
        cost_s: machine seconds it will still take.
        put_back: the share of the backlog that it is put back by, from 0 to the dial.
        backlog_s: the backlog it met, or what that fell to since.
        latest_s: the last moment it can start and meet its deadline, not before its arrival.
        blocks: KV blocks it needs to enter; 0 while it runs.
        passed_s: cost of those who entered in its place while it was first and did not fit.
    """

    key_s: float
    cost_s: float
    put_back: float = 0.0
    backlog_s: float = 0.0
    latest_s: float = math.inf
    blocks: int = 0
    passed_s: float = 0.0

    def place(self, arrival_s: float) -> None:
        """Work the key out."""
        self.key_s = min(arrival_s + self.put_back * self.backlog_s, self.latest_s)


class Fast(Policy):
    """Admission as an auction in machine seconds: who costs little enters before who costs much.

    A request's cost c is the machine time it will take: the KV block-seconds it will hold, as a share of the
    whole memory, and the seconds its tokens take to compute. The backlog B is the cost of all that wait when
    it arrives, about what it would wait under first come, first served, or what that has fallen to since. It
    enters by the key

        arrival + dial * B * q^2 / (q^2 + 1), where q = c / weight / typical cost

    so the order lets nobody pass it who arrives more than dial * B seconds later; a deadline pulls the key
    forward to the last moment it can start. A preempted request keeps its key, and while more than 2,048 wait
    everybody does. While all that wait fit at once, nobody bids and arrival orders.

    Beside the order, one of the next 31 may enter in place of a head that does not fit, until those who did
    cost `passes` times as much as a typical request: the head then waits for memory alone, as under first
    come, first served.

    Args:
        dial: how many times the backlog it met a request may be put back, at least 0.
        passes: typical requests' worth of work that may pass a head because it does not fit, at least 0.
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
        passes: int = 30,
        cap: int = DEFAULT_PREEMPTION_CAP,
        gain: float = 7.0,
        unit: float = 0.6,
        overhead_s: float = 1.4e-3,
    ) -> None:
        if not dial >= 0:
            raise ValueError(f"dial must be >= 0, got {dial}")
        if passes < 0:
            raise ValueError(f"passes must be >= 0, got {passes}")
        self.preemption_cap = validate_cap(cap)
        self.prices = MachinePrices()
        self.reserve = SelfTuningReserve(self.prices, gain=gain, unit=unit, overhead_s=overhead_s)
        self.remaining = RemainingTokens()
        self.bids: dict[str, Bid] = {}
        self.backlog_s = 0.0
        self.typical_s = 0.0
        self._dial = dial
        self._passes = passes
        self._waiting = WaitingHeap()
        self._waiting_blocks = 0
        self._num_waiting = 0
        self._highest_s = 0.0  # the backlog, since keys were last brought down
        self._left = 0  # since then

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
        typical_s = self.typical_s
        if cost_s > 0.0:  # a mean of logarithms: few requests are so dear that most others would look alike
            self.typical_s = typical_s * (cost_s / typical_s) ** _TYPICAL_WEIGHT if typical_s else cost_s
        if self._all_fit(request, engine):
            return Bid(request.arrival_s, cost_s)
        # Written so that an infinite quotient (an extreme weight) gives 0 or 1.
        cheapness = self.typical_s * request.weight / cost_s if cost_s else math.inf
        bid = Bid(0.0, cost_s, self._dial / (1.0 + cheapness * cheapness), self.backlog_s)
        deadline_s = request.deadline_s
        if deadline_s is not None:
            service_s = self.remaining.moments(request)[0] * self.prices.recent_step_s
            bid.latest_s = max(request.arrival_s, deadline_s - service_s)
        bid.place(request.arrival_s)
        return bid

    def _bring_down(self, request: RequestView) -> float:
        """Return the key of `request`, put back by no more than the backlog there is now."""
        bid = self.bids[request.request_id]
        if bid.backlog_s > self.backlog_s:
            bid.backlog_s = self.backlog_s
            bid.place(request.arrival_s)
        return bid.key_s

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
        bid.passed_s = 0.0
        self.backlog_s += bid.cost_s
        if self.backlog_s > self._highest_s:
            self._highest_s = self.backlog_s
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
        self._left += 1
        waiting = self._num_waiting
        if (
            self.backlog_s < _FALL * self._highest_s
            and _LEFT * waiting <= self._left
            and waiting <= _MOST_AT_ONCE
        ):
            self._highest_s, self._left = self.backlog_s, 0
            self._waiting.reorder(self._bring_down)

    def _next_fitting(self, head: RequestView, room: tuple[int, int]) -> RequestView | None:
        """Return who enters now, `head` or one in its place; None while it waits for memory."""
        bid = self.bids[head.request_id]
        if bid.blocks <= room[0]:
            return head
        if not self._may_be_passed(bid):
            return None
        other = self._fitting(self._waiting, room)
        if other is not None:
            bid.passed_s += self.bids[other.request_id].cost_s
        return other

    def _may_be_passed(self, bid: Bid) -> bool:
        return bid.passed_s < self._passes * self.typical_s

    def _fitting(self, queue: WaitingHeap, room: tuple[int, int]) -> RequestView | None:
        """Return who of the next few may enter in place of a head that does not fit."""
        return queue.first_fitting(room[1], _LOOK_AT, _CHOICE) if room[1] > 0 else None

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
        if head is None:
            return None
        return self._next_fitting(head, self.reserve.room(engine)) or head

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
        self.reserve.on_preempt(lost_tokens, engine)
        bid = self._join(request, engine)
        self._waiting.push(request, bid.key_s, bid.blocks)

    def on_finish(self, request: RequestView, engine: EngineView, *, completed: bool) -> None:
        """Learn its length."""
        self.reserve.observe(engine)
        self._leave(request, self.bids.pop(request.request_id, None))  # aborted while it waited
        if completed:
            self.remaining.learn(request)
