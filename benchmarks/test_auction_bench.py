"""What it would cost to choose the idle session to drop by the contract's auction: bids, pool, solver.

Every idle session bids the tokens that dropping it frees against the machine time that its return would then
cost. A session's price falls with every second that it idles, so all bids are made anew at an event.
"""

from __future__ import annotations

from typing import Any

import pytest

from bidkv.config import BidKVConfig
from bidkv.pool import BidPoolManager
from bidkv.protocol import BidAcceptance, CompressionBid, make_bid_id
from bidkv.solver import GreedyBidSolver, SolverConfig

TOKENS_NEEDED = 2_000


class SessionAuction:
    """The auction as the contract describes it, with the config's switch and kill switch in force."""

    def __init__(self, config: BidKVConfig) -> None:
        self.pool = BidPoolManager(enabled=config.enabled, kill_switch=config.kill_switch)
        self.solver = GreedyBidSolver(
            SolverConfig(enabled=config.enabled, kill_switch=config.kill_switch, max_bids_per_solve=20)
        )

    def choose(self, idle: dict[str, tuple[int, float]]) -> BidAcceptance:
        """Take bids of all idle sessions (id to tokens held and expected cost) and solve."""
        for name, (tokens, cost) in idle.items():
            bid = CompressionBid(make_bid_id(name, 0), name, "drop-session", tokens, cost, 0.0, 1.0)
            self.pool.submit_bids(name, (bid,))
        return self.solver.solve(self.pool.get_pool_snapshot(), TOKENS_NEEDED, delta_budget=1e9)


@pytest.mark.parametrize("sessions", [8, 80, 400])
def test_choosing_by_bids_among_idle_sessions(benchmark: Any, sessions: int) -> None:
    auction = SessionAuction(BidKVConfig(enabled=True))
    idle = {f"s{number}": (1_000 + 37 * number % 900, 0.1 + number % 7) for number in range(sessions)}
    accepted = benchmark(auction.choose, idle)
    assert accepted.total_tokens_freed >= TOKENS_NEEDED
    # The engine's question is the same one: the session that frees most per cost goes first.
    best = max(idle, key=lambda name: idle[name][0] / (idle[name][1] + 1e-3))
    assert accepted.accepted_bid_ids[0] == make_bid_id(best, 0)


def test_the_kill_switch_costs_nothing(benchmark: Any) -> None:
    auction = SessionAuction(BidKVConfig(enabled=True, kill_switch=True))
    accepted = benchmark(auction.choose, {"a": (1_000, 0.1)})
    assert accepted.is_empty
