"""How much memory an admission leaves free: a price control, not a forecast of lengths.

An empty block costs the machine idle memory; a preemption costs it recompute. Both are seconds of machine
time, so the reserve rises by what each preemption cost and falls by what keeping memory idle costs. In
balance the share of time lost to recompute equals the price of the memory held back. Where memory holds a
few long requests that price is high and next to nothing is kept; where it holds hundreds, preemptions are
cheap to avoid and the reserve finds the level that avoids them.

A preempted request keeps the tokens it generated. Where requests run for thousands of steps, most preemptions
come long after the admission: no reserve prevents them, and running until then was worth more than the
recompute costs. So only the part of a preemption's cost that its progress did not pay for raises the reserve.

One thing needs no price: every running request takes a block each `block_size` steps. A request that would be
preempted within half that time is not admitted.

Nor should `fair` admit a new request that would be preempted before it has earned a part of its recompute;
this takes the longer, the more requests share a step (:meth:`SelfTuningReserve.earning_blocks`). So where
hundreds run, the reserve needs no wave of preemptions first.

Where most of what preemptions throw away is found in the prefix cache again, only the rest counts as lost,
and only that share of the half block is kept.
"""

from __future__ import annotations

from typing import NamedTuple

from bidkv.policy.parts.found_again import FoundAgain
from bidkv.policy.parts.prices import MachinePrices
from bidkv.protocol.policy import EngineView

MOST_SHARE = 0.15
"""Largest share of the blocks that the reserve keeps free (docs/architecture.md)."""
GROWTH_BLOCKS = 3
"""Blocks for each running request that `fast` leaves free behind a request that enters in place of a head
that does not fit. While a head waits memory is short, and filling it to the last block is paid for in
preemptions."""
EARNED_SHARE = 0.25
"""Share of its recompute that a new request must be able to earn before memory is full. Chosen on the tuning
seeds: at 0.1 too many are preempted where hundreds run, at 0.4 memory lies idle."""
MOST_EARNING_SHARE = 0.025
"""Largest share of the blocks kept for that; beyond it only what preemptions cost decides."""
PROGRESS_WORTH = 0.18
"""Share of a step's time per running request that one generated token is worth against recompute. At 1 the
reserve is too low where hundreds run and preemptions come in waves; at 0 it is too high where a few run
for long."""
MOST_GROWTH_SHARE = 0.05
"""Largest share of the blocks that an entry leaves free for the growth of the running requests."""


class AdmissionRoom(NamedTuple):
    """The memory an admission may use now.

    Attributes:
        free: blocks free above the reserve; all free ones while nothing runs.
        running: requests that run.
        growth_per_block: blocks the running requests take while an entering request that needs one block
            generates tokens worth its recompute.
        most_growth: upper bound of :meth:`growth_blocks`.
    """

    free: int
    running: int
    growth_per_block: float
    most_growth: float

    def growth_blocks(self, need_blocks: int, payback: float, least: float = 0.0) -> float:
        """Return the blocks to leave free, so that an entry pays for its recompute before memory is full.

        Args:
            need_blocks: blocks the entering request takes at once.
            payback: how many times it must earn its recompute back.
            least: blocks for each running request that stay free in any case.
        """
        floor = least * self.running
        growth = payback * self.growth_per_block * need_blocks
        return max(floor, min(growth, self.most_growth))


class SelfTuningReserve:
    """The share of all blocks an admission must leave free; it changes at events only, O(1) each.

    With R the share, f the footprint (share of memory one running request holds), u = `unit` * f, c the
    seconds a preemption cost beyond its progress and k the `gain` per second: each second lowers R by
    k * u^2 * (fixed step time / recent step time), each preemption raises it by k * u * c. A policy reports
    every finish (:meth:`observe`) and every preemption (:meth:`on_preempt`).

    Args:
        prices: what the machine's time costs; shared with the policy that uses this reserve.
        gain: k, per second, above 0.
        unit: in units of one request's footprint, above 0.
        overhead_s: seconds a preemption costs beside its recomputed tokens, at least 0.
        found: what is found again of preempted requests; None: nothing.

    Raises:
        ValueError: an option is out of range; the message names it.
    """

    __slots__ = ("_fall_per_s", "_found", "_gain", "_overhead_s", "_prices", "_share", "_since_s", "_unit")

    def __init__(
        self,
        prices: MachinePrices,
        *,
        gain: float,
        unit: float,
        overhead_s: float,
        found: FoundAgain | None = None,
    ) -> None:
        for option, value in (("gain", gain), ("unit", unit)):
            if not value > 0:
                raise ValueError(f"{option} must be > 0, got {value}")
        if not overhead_s >= 0:
            raise ValueError(f"overhead_s must be >= 0, got {overhead_s}")
        self._prices = prices
        self._found = FoundAgain() if found is None else found
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
        now_s, share = engine.now_s, self._share
        if share:
            share -= self._fall_per_s * (now_s - self._since_s)
            self._share = share if share > 0.0 else 0.0
        self._since_s = now_s
        prices = self._prices
        prices.observe(engine)
        unit = self._unit * prices.footprint
        idle_price = prices.step_s / prices.recent_step_s
        self._fall_per_s = self._gain * unit * unit * (idle_price if idle_price < 1.0 else 1.0)

    def on_preempt(self, lost_tokens: int, gained_tokens: int, engine: EngineView) -> None:
        """Raise the share after a preemption.

        Args:
            lost_tokens: computed positions that were thrown away.
            gained_tokens: tokens the request generated since it was admitted; it keeps them.
            engine: the engine's state.
        """
        self.observe(engine)
        prices = self._prices
        worth_s = PROGRESS_WORTH * gained_tokens * prices.recent_step_s / (engine.num_running or 1)
        lost_tokens = int(lost_tokens * self._found.lost_share)
        cost_s = prices.token_s * lost_tokens * engine.lost_token_price + self._overhead_s - worth_s
        if cost_s > 0.0:
            raised = self._share + self._gain * self._unit * prices.footprint * cost_s
            self._share = raised if raised < MOST_SHARE else MOST_SHARE

    def blocks(self, engine: EngineView) -> int:
        """Return the reserve now, in whole blocks."""
        return self.blocks_beside(engine.num_running, engine.now_s, engine)

    def blocks_beside(self, running: int, now_s: float, engine: EngineView) -> int:
        """Return the reserve at `now_s` beside so many `running` requests; the caller has read both."""
        # Asked several times an event: comparisons instead of min and max.
        num_blocks = engine.num_blocks
        lost_share = self._found.lost_share
        if lost_share < 1.0:
            running = int(running * lost_share)
        wanted = running // 2
        share = self._share
        if share:
            share -= self._fall_per_s * (now_s - self._since_s)
            if share > 0.0:
                kept = int(share * num_blocks)
                if kept > wanted:
                    return kept  # the share itself is bounded
        most = MOST_SHARE * num_blocks
        return wanted if wanted <= most else int(most)

    def earning_blocks(self, engine: EngineView) -> int:
        """Return the blocks to leave free behind a new request, so that it earns part of its recompute.

        Its recompute costs token_s a token. Each of its steps is worth recent_step_s / running, in which the
        running requests take running / block_size blocks. A request of the usual size holds 1 / running of
        the memory, so these blocks are a share of memory that grows with the requests running.
        Half a footprint is free in any case, on average: the next request seldom fits to the last block.
        """
        prices = self._prices
        share = EARNED_SHARE * prices.token_s * engine.lost_token_price / prices.recent_step_s
        share *= engine.num_running
        if share > MOST_EARNING_SHARE:
            share = MOST_EARNING_SHARE
        share -= 0.5 * prices.footprint
        return int(share * engine.num_blocks) if share > 0.0 else 0

    def free_blocks(self, engine: EngineView) -> int:
        """Return the blocks free above the reserve; all free ones while nothing runs."""
        free, running = engine.free_blocks, engine.num_running
        return free - self.blocks_beside(running, engine.now_s, engine) if running else free

    def room(self, engine: EngineView) -> AdmissionRoom:
        """Return the memory an admission may use now."""
        free, running = engine.free_blocks, engine.num_running
        if not running:
            return AdmissionRoom(free, 0, 0.0, 0.0)
        prices = self._prices
        # An entry of B blocks costs token_s * B * block_size; each of its steps is worth step_s / running, in
        # which the running requests take running / block_size blocks.
        per_block = prices.token_s / prices.recent_step_s * running * running
        return AdmissionRoom(
            free - self.blocks(engine), running, per_block, MOST_GROWTH_SHARE * engine.num_blocks
        )
