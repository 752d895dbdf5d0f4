"""What keeps the waits of `fast` bounded: what would wait longer than by arrival goes before all others."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bidkv.policy.parts.arrival_order import ArrivalOrder
from bidkv.policy.parts.ordering import WaitingHeap
from bidkv.policy.parts.prices import MachinePrices
from bidkv.policy.parts.remaining import RemainingTokens
from bidkv.protocol.policy import EngineView
from bidkv.protocol.requests import RequestView

_WITHIN = 0.99
"""Share of the longest wait by arrival within which a new request is to enter: that wait is an estimate."""
_LEAST_WITHIN = 0.5
"""Share of it that a request waits before it can be overdue."""
_CHECKED = 8
"""Requests that have waited longest, all of which must be able to enter in time, one after another."""
_BEFORE_SHARE = 0.5
"""Share of the work of those before it that delays a request: the rest is done beside it."""
_DRAINS = 3.0
"""Mean residences that memory for a request as large as all of it takes to become free."""
_PREFILLS = 2.0
"""Times the machine time of its prompt that a request takes until its first token: others run beside it."""
_RETURNS_FIRST = 0.3
"""Share of the longest wait after which a preempted request that is old enough goes before overdue ones."""
_OLD = 1.2
"""Longest waits since its arrival after which a preempted request is old enough."""
_PASSES = ((1.0, 1), (16.0, 2), (math.inf, 5))
"""Typical requests' worth of work that may enter in place of an overdue request that does not fit, by the
longest wait in mean residences: where waits are long, this work is a small part of them."""


@dataclass(slots=True)
class Bid:
    """What a live request bids.

    Attributes:
        key_s: its place in the order.
        cost_s: machine seconds it will still take.
        put_back: share of the backlog by which it is put back, from 0 to the dial.
        backlog_s: the backlog it met, or what that has fallen to since.
        latest_s: the last moment it can start and meet its deadline, not before its arrival.
        blocks: KV blocks it needs to enter; 0 while it runs.
        passed_s: cost of the requests that entered in its place while it was first and did not fit.
        passed_overdue_s: the same while it was overdue.
        was_preempted: whether it ran before.
        preempted_s: the moment of its last preemption.
    """

    key_s: float
    cost_s: float
    put_back: float = 0.0
    backlog_s: float = 0.0
    latest_s: float = math.inf
    blocks: int = 0
    passed_s: float = 0.0
    passed_overdue_s: float = 0.0
    was_preempted: bool = False
    preempted_s: float = 0.0

    def place(self, arrival_s: float) -> None:
        """Work the key out."""
        key_s, latest_s = arrival_s + self.put_back * self.backlog_s, self.latest_s
        self.key_s = latest_s if latest_s < key_s else key_s


class OverdueLine:
    """Tells which new request goes before all others, so that none waits much longer than by arrival.

    The bound is the longest wait that the order of arrival would have caused lately (:class:`ArrivalOrder`).
    The request that has waited longest turns overdue when it, or one of the next seven, could else not have
    its first token within the bound; it stays overdue until it enters.

    A preempted request goes before overdue ones once it has waited for its return longer than the bound, or
    three tenths of it where it arrived long before: it waited in the queue, too.

    Args:
        bids: of all live requests, by request id; shared with the policy.
        prices: what the machine's time costs; shared with the policy.
        remaining: what is known of lengths; shared with the policy.

    Attributes:
        by_arrival: the new requests that wait, in order of arrival.
        preempted: the preempted requests that wait, by the moment of their preemption.
        due_s: nothing is overdue until then; -inf: it has to be looked up.
    """

    __slots__ = (
        "_bids",
        "_is_overdue",
        "_longest_s",
        "_oldest",
        "_prices",
        "_remaining",
        "by_arrival",
        "due_s",
        "preempted",
    )

    def __init__(self, bids: dict[str, Bid], prices: MachinePrices, remaining: RemainingTokens) -> None:
        self._bids = bids
        self._prices = prices
        self._remaining = remaining
        self.by_arrival = ArrivalOrder()
        self.preempted = WaitingHeap()
        self.due_s = -math.inf
        self._oldest: RequestView | None = None  # the new request that waits longest; None: look it up
        self._longest_s = 0.0  # the bound, when that was looked at last
        self._is_overdue = False

    def leave(self, request: RequestView, bid: Bid, now_s: float) -> None:
        """`request` waits no more."""
        if bid.was_preempted:
            self.preempted.discard(request)
            return
        self.by_arrival.leave(request, now_s)
        oldest = self._oldest
        if oldest is not None and oldest.request_id == request.request_id:
            self._oldest = None
            self.due_s = -math.inf

    def preempt(self, request: RequestView, bid: Bid, now_s: float) -> None:
        """`request` waits for its return from now on."""
        bid.was_preempted, bid.preempted_s = True, now_s
        self.preempted.push(request, now_s)

    def first(self, now_s: float, engine: EngineView) -> RequestView | None:
        """Return what goes before all others now, or None. Before `due_s` there is none."""
        first = self._oldest
        if first is None:
            self._oldest = first = self.by_arrival.first()
            if first is None:
                return None
            self._is_overdue = False
        if not self._is_overdue:
            self._longest_s = longest_s = _WITHIN * self.by_arrival.longest_s(now_s)
            self.due_s = self._last_moment_s(longest_s, engine)
            self._is_overdue = now_s > self.due_s
        if now_s <= self.due_s:
            return None
        preempted = self.preempted.first()
        if preempted is None:
            return first
        longest_s, waited_s = self._longest_s, now_s - self._bids[preempted.request_id].preempted_s
        is_old = now_s - preempted.arrival_s > _OLD * longest_s
        return preempted if waited_s > (_RETURNS_FIRST if is_old else 1.0) * longest_s else first

    def passes(self) -> int:
        """Typical requests' worth of work that may enter in place of an overdue request."""
        residence_s = self._remaining.mean_tokens * self._prices.recent_step_s
        longest_s = self.by_arrival.seen_s
        return next(passes for most, passes in _PASSES if longest_s <= most * residence_s)

    def _last_moment_s(self, longest_s: float, engine: EngineView) -> float:
        """Return the moment from which those that have waited longest must go first.

        Each is to have its first token within `longest_s`. What it needs becomes free while the running
        requests finish, so a large one goes earlier; so does one that others have to go before.
        """
        prices, bids = self._prices, self._bids
        block_s = _DRAINS * self._remaining.mean_tokens * prices.recent_step_s / engine.num_blocks
        token_s = _PREFILLS * prices.token_s
        pace = _BEFORE_SHARE * self.by_arrival.pace
        least_s, last_s, before_s = _LEAST_WITHIN * longest_s, math.inf, 0.0
        for request, cost_s in self.by_arrival.oldest(_CHECKED):
            takes_s = block_s * bids[request.request_id].blocks + token_s * request.num_prompt_tokens
            moment_s = request.arrival_s + max(least_s, longest_s - takes_s) - before_s
            if moment_s < last_s:
                last_s = moment_s
            before_s += pace * cost_s
        return last_s
