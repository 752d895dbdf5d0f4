import re
from dataclasses import FrozenInstanceError, astuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidkv.pressure import PressureConfig, PressureDetector
from bidkv.protocol import BidAcceptance, BidCapacityError, BidPool, CompressionBid
from bidkv.solver import GreedyBidSolver, SolverConfig

NAN, INF = float("nan"), float("inf")
REASON = "kv_pool_pressure_threshold_exceeded"


def bid(bid_id: str, tokens: int, delta: float, request: str | None = None) -> CompressionBid:
    return CompressionBid(bid_id, request or bid_id, "a", tokens, delta, 1.0, 0.5)


def pool(*bids: CompressionBid) -> BidPool:
    return BidPool(1, bids)


def solver(**config: object) -> GreedyBidSolver:
    return GreedyBidSolver(SolverConfig(enabled=True, **config))  # type: ignore[arg-type]


def test_defaults() -> None:
    assert astuple(SolverConfig()) == (False, 0.15, 20, False, REASON)
    with pytest.raises(FrozenInstanceError):
        SolverConfig().enabled = True  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"delta_budget": -0.01}, "delta_budget must be in [0.0, 1.0]"),
        ({"delta_budget": 1.01}, "delta_budget must be in [0.0, 1.0]"),
        ({"delta_budget": NAN}, "delta_budget must be in [0.0, 1.0]"),
        ({"max_bids_per_solve": 0}, "max_bids_per_solve must be >= 1"),
        ({"decision_reason": ""}, "decision_reason must be a non-empty string"),
    ],
)
def test_config_rejects_bad_values(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        SolverConfig(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "needed", "bids", "suffix"),
    [
        (SolverConfig(kill_switch=True), 0, (), "kill_switch"),
        (SolverConfig(kill_switch=True, enabled=True), 5, (bid("a", 9, 0.0),), "kill_switch"),
        (SolverConfig(), 0, (), "feature_off"),
        (SolverConfig(enabled=True), 0, (), "no_tokens_needed"),
        (SolverConfig(enabled=True), -3, (bid("a", 9, 0.0),), "no_tokens_needed"),
        (SolverConfig(enabled=True), 5, (), "empty_pool"),
    ],
)
def test_nothing_to_decide(
    config: SolverConfig, needed: int, bids: tuple[CompressionBid, ...], suffix: str
) -> None:
    assert GreedyBidSolver(config).solve(pool(*bids), needed) == BidAcceptance(
        (), 0, 0.0, f"{REASON}:{suffix}"
    )
    named = GreedyBidSolver(config).solve(pool(*bids), needed, decision_reason="mine")
    assert named.decision_reason == f"mine:{suffix}"


def test_off_by_default() -> None:
    assert GreedyBidSolver().solve(pool(bid("a", 9, 0.0)), 5).decision_reason == f"{REASON}:feature_off"


def test_takes_the_best_utility_first_and_stops_when_enough() -> None:
    offer = pool(bid("poor", 10, 0.1), bid("best", 50, 0.01), bid("good", 30, 0.05))
    assert solver().solve(offer, 60) == BidAcceptance(("best", "good"), 80, 0.06, REASON)
    assert solver().solve(offer, 50, decision_reason="why") == BidAcceptance(("best",), 50, 0.01, "why")


def test_equal_utilities_keep_pool_order() -> None:
    offer = pool(bid("b", 10, 0.05), bid("a", 10, 0.05), bid("c", 10, 0.05))
    assert solver().solve(offer, 20).accepted_bid_ids == ("b", "a")


def test_at_most_one_bid_a_request() -> None:
    offer = pool(bid("r:1", 50, 0.01, "r"), bid("r:2", 40, 0.01, "r"), bid("s", 5, 0.01))
    assert solver().solve(offer, 100).accepted_bid_ids == ("r:1", "s")


def test_a_bid_over_budget_is_skipped_not_the_end() -> None:
    offer = pool(bid("a", 100, 0.1), bid("over", 60, 0.1), bid("b", 10, 0.05))
    assert solver().solve(offer, 1_000) == BidAcceptance(("a", "b"), 110, 0.15, REASON)


def test_a_request_whose_best_bid_is_over_budget_may_take_another() -> None:
    offer = pool(bid("r:big", 1_000, 0.5, "r"), bid("r:small", 50, 0.1, "r"))
    assert solver().solve(offer, 10).accepted_bid_ids == ("r:small",)


def test_float_noise_does_not_break_the_budget() -> None:
    offer = pool(*(bid(f"b{i}", 10, 0.05) for i in range(4)))
    accepted = solver(delta_budget=0.15).solve(offer, 1_000)
    assert (accepted.accepted_count, accepted.total_quality_delta) == (3, 0.15)


def test_all_over_budget_is_an_empty_acceptance_with_the_plain_reason() -> None:
    assert solver().solve(pool(bid("a", 9, 0.5)), 5) == BidAcceptance((), 0, 0.0, REASON)


def test_the_number_of_bids_is_limited() -> None:
    offer = pool(*(bid(f"b{i}", 10, 0.0) for i in range(9)))
    assert solver(max_bids_per_solve=2).solve(offer, 1_000).accepted_count == 2
    assert solver().solve(pool(*(bid(f"b{i}", 1, 0.0) for i in range(30))), 1_000).accepted_count == 20


def test_an_override_budget_may_exceed_one() -> None:
    offer = pool(bid("a", 9, 0.9), bid("b", 8, 0.9))
    assert solver().solve(offer, 100, 1.8).accepted_count == 2
    assert solver().solve(offer, 100, 0.0).accepted_count == 0


@pytest.mark.parametrize("budget", [-0.1, NAN, INF])
def test_a_bad_override_budget_is_an_error(budget: float) -> None:
    with pytest.raises(ValueError, match=re.escape("delta_budget must be >= 0.0")):
        solver().solve(pool(bid("a", 9, 0.0)), 5, budget)


def test_the_total_is_rounded() -> None:
    offer = pool(bid("a", 9, 0.1234564), bid("b", 8, 0.0000003))
    assert solver().solve(offer, 100).total_quality_delta == 0.123457


def test_update_config() -> None:
    greedy = GreedyBidSolver()
    greedy.update_config(SolverConfig(enabled=True))
    assert greedy.solve(pool(bid("a", 9, 0.0)), 5).accepted_bid_ids == ("a",)


def test_with_a_detector() -> None:
    detector = PressureDetector(PressureConfig(enabled=True))
    offer = pool(bid("a", 100, 0.0), bid("b", 90, 0.1))
    detector.update_stats(950, 1_000)
    assert solver().solve_with_detector(offer, detector).accepted_bid_ids == ("a",)
    detector.update_stats(990, 1_000)
    assert solver().solve_with_detector(offer, detector).accepted_bid_ids == ("a", "b")
    narrow = solver().solve_with_detector(offer, detector, 0.05, decision_reason="why")
    assert narrow == BidAcceptance(("a",), 100, 0.0, "why")


def test_no_pressure_needs_nothing() -> None:
    detector = PressureDetector()  # disabled: the need is known, but must not be acted on
    detector.update_stats(990, 1_000)
    accepted = solver().solve_with_detector(pool(bid("a", 100, 0.0)), detector)
    assert accepted.decision_reason == f"{REASON}:no_tokens_needed"


def test_solve_or_raise() -> None:
    offer = pool(bid("a", 100, 0.0), bid("b", 90, 0.9))
    assert solver().solve_or_raise(offer, 100).accepted_bid_ids == ("a",)
    with pytest.raises(BidCapacityError) as caught:
        solver().solve_or_raise(offer, 150)
    assert (caught.value.requested_tokens, caught.value.available_tokens) == (150, 100)
    assert "150 tokens are needed, acceptable bids free 100" in str(caught.value)
    with pytest.raises(BidCapacityError, match="kill_switch"):
        solver(kill_switch=True).solve_or_raise(offer, 1)
    assert solver().solve_or_raise(offer, 0).is_empty


offers = st.lists(
    st.tuples(st.integers(1, 500), st.floats(0, 0.5), st.sampled_from("pqrs")), min_size=1, max_size=15
)


@given(offers, st.integers(1, 2_000), st.floats(0, 2), st.integers(1, 6))
def test_every_limit_holds(rows: list[tuple[int, float, str]], needed: int, budget: float, most: int) -> None:
    offer = pool(*(bid(f"b{i}", n, delta, request) for i, (n, delta, request) in enumerate(rows)))
    accepted = solver(max_bids_per_solve=most).solve(offer, needed, budget)
    chosen = [next(b for b in offer.bids if b.bid_id == bid_id) for bid_id in accepted.accepted_bid_ids]
    assert len({b.request_id for b in chosen}) == len(chosen) <= most
    assert sum(b.quality_delta for b in chosen) <= budget + 1e-9
    assert accepted.total_tokens_freed == sum(b.tokens_freed for b in chosen)
    assert accepted.total_quality_delta == round(sum(b.quality_delta for b in chosen), 6)
    assert sum(b.tokens_freed for b in chosen[:-1]) < needed  # none was taken after the need was met
    assert [b.utility for b in chosen] == sorted((b.utility for b in chosen), reverse=True)
    if accepted.total_tokens_freed < needed and len(chosen) < most:
        spent = sum(b.quality_delta for b in chosen)
        others = [b for b in offer.bids if b.request_id not in {c.request_id for c in chosen}]
        assert all(spent + b.quality_delta > budget for b in others)
