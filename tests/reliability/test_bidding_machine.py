"""A state machine over detector, pool, solver and provider: bids come, age and are carried out in any order.

A plain model of the KV cache says what must be in use, another of the pool what must be on offer. Quick:
some 10^4 operations; with `--hypothesis-profile=nightly` 10^6.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.reliability.tally import TALLY

from bidkv.pool import BidPoolManager
from bidkv.pressure import PressureConfig, PressureDetector
from bidkv.protocol import (
    BidAcceptance,
    BidCapacityError,
    BidExecutionError,
    BidExpiredError,
    BidPool,
    CompressionBid,
    CompressionBidError,
)
from bidkv.solver import GreedyBidSolver, SolverConfig

CAPACITY_TOKENS = 1000
TOLERANCE = 1e-6
REQUESTS = st.sampled_from(["r", "s", "t", "u"])
SHARED_ID = "one id for many requests"
JUMPS_NS = st.sampled_from([0, 1, 10**9, 10**18, -(10**9)])
CONFIGS = st.builds(
    SolverConfig,
    enabled=st.sampled_from([True, True, True, False]),
    kill_switch=st.sampled_from([False, False, False, True]),
    delta_budget=st.sampled_from([0.0, 0.05, 0.15, 1.0]),
    max_bids_per_solve=st.integers(1, 4),
)


class Bidding(RuleBasedStateMachine):
    """One KV cache; it is also the provider that carries bids out, well or badly."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ns = 0
        self.pool = BidPoolManager(enabled=True, clock_ns=lambda: self.now_ns)
        self.config = SolverConfig(enabled=True)
        self.solver = GreedyBidSolver(self.config)
        self.detector = PressureDetector(
            PressureConfig(enabled=True, threshold_pct=0.5, min_free_tokens=300, release_pct=0.4)
        )
        self.tokens: dict[str, int] = {}
        self.offered: dict[str, list[CompressionBid]] = {}
        self.numbers = 0
        self.carried_out: Counter[str] = Counter()
        self.way = "well"
        self.done: Counter[str] = Counter()

    # --- the provider ----------------------------------------------------------------------------
    def get_bids(
        self, request_id: str, *, min_tokens: int = 0, max_delta: float = 1.0
    ) -> Sequence[CompressionBid]:
        """Unused: requests submit by themselves."""
        return ()

    def accept_bid(self, bid_id: str) -> BidAcceptance:
        bid = self.taken
        # The pool let go of everything its request offered before anybody was asked to act.
        assert self.pool.get_bids_for_request(bid.request_id) == []
        if self.way == "fails":
            raise RuntimeError("no memory for the compressor")
        if self.way == "refuses":
            raise CompressionBidError("not now")
        self.carried_out[bid.metadata["serial"]] += 1
        self.tokens[bid.request_id] -= bid.tokens_freed
        if self.way == "bids anew":
            self.bid(bid.request_id, 2, shared=True)
        return BidAcceptance((bid_id,), bid.tokens_freed, bid.quality_delta, "executed")

    # --- what may happen -------------------------------------------------------------------------
    @rule(request=REQUESTS, tokens=st.integers(1, 300), count=st.integers(1, 4), shared=st.booleans())
    def grow(self, request: str, tokens: int, count: int, shared: bool) -> None:
        """The request holds more, and says what of it could go."""
        self.tokens[request] = self.tokens.get(request, 0) + tokens
        self.bid(request, count, shared=shared)

    @rule(request=REQUESTS, count=st.integers(0, 4), shared=st.booleans())
    def bid(self, request: str, count: int, shared: bool) -> None:
        """Offer parts of what the request holds; at times under an id that others use too."""
        self.done["submissions"] += 1
        held = self.tokens.get(request, 0)
        bids = []
        for level in range(count if held > 4 else 0):
            self.numbers += 1
            name = SHARED_ID if shared and level == 0 else f"{request}:{self.numbers}"
            delta = (0.0, 0.03, 0.1, 1.7)[(self.numbers + level) % 4]
            freed = max(1, held * (level + 1) // 6)
            bids.append(
                CompressionBid(name, request, "half", freed, delta, 1.0, 0.5, {"serial": self.numbers})
            )
        self.pool.submit_bids(request, bids)
        if self.pool.is_active:
            self.offered[request] = bids

    # One rule for all that interferes: most of what happens is work.
    @rule(
        action=st.sampled_from(
            ["finish", "on", "on", "on", "disable", "activate_kill_switch", "solver", "jump"]
        ),
        request=REQUESTS,
        config=CONFIGS,
        jump_ns=JUMPS_NS,
    )
    def interfere(self, action: str, request: str, config: SolverConfig, jump_ns: int) -> None:
        self.done["interventions"] += 1
        match action:
            case "finish":
                self.finish(request)
            case "on":
                self.pool.enable()
                assert self.pool.is_active
            case "solver":
                self.config = config
                self.solver.update_config(config)
            case "jump":
                self.now_ns = max(0, self.now_ns + jump_ns)
            case _:
                getattr(self.pool, action)()
                assert not self.pool.is_active
                self.offered.clear()

    def finish(self, request: str) -> None:
        self.tokens.pop(request, None)
        assert self.pool.remove_by_request(request) == len(self.offered.pop(request, []))

    @rule(
        pending=st.integers(0, 1),
        overdraw=st.none() | st.integers(0, 2000),
        way=st.sampled_from(["well", "well", "well", "bids anew", "fails", "refuses"]),
        gone=st.none() | REQUESTS,
    )
    def squeeze(self, pending: int, overdraw: int | None, way: str, gone: str | None) -> None:
        """Free what the detector asks for (or `overdraw` tokens); `gone` finishes after the decision."""
        self.done["decisions"] += 1
        used = sum(self.tokens.values())
        self.detector.update_stats(used, CAPACITY_TOKENS, pending)
        snapshot = self.pool.get_pool_snapshot()
        if overdraw is None:
            needed = self.detector.needed_tokens() if self.detector.is_under_pressure() else 0
            acceptance = self.solver.solve_with_detector(snapshot, self.detector)
        else:
            needed = overdraw
            acceptance = self.solver.solve(snapshot, needed)
        chosen = self.check_decision(snapshot, needed, acceptance)
        if gone is not None:
            self.finish(gone)
        self.way = way
        for bid in chosen:
            self.carry_out(bid)

    # --- what must hold --------------------------------------------------------------------------
    def check_decision(
        self, snapshot: BidPool, needed: int, acceptance: BidAcceptance
    ) -> list[CompressionBid]:
        config = self.config
        chosen: list[CompressionBid] = []
        left = list(snapshot.top_k_by_utility(max(1, len(snapshot.bids))))
        for name in acceptance.accepted_bid_ids:
            # Ids may be shared: the best of its name that no chosen request made.
            taken = {bid.request_id for bid in chosen}
            fits = [bid for bid in left if bid.bid_id == name and bid.request_id not in taken]
            chosen.append(fits[0] if len(fits) == 1 else self.affordable(fits, chosen))
        may_act = config.enabled and not config.kill_switch and needed > 0
        assert may_act or not chosen
        freed = sum(bid.tokens_freed for bid in chosen)
        delta = sum(bid.quality_delta for bid in chosen)
        assert acceptance.total_tokens_freed == freed
        assert acceptance.total_quality_delta == pytest.approx(delta, abs=TOLERANCE)
        assert delta <= config.delta_budget + TOLERANCE
        assert len(chosen) <= config.max_bids_per_solve
        if may_act and freed < needed and len(chosen) < config.max_bids_per_solve:
            # It gave up only because nobody else could be taken.
            taken = {bid.request_id for bid in chosen}
            for bid in left:
                assert bid.request_id in taken or delta + bid.quality_delta > config.delta_budget - TOLERANCE
        if may_act and freed < needed:
            with pytest.raises(BidCapacityError):
                self.solver.solve_or_raise(snapshot, needed)
        return chosen

    def affordable(self, fits: list[CompressionBid], chosen: list[CompressionBid]) -> CompressionBid:
        spent = sum(bid.quality_delta for bid in chosen)
        return next(b for b in fits if spent + b.quality_delta <= self.config.delta_budget + 1e-9)

    def carry_out(self, bid: CompressionBid) -> None:
        self.done["executions"] += 1
        live = self.pool.get_bid(bid.bid_id)
        if live is None:
            with pytest.raises(BidExpiredError):
                self.pool.accept_bid(bid.bid_id, self)
            return
        # Of a shared id the request that took it last is meant, as the pool says.
        self.taken = live
        used = sum(self.tokens.values())
        del self.offered[live.request_id]
        if self.way in ("fails", "refuses"):
            error = BidExecutionError if self.way == "fails" else CompressionBidError
            with pytest.raises(error):
                self.pool.accept_bid(bid.bid_id, self)
            freed = 0
        else:
            freed = self.pool.accept_bid(bid.bid_id, self).total_tokens_freed
            assert freed == live.tokens_freed
        assert sum(self.tokens.values()) == used - freed

    @invariant()
    def the_pool_is_what_was_offered(self) -> None:
        offers = [bid for bids in self.offered.values() for bid in bids]
        snapshot = self.pool.get_pool_snapshot()
        assert sorted(bid.metadata["serial"] for bid in snapshot.bids) == sorted(
            bid.metadata["serial"] for bid in offers
        )
        assert self.pool.active_request_count == len(self.offered)
        assert snapshot.snapshot_time_ns == (self.now_ns if self.pool.is_active else 0)

    @invariant()
    def nothing_was_carried_out_twice_and_no_token_is_missing(self) -> None:
        assert all(times == 1 for times in self.carried_out.values())
        assert all(tokens >= 0 for tokens in self.tokens.values())

    def teardown(self) -> None:
        TALLY["pool and solver"].update(self.done)


TestBidding = Bidding.TestCase
TestBidding.settings = settings(
    max_examples=5 * settings.default.max_examples // 2, stateful_step_count=50, deadline=None
)
