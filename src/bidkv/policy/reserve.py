"""How much memory stays free when somebody enters: a price control, not a forecast.

An empty block costs the machine idle memory; a preemption costs it recompute. Both are seconds of machine
time, so the reserve is raised by what each preemption cost and lowered by what keeping memory idle costs:
in balance the share of time lost to recompute equals the price of the memory held back. Where memory holds
a few long requests that price is high and next to nothing is kept; where it holds hundreds, preemptions
are cheap to avoid and the reserve finds the level that does so. No lengths are predicted.

One thing needs no price: every running request takes a block each `block_size` steps. Who would be preempted
within half that time is not let in.
"""

from __future__ import annotations

import math

from bidkv.policy.prices import MachinePrices
from bidkv.protocol.policy import EngineView

MOST_SHARE = 0.15
"""The live gate never keeps more of the blocks than this (docs/architecture.md)."""
GROWTH_BLOCKS = 3
"""Blocks for each running request that must stay free behind one that enters in place of a head that does
not fit: memory that somebody waits for is short; filled to the last block it is paid for by preemptions."""


class SelfTuningReserve:
    """The share of all blocks an admission must leave free; changes at events only, O(1) each.

    With R the share, f the footprint (share of memory one running request holds), u = `unit` * f, c the
    recompute seconds of a preemption and k the `gain` per second: each second lowers R by
    k * u^2 * (fixed step time / recent step time), each preemption raises it by k * u * c.

    Args:
        prices: what the machine's time costs; shared with the policy that uses this reserve.
        gain: k, per second, above 0.
        unit: in units of one request's footprint, above 0.
        overhead_s: seconds a preemption costs beside its recomputed tokens, at least 0.

    Raises:
        ValueError: an option is out of range; the message names it.
    """

    __slots__ = ("_blocks", "_gain", "_overhead_s", "_prices", "_seen", "_unit", "share")

    def __init__(self, prices: MachinePrices, *, gain: float, unit: float, overhead_s: float) -> None:
        for option, value in (("gain", gain), ("unit", unit)):
            if not value > 0:
                raise ValueError(f"{option} must be > 0, got {value}")
        if not overhead_s >= 0:
            raise ValueError(f"overhead_s must be >= 0, got {overhead_s}")
        self.share = 0.0
        self._prices = prices
        self._gain = gain
        self._unit = unit
        self._overhead_s = overhead_s
        self._seen = (math.inf, 0)  # when it was asked last and how many ran; never yet
        self._blocks = 0

    def on_preempt(self, lost_tokens: int, engine: EngineView) -> None:
        """A preemption threw `lost_tokens` computed positions away."""
        cost_s = self._prices.token_s * lost_tokens + self._overhead_s
        raised = self.share + self._gain * self._unit * self._prices.footprint * cost_s
        self.share = min(raised, MOST_SHARE)
        self._seen = (self._seen[0], -1)

    def blocks(self, engine: EngineView) -> int:
        """Return the reserve now, in whole blocks."""
        # Asked several times an event: it is worked out once, by comparisons instead of min and max.
        seen = (engine.now_s, engine.num_running)
        if seen == self._seen:
            return self._blocks
        now_s, running = seen
        elapsed_s = now_s - self._seen[0]
        self._seen = seen
        share = self.share
        if share and elapsed_s > 0.0:
            prices = self._prices
            unit = self._unit * prices.footprint
            idle_price = prices.step_s / prices.recent_step_s
            if idle_price > 1.0:
                idle_price = 1.0
            share -= self._gain * unit * unit * idle_price * elapsed_s
            self.share = share = share if share > 0.0 else 0.0
        num_blocks = engine.num_blocks
        wanted, least, most = int(share * num_blocks), running // 2, int(MOST_SHARE * num_blocks)
        if wanted < least:
            wanted = least
        self._blocks = wanted if wanted < most else most
        return self._blocks

    def room(self, engine: EngineView) -> tuple[int, int]:
        """Return the blocks that the head of a queue may take now, and one that enters in its place."""
        free, running = engine.free_blocks, engine.num_running
        if not running:
            return free, free
        room = free - self.blocks(engine)
        return room, room - GROWTH_BLOCKS * running
