"""What bringing lost tokens back costs where a KV connector can load them.

Without a connector every lost token that is not cached any more is computed again: its price is 1, in tokens
computed. With one, part of them is loaded. How many, and how long it takes, is measured on requests that come
back: preempted ones, and turns of sessions whose past was evicted.

A load between steps takes no time of a step; it costs the memory that its request holds meanwhile. For a
preempted request it is priced by the tokens that the engine could compute in that time, but never above 1.
Until enough of them came back that price is 1. Tokens that are loaded within a step are priced as computed
ones, since their time cannot be told from the step's.

The price of a lost past decides whether sessions are worth keeping at all. Here the connector is trusted:
memory is priced by what it is worth to the running requests, loads within a step are free, and so is every
past until enough of them came back. A session is kept only where losing it was seen to cost about as much as
computing it again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bidkv.policy.parts.prices import MachinePrices
from bidkv.protocol.policy import EngineView
from bidkv.protocol.session_views import SessionView

LEAST_RETURNS = 8
"""Requests that must have come back before a price is believed."""

_WEIGHT = 0.1
_MOST_KEPT = 4096


class _Mean:
    """A mean of prices in which the newer ones weigh more."""

    def __init__(self) -> None:
        self.value = 0.0
        self.count = 0

    def add(self, price: float) -> None:
        self.count += 1
        self.value += max(_WEIGHT, 1.0 / self.count) * (price - self.value)


class RestorePrice:
    """Measures the price of a lost token; every method is O(1).

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._prices = MachinePrices()
        self._lost: dict[Any, int] = {}
        # By turn: tokens of its past that were cached when it arrived, and those that were not.
        self._pasts: dict[Any, tuple[int, int]] = {}
        self._loading_since_s: dict[Any, float] = {}
        self._of_tokens, self._of_pasts = _Mean(), _Mean()

    @property
    def num_returns(self) -> int:
        """Preempted requests that came back and were measured."""
        return self._of_tokens.count

    @property
    def num_lost_pasts(self) -> int:
        """Turns whose past was not cached that were measured."""
        return self._of_pasts.count

    @property
    def lost_token_price(self) -> float:
        """What a token lost by a preemption costs, in computed tokens, from 0 to 1."""
        return self._of_tokens.value if self.num_returns >= LEAST_RETURNS else 1.0

    @property
    def lost_past_price(self) -> float:
        """What an evicted token of a session's past costs, in computed tokens, from 0 to 1."""
        return self._of_pasts.value if self.num_lost_pasts >= LEAST_RETURNS else 0.0

    # --- what is lost ----------------------------------------------------------------------------
    def lost(self, request: Any, tokens: int, engine: EngineView) -> None:
        """Note that `request` was preempted and lost `tokens` computed tokens."""
        self._prices.observe(engine)
        self._loading_since_s.pop(request, None)
        self._pasts.pop(request, None)
        if tokens > 0 and len(self._lost) < _MOST_KEPT:
            self._lost[request] = tokens

    def comes_back(self, request: Any, session: SessionView, prompt_tokens: int, engine: EngineView) -> None:
        """Note that a turn of `session` arrived, whose past may not be cached any more."""
        self._prices.observe(engine)
        size = engine.block_size
        # As the engine caches: whole blocks, and never a prompt's last token.
        past = (min(session.context_tokens, prompt_tokens) - 1) // size * size
        kept = session.cached_blocks * size
        if session.num_turns > 1 and past > kept and len(self._pasts) < _MOST_KEPT:
            self._pasts[request] = (kept, past - kept)

    # --- what comes back -------------------------------------------------------------------------
    def loads(self, request: Any) -> None:
        """Note that the connector began to load blocks of `request`; it does not run meanwhile."""
        if request in self._lost or request in self._pasts:
            self._loading_since_s.setdefault(request, self._clock())

    def returned(self, request: Any, ready_tokens: int, engine: EngineView) -> None:
        """Note that `request` runs, `ready_tokens` of it loaded or cached."""
        self._prices.observe(engine)
        lost = self._lost.pop(request, 0)
        kept, lost_past = self._pasts.pop(request, (0, 0))
        since_s = self._loading_since_s.pop(request, None)
        took_s = None if since_s is None else self._clock() - since_s
        if lost:
            self._of_tokens.add(self._price_tokens(lost, ready_tokens, took_s))
        if lost_past:
            self._of_pasts.add(self._price_past(lost_past, ready_tokens - kept, took_s, engine))

    def _price_tokens(self, lost: int, ready_tokens: int, took_s: float | None) -> float:
        if took_s is None:
            return 1.0
        loaded = min(ready_tokens, lost)
        computed_s = self._prices.token_s * loaded
        each = min(1.0, took_s / computed_s) if computed_s > 0.0 else 1.0
        return (lost - loaded + loaded * each) / lost

    def _price_past(self, lost: int, came_back: int, took_s: float | None, engine: EngineView) -> float:
        loaded = min(max(0, came_back), lost)
        each = 0.0
        if took_s is not None:
            # One more running request shares the fixed part of a step with the others: that is what the
            # memory of the loading one would earn where requests that run hold all of it.
            prices = self._prices
            fixed_share = min(1.0, prices.step_s / prices.recent_step_s)
            worth_s = took_s * fixed_share / (engine.num_blocks * engine.block_size)
            each = min(1.0, worth_s / prices.token_s) if prices.token_s > 0.0 else 1.0
        return (lost - loaded + loaded * each) / lost

    def left(self, request: Any) -> None:
        """Note that `request` left the engine."""
        self._lost.pop(request, None)
        self._pasts.pop(request, None)
        self._loading_since_s.pop(request, None)
