"""Closed-loop users: the rate that people make who send the next request some time after an answer."""

from __future__ import annotations

import math
from collections.abc import Callable

from bidkv.planning.capacity import CapacityPlan

_HALVINGS = 14
_MOST_RPS = 1e7


def rate_of_users(users: int, think_s: float, plan_at: Callable[[float], CapacityPlan]) -> float:
    """Return the request rate of `users` on the fleet that is planned for them.

    Every user waits for an answer and thinks, so that users = rate * (think time + answer time): Little's law
    over the whole loop. The answer time is the plan's at that rate.

    Args:
        users: how many.
        think_s: seconds from an answer to the user's next request.
        plan_at: makes the plan for a rate.

    Raises:
        ValueError: without a pause and at any rate, the target cannot be kept.
    """

    def users_at(rate: float) -> float:
        plan = plan_at(rate)
        if plan.each is None:
            return math.inf
        answered = plan.mean_output_tokens * plan.each.answer_tpot_s
        return rate * (think_s + plan.each.ttft_s + answered)

    low, high = 0.0, max(users / max(think_s, 1e-3), 1e-3)
    high = min(high, _MOST_RPS)
    if math.isinf(users_at(min(high, 1e-3))):
        raise ValueError("no number of replicas keeps the target, however few users there are")
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if users_at(middle) <= users else (low, middle)
    return low if low > 0.0 else high
