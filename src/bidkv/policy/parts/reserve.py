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

from bidkv.policy.parts.prices import MachinePrices
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
    k * u^2 * (fixed step time / recent step time), each preemption raises it by k * u * c. A policy tells it
    of every finish (:meth:`observe`) and of every preemption.

    Args:
        prices: what the machine's time costs; shared with the policy that uses this reserve.
        gain: k, per second, above 0.
        unit: in units of one request's footprint, above 0.
        overhead_s: seconds a preemption costs beside its recomputed tokens, at least 0.

    Raises:
        ValueError: an option is out of range; the message names it.
    """

    __slots__ = ("_fall_per_s", "_gain", "_overhead_s", "_prices", "_share", "_since_s", "_unit")

    def __init__(self, prices: MachinePrices, *, gain: float, unit: float, overhead_s: float) -> None:
        for option, value in (("gain", gain), ("unit", unit)):
            if not value > 0:
                raise ValueError(f"{option} must be > 0, got {value}")
        if not overhead_s >= 0:
            raise ValueError(f"overhead_s must be >= 0, got {overhead_s}")
        self._prices = prices
        self._gain = gain
        self._unit = unit
        self._overhead_s = overhead_s
        # The share at the last event; from there it falls by the prices of then. So an answer depends on the
        # time alone, not on how often an engine asks.
        self._share = 0.0
        self._since_s = 0.0
        self._fall_per_s = 0.0

    def observe(self, engine: EngineView) -> None:
        """Settle the share by the prices of the last event, then learn those of this one."""
        now_s = engine.now_s
        self._share = self._share_at(now_s)
        self._since_s = now_s
        prices = self._prices
        prices.observe(engine)
        unit = self._unit * prices.footprint
        idle_price = prices.step_s / prices.recent_step_s
        self._fall_per_s = self._gain * unit * unit * (idle_price if idle_price < 1.0 else 1.0)

    def on_preempt(self, lost_tokens: int, engine: EngineView) -> None:
        """A preemption threw `lost_tokens` computed positions away."""
        self.observe(engine)
        prices = self._prices
        cost_s = prices.token_s * lost_tokens + self._overhead_s
        raised = self._share + self._gain * self._unit * prices.footprint * cost_s
        self._share = raised if raised < MOST_SHARE else MOST_SHARE

    def _share_at(self, now_s: float) -> float:
        share = self._share
        if share:
            share -= self._fall_per_s * (now_s - self._since_s)
            if share < 0.0:
                share = 0.0
        return share

    def blocks(self, engine: EngineView) -> int:
        """Return the reserve now, in whole blocks."""
        # Asked several times an event: comparisons instead of min and max.
        num_blocks = engine.num_blocks
        least, most = engine.num_running // 2, int(MOST_SHARE * num_blocks)
        wanted = int(self._share_at(engine.now_s) * num_blocks) if self._share else 0
        if wanted < least:
            wanted = least
        return wanted if wanted < most else most

    def room(self, engine: EngineView) -> tuple[int, int]:
        """Return the blocks that the head of a queue may take now, and one that enters in its place."""
        free, running = engine.free_blocks, engine.num_running
        if not running:
            return free, free
        room = free - self.blocks(engine)
        return room, room - GROWTH_BLOCKS * running
