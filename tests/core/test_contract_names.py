"""The names by which users of the contract call it: modules, keywords and properties."""

import importlib
from typing import Any

import pytest

import bidkv
from bidkv import (
    BidAcceptance,
    BidCapacityError,
    BidExecutionError,
    BidKVStrategy,
    BidPool,
    BidPoolManager,
    CompressionAction,
    CompressionBid,
    GreedyBidSolver,
    LargestFirstStrategy,
    PositionalScoring,
    PreemptEvictStrategy,
    PressureConfig,
    PressureDetector,
    RequestState,
    SolverConfig,
    build_bids,
    compute_utility,
)


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("bidkv.protocol.bid", "BidAcceptance BidPool CompressionBid FEATURE_GATE_ID compute_utility"),
        ("bidkv.protocol.bid", "make_bid_id"),
        ("bidkv.protocol.errors", "BidCapacityError BidExecutionError BidExpiredError CompressionBidError"),
        ("bidkv.protocol.provider", "CompressionBidProvider"),
        ("bidkv.scoring.base", "ScoringStrategy"),
        ("bidkv.scoring.bid_builder", "build_bids"),
        ("bidkv.scoring.positional", "PositionalScoring"),
        ("bidkv.baselines.bidkv_strategy", "BidKVStrategy"),
    ],
)
def test_modules_hold_the_names_that_users_import(module: str, names: str) -> None:
    held = importlib.import_module(module)
    for name in names.split():
        assert getattr(held, name) is getattr(bidkv, name)


def test_a_detector_is_told_by_keywords() -> None:
    detector = PressureDetector(PressureConfig(threshold_pct=0.85, min_free_tokens=512, enabled=True))
    detector.update_stats(used_tokens=800, max_tokens=1000)
    assert not detector.is_under_pressure()
    detector.update_stats(used_tokens=900, max_tokens=1000)
    assert detector.is_under_pressure()
    assert detector.needed_tokens() == 50
    detector.update_stats(used_tokens=600, max_tokens=1000, pending_high_priority=1)
    assert detector.is_under_pressure()
    assert detector.get_kv_stats() == {
        "used_tokens": 600,
        "max_tokens": 1000,
        "free_tokens": 400,
        "pending_high_priority": 1,
    }


@pytest.mark.parametrize(
    ("switches", "is_active"),
    [({}, False), ({"enabled": True}, True), ({"enabled": True, "kill_switch": True}, False)],
)
def test_a_solver_says_whether_it_is_active(switches: dict[str, bool], is_active: bool) -> None:
    assert SolverConfig(**switches).is_active is is_active


@pytest.mark.parametrize("strategy", [LargestFirstStrategy, BidKVStrategy])
def test_strategies_show_their_scorer(strategy: Any) -> None:
    scorer = PositionalScoring(heavy_ratio=0.3, recent_ratio=0.1)
    assert strategy(scoring=scorer).scoring is scorer
    assert isinstance(strategy().scoring, PositionalScoring)


def test_a_strategy_takes_what_others_need_by_keyword() -> None:
    state = RequestState(request_id="a", current_tokens=100, token_ids=tuple(range(100)))
    scorer = PositionalScoring()
    actions = LargestFirstStrategy().select_victims(
        [state], needed_tokens=30, scoring_states={"a": scorer}, now_ms=5.0
    )
    assert [(action.request_id, action.target_tokens) for action in actions] == [("a", 30)]
    assert PreemptEvictStrategy().select_victims(candidates=[state], needed_tokens=1)[0].target_tokens == 100


def test_a_request_is_scored_by_its_own_scorer_where_one_is_given() -> None:
    states = [
        RequestState(request_id=name, current_tokens=100, token_ids=tuple(range(100))) for name in ("a", "b")
    ]
    watched = PositionalScoring()
    watched.update_from_decode_step([1.0] * 100)  # every token matters
    plain = LargestFirstStrategy().select_victims(states, needed_tokens=10)
    assert [action.request_id for action in plain] == ["a"]
    scored = LargestFirstStrategy().select_victims(states, needed_tokens=10, scoring_states={"a": watched})
    assert [action.request_id for action in scored] == ["b"]


def test_everything_is_made_by_keyword() -> None:
    bid = CompressionBid(
        bid_id="a:bid:0",
        request_id="a",
        algorithm_id="t",
        tokens_freed=100,
        quality_delta=0.05,
        compress_latency_ms=1.0,
        confidence=0.9,
    )
    pool = BidPool(snapshot_time_ns=1, bids=(bid,))
    manager = BidPoolManager(enabled=True, kill_switch=False)
    manager.submit_bids(request_id="a", bids=[bid])
    assert manager.get_pool_snapshot().bids == pool.bids
    solver = GreedyBidSolver(config=SolverConfig(enabled=True, delta_budget=0.01))
    assert solver.solve(pool, tokens_needed=50, delta_budget=0.2, decision_reason="r") == BidAcceptance(
        accepted_bid_ids=("a:bid:0",),
        total_tokens_freed=100,
        total_quality_delta=0.05,
        decision_reason="r",
    )
    assert compute_utility(tokens_freed=1, quality_delta=0.999) == 1.0
    assert CompressionAction(request_id="a", action_type="evict", target_tokens=3).metadata == {}
    assert BidCapacityError("m", bid_id="b", requested_tokens=5, available_tokens=1).requested_tokens == 5
    cause = RuntimeError("c")
    assert BidExecutionError("m", bid_id="b", cause=cause).cause is cause


def test_bids_are_built_by_keyword() -> None:
    (bid,) = build_bids(
        request_id="a",
        token_ids=[10, 20, 30, 40, 50],
        scores=[0.1, 0.9, 0.5, 0.3, 0.7],
        compression_levels=[0.4],
        algorithm_id="t",
        confidence_fn=lambda: 0.85,
        extra_metadata={"own": 1},
    )
    assert (bid.tokens_freed, bid.confidence, bid.metadata["own"]) == (2, 0.85, 1)
    assert bid.quality_delta == pytest.approx(0.2)
