"""`on-time`: as many first tokens as possible within an objective; late requests have a guaranteed share."""

from __future__ import annotations

import heapq
import math

from bidkv.policy.own.fast import BEFORE_ALL_S, CHOICE, SCANNED, Fast
from bidkv.policy.own.reserving import DEFAULT_PREEMPTION_CAP
from bidkv.policy.parts.found_again import FoundAgain
from bidkv.policy.parts.ordering import WaitingHeap
from bidkv.policy.parts.reserve import GROWTH_BLOCKS
from bidkv.protocol.policy import EngineView
from bidkv.protocol.requests import RequestView

_Due = tuple[float, int, RequestView]
"""When a request turns late, the number of its arrival, and the request."""
_KEEP = 0.98
"""Weight that one more admission leaves the older ones in the share of late requests: about 50 count."""
_MARGIN_S = 0.1
"""Seconds from the admission to the first token: a step or two."""

_FIRST_KNOWN = 8
"""Finished requests from which costs order those on time: earlier, a short prompt with a long answer looks
cheap."""


class OnTime(Fast):
    """Keeps first tokens within an objective: requests that can still be on time enter first, the cheapest
    first.

    Those that arrive before eight requests have finished enter in order of arrival, as costs are not known.

    A request is on time while its first token can still come within `ttft_slo_s` of its arrival (or, when it
    has a deadline, while it can still be complete by then, if that is earlier); after that, and after a
    preemption, it is late. Late requests enter by the key of `fast`. They enter first while their share
    of the cost of recent admissions is at most `late_share`; otherwise those on time do. Whatever arrives,
    requests that have waited longest are sure of this share of the machine.

    Args:
        ttft_slo_s: seconds from arrival to the first token, above 0.
        late_share: guaranteed share of the machine for late requests, from 0 to 1.
        dial: as in `fast`, for late requests.
        passes: as in `fast`.
        cap: as in `fair`.
    """

    name = "on-time"
    returns_with_room = False

    __slots__ = (
        "_arrived",
        "_due",
        "_due_of",
        "_entered_late_s",
        "_entered_s",
        "_is_late_turn",
        "_late_share",
        "_next_due_s",
        "_on_time",
        "_slo_s",
    )

    def __init__(
        self,
        *,
        ttft_slo_s: float = 2.0,
        late_share: float = 0.75,
        dial: float = 1.0,
        passes: int = 30,
        cap: int = DEFAULT_PREEMPTION_CAP,
    ) -> None:
        super().__init__(dial=dial, passes=passes, cap=cap)
        if not ttft_slo_s > 0:
            raise ValueError(f"ttft_slo_s must be > 0, got {ttft_slo_s}")
        if not 0 <= late_share <= 1:
            raise ValueError(f"late_share must be in [0, 1], got {late_share}")
        self._order_found = FoundAgain()  # never learns: late requests are first only in their share
        self._line.due_s = math.inf  # nor is one overdue
        self._slo_s = ttft_slo_s
        self._late_share = late_share
        self._on_time = WaitingHeap()  # by cost
        # The same requests by when they turn late; those that left stay in the heap until then.
        self._due: list[_Due] = []
        self._due_of: dict[str, _Due] = {}
        self._next_due_s = math.inf  # none turns late before
        self._arrived = 0
        self._entered_late_s = 0.0
        self._entered_s = 0.0
        self._is_late_turn = late_share > 0.0

    def _expire(self, now_s: float) -> None:
        """Move requests that can no longer be on time to the late ones."""
        due_of = self._due_of
        while due := self._due:
            first = due[0]
            due_s, _, request = first
            is_on_time = due_of.get(request.request_id) is first
            if is_on_time and due_s > now_s:
                self._next_due_s = due_s
                return
            heapq.heappop(due)
            if is_on_time:
                del due_of[request.request_id]
                self._on_time.discard(request)
                bid = self.bids[request.request_id]
                self._waiting.push(request, bid.key_s, bid.blocks)
        self._next_due_s = math.inf

    def _turns_late_s(self, request: RequestView, engine: EngineView) -> float:
        due_s = request.arrival_s + self._slo_s
        if request.deadline_s is not None:
            service_s = self.remaining.moments(request, engine)[0] * self.prices.recent_step_s
            due_s = min(due_s, request.deadline_s - service_s)
        return due_s - _MARGIN_S

    def _forget_due(self, request: RequestView) -> bool:
        """Take `request` from those on time; return whether it was one of them."""
        due, due_of = self._due, self._due_of
        if due_of.pop(request.request_id, None) is None:
            return False
        self._on_time.discard(request)
        if len(due) > 64 and len(due) > 2 * len(due_of):  # it must not outgrow what is alive
            self._due = sorted(due_of.values())
        return True

    # --- questions -------------------------------------------------------------------------------
    def select_next(self, engine: EngineView) -> RequestView | None:
        """Return the cheapest request that can be on time, or the first late one when it is their turn.

        Where none of the first few of one kind fits, one of the other may enter.
        """
        now_s = engine.now_s
        if self._next_due_s <= now_s:
            self._expire(now_s)
        cheapest = self._on_time.first()
        if cheapest is None:
            return super().select_next(engine)
        head = self._waiting.first()
        free, running = engine.free_blocks, engine.num_running
        growth = GROWTH_BLOCKS * running
        if head is None and (self._num_waiting == 1 or free <= growth):
            return cheapest  # nothing may enter in its place
        if running:
            free -= self.reserve.blocks_beside(running, now_s, engine)
        beside = free - growth
        if head is None:
            return self._next_on_time(cheapest, free, beside) or cheapest
        bid = self.bids[head.request_id]
        if not self._is_late_turn:
            return (
                self._next_on_time(cheapest, free, beside)
                or (head if bid.blocks <= free else self._one_in_place_of(head, bid, beside))
                or cheapest
            )
        if bid.blocks <= free or not self._may_be_passed(bid):
            return head
        other = self._waiting.first_fitting(beside, SCANNED, CHOICE) if beside > 0 else None
        if other is None:
            other = self._next_on_time(cheapest, free, beside)
            if other is None:
                return head
        bid.passed_s += self.bids[other.request_id].cost_s
        return other

    def _next_on_time(self, cheapest: RequestView, free: int, beside: int) -> RequestView | None:
        """Return the on-time request that enters now, the cheapest or one of the next few; None if none
        fits."""
        if self.bids[cheapest.request_id].blocks <= free:
            return cheapest
        return self._on_time.first_fitting(beside, SCANNED, CHOICE) if beside > 0 else None

    # --- events ----------------------------------------------------------------------------------
    def on_arrival(self, request: RequestView, engine: EngineView) -> None:
        """Take its bid; it is on time for now."""
        bid = self._join(request, engine)
        self._arrived = arrived = self._arrived + 1
        due_s = self._turns_late_s(request, engine)
        self._due_of[request.request_id] = due = (due_s, arrived, request)
        heapq.heappush(self._due, due)
        if due_s < self._next_due_s:
            self._next_due_s = due_s
        cost_s = bid.cost_s / request.weight
        known = self.remaining.num_finished >= _FIRST_KNOWN
        # What arrived before costs were known enters first, in order of arrival.
        self._on_time.push(request, cost_s if known else request.arrival_s - BEFORE_ALL_S, bid.blocks)

    def on_admit(self, request: RequestView, engine: EngineView) -> None:
        """Count it in the share of the late or of those on time."""
        late = not self._forget_due(request)
        bid = self.bids.get(request.request_id)
        if bid is not None:
            cost_s, share = bid.cost_s, self._late_share
            self._entered_s = entered_s = self._entered_s * _KEEP + cost_s
            self._entered_late_s = late_s = self._entered_late_s * _KEEP + late * cost_s
            self._is_late_turn = share > 0.0 and late_s <= share * entered_s
        self._enter(request, bid, engine)

    def on_finish(self, request: RequestView, engine: EngineView, *, completed: bool) -> None:
        """Learn its length."""
        self._forget_due(request)
        super().on_finish(request, engine, completed=completed)
