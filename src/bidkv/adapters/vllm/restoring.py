"""What bringing a preempted request's tokens back costs where a KV connector can load them.

Without a connector every lost token that is not cached any more is computed again: its price is 1, in tokens
computed. With one, part of them is loaded. How many, and how long it takes, is measured on requests that come
back. A load between steps takes no time of a step; it costs the memory that its request holds meanwhile. It
is priced by the tokens that the engine could compute in that time, but never above 1. Until enough requests
came back the price is 1. Tokens that are loaded within a step are priced as computed ones, since their time
cannot be told from the step's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bidkv.policy.parts.prices import MachinePrices
from bidkv.protocol.policy import EngineView

LEAST_RETURNS = 8
"""Requests that must have come back before the price is believed."""

_WEIGHT = 0.1
_MOST_KEPT = 4096


class RestorePrice:
    """Measures the price of a lost token; every method is O(1).

    Args:
        clock: seconds, monotonic.

    Attributes:
        lost_token_price: what a lost token costs, in computed tokens, from 0 to 1.
        num_returns: preempted requests that came back and were measured.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._prices = MachinePrices()
        self._lost: dict[Any, int] = {}
        self._loading_since_s: dict[Any, float] = {}
        self._mean = 1.0
        self.lost_token_price = 1.0
        self.num_returns = 0

    def lost(self, request: Any, tokens: int, engine: EngineView) -> None:
        """Note that `request` was preempted and lost `tokens` computed tokens."""
        self._prices.observe(engine)
        self._loading_since_s.pop(request, None)
        if tokens > 0 and len(self._lost) < _MOST_KEPT:
            self._lost[request] = tokens

    def loads(self, request: Any) -> None:
        """Note that the connector began to load blocks of `request`; it does not run meanwhile."""
        if request in self._lost:
            self._loading_since_s.setdefault(request, self._clock())

    def returned(self, request: Any, ready_tokens: int, engine: EngineView) -> None:
        """Note that `request` runs, `ready_tokens` of it loaded or cached."""
        self._prices.observe(engine)
        lost = self._lost.pop(request, 0)
        since_s = self._loading_since_s.pop(request, None)
        if not lost:
            return
        price = 1.0
        if since_s is not None:
            loaded = min(ready_tokens, lost)
            computed_s = self._prices.token_s * loaded
            took_s = self._clock() - since_s
            each = min(1.0, took_s / computed_s) if computed_s > 0.0 else 1.0
            price = (lost - loaded + loaded * each) / lost
        self.num_returns += 1
        self._mean += max(_WEIGHT, 1.0 / self.num_returns) * (price - self._mean)
        if self.num_returns >= LEAST_RETURNS:
            self.lost_token_price = self._mean

    def left(self, request: Any) -> None:
        """Note that `request` left the engine."""
        self._lost.pop(request, None)
        self._loading_since_s.pop(request, None)
