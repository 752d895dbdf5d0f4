"""`fast`: short work first, with a dial for how far it may pass long work. Every wait stays bounded."""

from __future__ import annotations

import math
from typing import ClassVar

from bidkv.policy.own.fast_overdue import Bid, OverdueLine
from bidkv.policy.own.reserving import DEFAULT_PREEMPTION_CAP, ReservingPolicy
from bidkv.policy.parts.ordering import WaitingHeap, blocks_to_enter
from bidkv.policy.parts.remaining import RemainingTokens
from bidkv.policy.parts.reserve import GROWTH_BLOCKS
from bidkv.policy.parts.returning import PASS_PAYBACK, RETURN_PAYBACK
from bidkv.protocol.policy import EngineView
from bidkv.protocol.requests import RequestView

SCANNED = 32
"""Number of waiting requests scanned when the head of the order does not fit."""
CHOICE = 3
"""Among the first this many that fit in place of such a head, the largest enters: it fills memory best."""
_TYPICAL_WEIGHT = 0.01
"""Weight of one bid in the typical cost: about the last hundred bids count."""
_FALL = 0.75
"""Keys follow the backlog down once it has fallen to this share of its highest since they last did."""
_LEFT = 0.125
"""Requests that must have left since, as a share of those waiting: a sort then costs O(log n) for each of
them."""
_MOST_SORTED = 2048
"""While more requests than this wait, keys stay: sorting them must take less time than a step."""
_FIRST_REVIEW = 8
"""Finished requests after which all bids are reviewed for the first time; then at each doubling."""
_KNOWN = 32
"""Finished requests from which a head may be passed. Earlier, a short prompt with a long answer looks
cheap."""
_PREEMPTED_PASSES = 10
"""Typical requests' worth of work that may pass a preempted head because it arrived before all other new
requests."""
_PREEMPTED_GROWTH = 2.0
"""Blocks for each running request that such an entry leaves in any case."""
_SMALL = 0.25
"""Share of the blocks a preempted head needs that such an entry needs at most."""
BEFORE_ALL_S = 1e9
"""Puts a key before every arrival."""
_CHANGED = 1.3
"""A mean output that has moved by this factor since the last review calls for another."""


class Fast(ReservingPolicy):
    """Admission as an auction in machine seconds: cheap requests enter before expensive ones.

    A request's cost c is the machine time it will take: the KV block-seconds it will hold, as a share of the
    whole memory, and the seconds its tokens take to compute. The backlog B is the cost of all requests
    waiting when it arrives, which is about its wait under first come, first served, or what B has fallen to
    since. It enters by the key

        arrival + dial * B * ((1 - certainty) / 2 + certainty * q^2 / (q^2 + 1)),
        q = c / weight / typical cost,

    so only requests arriving within dial * B seconds can overtake it; a deadline pulls the key forward to the
    last moment it can start. Lengths are learned from finished requests, and certainty grows from 0 to 1 with
    their number and with the number of those of about the same prompt length: before anything is known,
    arrival orders. As lengths become known, waiting requests are
    priced again. A preempted request keeps its key, and while more than 2,048 wait all keys stay. While all
    waiting requests fit at once there is no auction and arrival orders.

    Where most of what preemptions throw away is found in the prefix cache again, the order is that of `fair`:
    by arrival, the request that was preempted last before all others, and nothing passes a head.

    Beside the order, one of the next 31 may enter in place of a head that does not fit, until those have cost
    `passes` times as much as a typical request. The head then waits for memory alone, as under first come,
    first served. Nothing passes it before 32 requests have finished: what is cheap is not known yet.

    No new request waits much longer than the longest wait that the order of arrival would have caused lately
    (:class:`OverdueLine`). One that is about to is overdue until it enters: it goes before all others, and
    only the work of two typical requests may still enter in its place while it does not fit; one, where the
    longest wait is shorter than a mean residence, and five, where it is longer than 16. The order above uses
    what is left. A preempted request returns in its place once it fits with room for the running ones to
    grow, as under `fair`; an overdue one needs no such room. Until a preempted head returns, the new request
    that arrived first may enter if it needs at most a quarter of its blocks and leaves the same kind of room,
    until those have cost ten times as much as a typical request.

    Args:
        dial: how many times the backlog it met a request may be put back, at least 0.
        passes: typical requests' worth of work that may pass a head because it does not fit, at least 0.
        cap: as in `fair`.
        gain: as in `fair`.
        unit: as in `fair`.
        overhead_s: as in `fair`.
    """

    name = "fast"
    returns_with_room: ClassVar[bool] = True

    __slots__ = (
        "_dial",
        "_highest_s",
        "_left",
        "_line",
        "_next_review",
        "_num_waiting",
        "_order_found",
        "_passes",
        "_returns",
        "_reviewed_tokens",
        "_waiting",
        "_waiting_blocks",
        "backlog_s",
        "bids",
        "remaining",
        "typical_s",
    )

    def __init__(
        self,
        *,
        dial: float = 1.0,
        passes: int = 100,
        cap: int = DEFAULT_PREEMPTION_CAP,
        gain: float = 7.0,
        unit: float = 0.6,
        overhead_s: float = 1.4e-3,
    ) -> None:
        if not dial >= 0:
            raise ValueError(f"dial must be >= 0, got {dial}")
        if passes < 0:
            raise ValueError(f"passes must be >= 0, got {passes}")
        super().__init__(cap=cap, gain=gain, unit=unit, overhead_s=overhead_s)
        self.remaining = RemainingTokens()
        self.bids: dict[str, Bid] = {}
        self.backlog_s = 0.0
        self.typical_s = 0.0
        # Where preemptions are cheap the order of arrival loses nothing.
        self._order_found = self.found
        self._dial = dial
        self._passes = passes
        self._waiting = WaitingHeap()
        self._line = OverdueLine(self.bids, self.prices, self.remaining)
        self._waiting_blocks = 0
        self._num_waiting = 0
        self._highest_s = 0.0  # the backlog, since keys were last brought down
        self._left = 0  # requests that left the queue since then
        self._next_review = _FIRST_REVIEW  # number of finished requests
        self._reviewed_tokens = 0.0  # the mean output at the last review
        self._returns = 0  # preempted requests that were put before all others

    # --- the market ------------------------------------------------------------------------------
    def cost_s(self, request: RequestView, engine: EngineView, done: int | None = None) -> float:
        """Machine seconds `request` will still take, after `done` tokens."""
        if done is None:
            done = request.num_output_tokens
        tokens = request.num_prompt_tokens + done
        mean, square = self.remaining.moments(request, engine, done)
        prices = self.prices
        capacity_tokens = engine.num_blocks * engine.block_size
        held = (mean * tokens + square / 2) * prices.recent_step_s / capacity_tokens
        return held + prices.token_s * tokens

    def _bid(self, request: RequestView, engine: EngineView, cost_s: float) -> Bid:
        typical_s = self.typical_s
        # A mean of logarithms: a few very expensive requests must not make all others look alike.
        if cost_s > 0.0:
            self.typical_s = typical_s * (cost_s / typical_s) ** _TYPICAL_WEIGHT if typical_s else cost_s
        if self._all_fit(request, engine):
            return Bid(request.arrival_s, cost_s)
        bid = Bid(0.0, cost_s, self._put_back(request, cost_s), self.backlog_s)
        deadline_s = request.deadline_s
        if deadline_s is not None:
            service_s = self.remaining.moments(request, engine)[0] * self.prices.recent_step_s
            bid.latest_s = max(request.arrival_s, deadline_s - service_s)
        bid.place(request.arrival_s)
        return bid

    def _put_back(self, request: RequestView, cost_s: float) -> float:
        """Return the share of the backlog by which a request of this cost is put back, from 0 to the dial."""
        # Written so that an infinite quotient (an extreme weight) gives 0 or 1.
        cheapness = self.typical_s * request.weight / cost_s if cost_s else math.inf
        certainty = self.remaining.certainty_of(request) if self._order_found.lost_share >= 1.0 else 0.0
        # Without knowledge all are put back by half the backlog, which keeps the order of arrival.
        return self._dial * (0.5 * (1.0 - certainty) + certainty / (1.0 + cheapness * cheapness))

    def _bring_down(self, request: RequestView) -> float:
        """Return the key of `request`, put back by no more than the backlog there is now."""
        bid = self.bids[request.request_id]
        if bid.backlog_s > self.backlog_s:
            bid.backlog_s = self.backlog_s
            bid.place(request.arrival_s)
        return bid.key_s

    def _review(self, engine: EngineView) -> None:
        """Price all waiting requests again by what has been learned since."""
        self._next_review = 2 * self.remaining.num_finished
        self._reviewed_tokens = self.remaining.mean_tokens
        bids = self.bids
        waiting = [request for request in self._waiting.members() if not request.num_output_tokens]
        if not waiting:
            return
        logarithms = 0.0
        for request in waiting:
            bid = bids[request.request_id]
            cost_s = self.cost_s(request, engine)
            self.backlog_s += cost_s - bid.cost_s
            bid.cost_s = cost_s
            logarithms += math.log(cost_s) if cost_s > 0.0 else 0.0
        self.typical_s = math.exp(logarithms / len(waiting))
        for request in waiting:
            bid = bids[request.request_id]
            if bid.backlog_s:
                bid.put_back = self._put_back(request, bid.cost_s)
                bid.place(request.arrival_s)
        self._waiting.reorder(self._bring_down)

    def _all_fit(self, request: RequestView, engine: EngineView) -> bool:
        """Whether all waiting requests could enter in one step, so that their order does not matter."""
        tokens = request.num_prompt_tokens + self._waiting_blocks * engine.block_size
        return (
            tokens <= engine.max_num_batched_tokens
            and engine.num_running + self._num_waiting < engine.max_num_seqs
            and tokens < (engine.free_blocks - self.reserve.blocks(engine)) * engine.block_size
        )

    def _join(self, request: RequestView, engine: EngineView) -> Bid:
        """Count `request` among the waiting ones, with the key of its first bid."""
        name, done = request.request_id, request.num_output_tokens
        cost_s = self.cost_s(request, engine, done)
        bid = self.bids.get(name)
        if bid is None:
            bid = self.bids[name] = self._bid(request, engine, cost_s)
        else:
            bid.cost_s = cost_s
        bid.blocks = blocks = blocks_to_enter(request, engine, done)
        bid.passed_s = bid.passed_overdue_s = 0.0
        self.backlog_s = backlog_s = self.backlog_s + cost_s
        if backlog_s > self._highest_s:
            self._highest_s = backlog_s
        self._waiting_blocks += blocks
        self._num_waiting += 1
        return bid

    def _take_off(self, request: RequestView, bid: Bid, engine: EngineView) -> None:
        """Take `request`, which waits, off the queue."""
        self._line.leave(request, bid, engine.now_s)
        self._waiting.discard(request)
        self._waiting_blocks -= bid.blocks
        self._num_waiting = waiting = self._num_waiting - 1
        # Sums of floats drift; an empty queue is exactly nothing.
        backlog_s = self.backlog_s - bid.cost_s
        self.backlog_s = backlog_s if waiting and backlog_s > 0.0 else 0.0
        bid.blocks = 0
        self._left += 1
        if (
            self.backlog_s < _FALL * self._highest_s
            and _LEFT * waiting <= self._left
            and waiting <= _MOST_SORTED
        ):
            self._highest_s, self._left = self.backlog_s, 0
            self._waiting.reorder(self._bring_down)

    def _one_in_place_of(self, head: RequestView, bid: Bid, beside: int) -> RequestView | None:
        """Return what passes `head`, whose bid is given, or None."""
        if beside <= 0 or not self._may_be_passed(bid):
            return None
        other = self._waiting.first_fitting(beside, SCANNED, CHOICE)
        if other is None or other is head:
            return None
        bid.passed_s += self.bids[other.request_id].cost_s
        return other

    def _oldest_in_place_of(self, bid: Bid, free: int, engine: EngineView) -> RequestView | None:
        """Return the new request that arrived first, if it may pass the preempted head with this bid.

        Where prompts are short and outputs long, memory for a new request is there long before that for a
        preempted one. Without this, the new ones would enter as overdue ones, and preempt again.
        """
        if bid.passed_s >= min(_PREEMPTED_PASSES, self._passes) * self.typical_s:
            return None
        oldest = self._line.by_arrival.first()
        if oldest is None:
            return None
        oldest_bid = self.bids[oldest.request_id]
        blocks = oldest_bid.blocks
        if blocks > _SMALL * bid.blocks:
            return None
        growth = self.reserve.room(engine).growth_blocks(blocks, PASS_PAYBACK, _PREEMPTED_GROWTH)
        if blocks + growth > free:
            return None
        bid.passed_s += oldest_bid.cost_s
        return oldest

    def _has_room(self, bid: Bid, free: int, engine: EngineView) -> bool:
        """Whether a preempted request fits with room for the running ones to grow, as under `fair`."""
        if not self.returns_with_room:
            return True
        growth = self.reserve.room(engine).growth_blocks(bid.blocks, RETURN_PAYBACK)
        return bid.blocks + growth <= free

    def _may_be_passed(self, bid: Bid) -> bool:
        return bid.passed_s < self._passes * self.typical_s and self.remaining.num_finished >= _KNOWN

    def _next_overdue(self, first: RequestView, free: int, beside: int) -> RequestView:
        """Return what enters before all others: `first`, or one in its place while it does not fit."""
        bid = self.bids[first.request_id]
        if bid.blocks <= free or self.remaining.num_finished < _KNOWN:
            return first
        if bid.passed_overdue_s >= min(self._line.passes(), self._passes) * self.typical_s:
            return first
        other = self._waiting.first_fitting(beside, SCANNED, CHOICE)
        if other is None:
            return first
        bid.passed_overdue_s += self.bids[other.request_id].cost_s
        return other

    # --- questions -------------------------------------------------------------------------------
    def select_next(self, engine: EngineView) -> RequestView | None:
        """Return an overdue request, else the first in the order; where it does not fit, one of the next.

        None while a preempted head fits, but not with room to grow.
        """
        head = self._waiting.first()
        if head is None:
            return None
        bid = self.bids[head.request_id]
        is_new = not bid.was_preempted
        if is_new and self._num_waiting == 1:
            return head
        line, now_s = self._line, engine.now_s
        if self._order_found.lost_share < 1.0:  # the order of `fair`
            return (line.by_arrival.first() or head) if is_new else head
        overdue = None if now_s <= line.due_s else line.first(now_s, engine)
        free, running = engine.free_blocks, engine.num_running
        growth = GROWTH_BLOCKS * running
        if free <= growth and (is_new or overdue is not None):  # nothing may pass what goes first
            return overdue or head
        if running:
            free -= self.reserve.blocks_beside(running, now_s, engine)
        if overdue is not None:
            return self._next_overdue(overdue, free, free - growth)
        fits = bid.blocks <= free
        if is_new:
            return head if fits else self._one_in_place_of(head, bid, free - growth) or head
        if fits and (not running or self._has_room(bid, free, engine)):
            return head
        other = self._oldest_in_place_of(bid, free, engine) if running else None
        if other is None:
            other = self._one_in_place_of(head, bid, free - growth)
        return other if other is not None or fits else head

    # --- events ----------------------------------------------------------------------------------
    def on_arrival(self, request: RequestView, engine: EngineView) -> None:
        """Take its bid."""
        bid = self._join(request, engine)
        self._waiting.push(request, bid.key_s, bid.blocks)
        if not request.num_output_tokens:  # else it ran before this policy was switched on
            self._line.by_arrival.arrive(request, bid.cost_s)

    def on_admit(self, request: RequestView, engine: EngineView) -> None:
        """Take it off the queue."""
        self._enter(request, self.bids.get(request.request_id), engine)

    def _enter(self, request: RequestView, bid: Bid | None, engine: EngineView) -> None:
        """`request` runs now; without a bid it arrived before this policy was switched on."""
        done = request.num_output_tokens
        self._begin(request, done, engine)
        self.remaining.admit(request, engine, done)
        if bid is not None and bid.blocks:
            self._take_off(request, bid, engine)

    def on_preempt(self, request: RequestView, lost_tokens: int, engine: EngineView) -> None:
        """Queue it again by its first key, or before all where preemptions are cheap."""
        super().on_preempt(request, lost_tokens, engine)
        self.remaining.preempt(request)
        bid = self._join(request, engine)
        if self._order_found.mostly:
            self._returns += 1
            bid.key_s = bid.latest_s = -BEFORE_ALL_S - self._returns
        self._waiting.push(request, bid.key_s, bid.blocks)
        self._line.preempt(request, bid, engine.now_s)

    def on_finish(self, request: RequestView, engine: EngineView, *, completed: bool) -> None:
        """Learn its length; it may have been aborted while it waited."""
        self._end(request, engine)
        bid = self.bids.pop(request.request_id, None)
        if bid is not None and bid.blocks:
            self._take_off(request, bid, engine)
        remaining = self.remaining
        remaining.leave(request, completed=completed)
        finished = remaining.num_finished
        if completed and finished >= _FIRST_REVIEW and self._num_waiting <= _MOST_SORTED:
            moved = remaining.mean_tokens / (self._reviewed_tokens or remaining.mean_tokens)
            if finished >= self._next_review or not 1.0 / _CHANGED < moved < _CHANGED:
                self._review(engine)
