import pickle
import re
from collections.abc import Sequence
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidkv.protocol import (
    FEATURE_GATE_ID,
    UTILITY_EPSILON,
    BidAcceptance,
    BidCapacityError,
    BidExecutionError,
    BidExpiredError,
    BidPool,
    CompressionBid,
    CompressionBidError,
    CompressionBidProvider,
    compute_utility,
    make_bid_id,
)

NAN, INF = float("nan"), float("inf")
GOOD: dict[str, Any] = {
    "bid_id": "b",
    "request_id": "r",
    "algorithm_id": "a",
    "tokens_freed": 10,
    "quality_delta": 0.1,
    "compress_latency_ms": 1.0,
    "confidence": 0.5,
}


def bid(bid_id: str, tokens: int = 10, delta: float = 0.1, request: str = "r") -> CompressionBid:
    return CompressionBid(bid_id, request, "a", tokens, delta, 1.0, 0.5)


def test_constants() -> None:
    assert FEATURE_GATE_ID == "compress.scheduling_primitive.v1"
    assert UTILITY_EPSILON == 1e-3


# --- CompressionBid ------------------------------------------------------------------------------
def test_bid_takes_its_fields_in_the_stated_order() -> None:
    made = CompressionBid("b", "r", "a", 10, 0.2, 3.0, 0.9, {"k": 1})
    assert (made.bid_id, made.request_id, made.algorithm_id) == ("b", "r", "a")
    assert (made.tokens_freed, made.quality_delta, made.compress_latency_ms) == (10, 0.2, 3.0)
    assert (made.confidence, made.metadata) == (0.9, {"k": 1})
    assert CompressionBid(**GOOD).metadata == {}


def test_bid_is_frozen_hashable_and_keeps_its_own_metadata() -> None:
    metadata = {"k": 1}
    made = CompressionBid(**GOOD, metadata=metadata)
    metadata["k"] = 2
    assert made.metadata == {"k": 1}
    assert len({made, CompressionBid(**GOOD, metadata={"k": 1})}) == 1
    with pytest.raises(FrozenInstanceError):
        made.tokens_freed = 5  # type: ignore[misc]


BAD_FIELDS = [
    ("bid_id", ["", None], "bid_id must be a non-empty string"),
    ("request_id", ["", 3], "request_id must be a non-empty string"),
    ("algorithm_id", [""], "algorithm_id must be a non-empty string"),
    ("tokens_freed", [0, -1, NAN, INF], "tokens_freed must be > 0"),
    ("quality_delta", [-0.001, NAN, INF], "quality_delta must be >= 0.0"),
    ("compress_latency_ms", [-0.001, NAN, INF], "compress_latency_ms must be >= 0.0"),
    ("confidence", [-0.01, 1.01, NAN, INF], "confidence must be in [0.0, 1.0]"),
]


@pytest.mark.parametrize(
    ("field", "value", "message"), [(name, value, text) for name, bad, text in BAD_FIELDS for value in bad]
)
def test_bid_rejects_bad_values(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        CompressionBid(**{**GOOD, field: value})


@pytest.mark.parametrize("first", range(len(BAD_FIELDS)))
def test_bid_checks_in_the_stated_order(first: int) -> None:
    values = {**GOOD, **{name: bad[0] for name, bad, _ in BAD_FIELDS[first:]}}
    with pytest.raises(ValueError, match=re.escape(BAD_FIELDS[first][2])):
        CompressionBid(**values)


def test_quality_delta_has_no_upper_bound() -> None:
    assert CompressionBid(**{**GOOD, "quality_delta": 40.0}).utility == pytest.approx(10 / 40.001)


@given(tokens=st.integers(1, 10**9), delta=st.floats(0, 1e6))
def test_utility(tokens: int, delta: float) -> None:
    made = bid("b", tokens, delta)
    assert made.utility == tokens / (delta + 1e-3)
    assert made.normalized_utility == made.utility


# --- BidPool -------------------------------------------------------------------------------------
def test_pool_defaults_to_no_bids_and_copies_lists() -> None:
    assert BidPool(0).bids == ()
    bids = [bid("a")]
    pool = BidPool(5, bids)  # type: ignore[arg-type]
    bids.clear()
    assert pool.bids == (bid("a"),)


@pytest.mark.parametrize("time_ns", [-1, NAN])
def test_pool_rejects_a_negative_time(time_ns: Any) -> None:
    with pytest.raises(ValueError, match="snapshot_time_ns must be >= 0"):
        BidPool(time_ns)


def test_pool_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        BidPool(0).bids = ()  # type: ignore[misc]


def test_bids_for_request_by_falling_utility_and_stable() -> None:
    pool = BidPool(
        1, (bid("low", 1), bid("x", 99, request="other"), bid("tie1", 5), bid("tie2", 5), bid("top", 9))
    )
    assert [b.bid_id for b in pool.bids_for_request("r")] == ["top", "tie1", "tie2", "low"]
    assert isinstance(pool.bids_for_request("r"), tuple)
    assert pool.bids_for_request("nobody") == ()


def test_top_k_by_utility() -> None:
    pool = BidPool(1, (bid("a", 5), bid("b", 9), bid("c", 5)))
    assert [b.bid_id for b in pool.top_k_by_utility(2)] == ["b", "a"]
    assert [b.bid_id for b in pool.top_k_by_utility(99)] == ["b", "a", "c"]
    assert BidPool(1).top_k_by_utility(1) == ()


@pytest.mark.parametrize("k", [0, -3])
def test_top_k_needs_at_least_one(k: int) -> None:
    with pytest.raises(ValueError, match="k must be >= 1"):
        BidPool(0).top_k_by_utility(k)


def test_total_tokens_available_counts_every_bid() -> None:
    assert BidPool(1, (bid("a", 5), bid("b", 9))).total_tokens_available == 14
    assert BidPool(1).total_tokens_available == 0


@given(st.lists(st.integers(1, 5), max_size=12), st.integers(1, 12))
def test_top_k_is_a_stable_prefix(tokens: list[int], k: int) -> None:
    pool = BidPool(0, tuple(bid(f"b{i}", n) for i, n in enumerate(tokens)))
    expected = sorted(range(len(tokens)), key=lambda i: (-tokens[i], i))[:k]
    assert [b.bid_id for b in pool.top_k_by_utility(k)] == [f"b{i}" for i in expected]


# --- BidAcceptance -------------------------------------------------------------------------------
def test_acceptance() -> None:
    some = BidAcceptance(("a", "b"), 30, 0.2, "why")
    assert (some.accepted_count, some.is_empty) == (2, False)
    none = BidAcceptance((), 0, 0.0, "why")
    assert (none.accepted_count, none.is_empty) == (0, True)
    with pytest.raises(FrozenInstanceError):
        none.decision_reason = "x"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("tokens", "delta", "reason", "message"),
    [
        (-1, 0.0, "r", "total_tokens_freed must be >= 0"),
        (NAN, 0.0, "r", "total_tokens_freed must be >= 0"),
        (0, -0.1, "r", "total_quality_delta must be >= 0.0"),
        (0, NAN, "r", "total_quality_delta must be >= 0.0"),
        (0, INF, "r", "total_quality_delta must be >= 0.0"),
        (0, 0.0, "", "decision_reason must be a non-empty string"),
    ],
)
def test_acceptance_rejects_bad_values(tokens: Any, delta: float, reason: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        BidAcceptance((), tokens, delta, reason)


# --- functions -----------------------------------------------------------------------------------
def test_compute_utility() -> None:
    assert compute_utility(100, 0.0) == 100 / 1e-3
    assert compute_utility(1, 1.0) == 1 / 1.001


@pytest.mark.parametrize("tokens", [0, -5, NAN, INF])
def test_compute_utility_needs_tokens(tokens: Any) -> None:
    with pytest.raises(ValueError, match="tokens_freed must be > 0"):
        compute_utility(tokens, 0.1)


@pytest.mark.parametrize("delta", [-0.1, 1.0001, NAN, INF])
def test_compute_utility_bounds_the_delta(delta: float) -> None:
    with pytest.raises(ValueError, match=re.escape("quality_delta must be in [0.0, 1.0]")):
        compute_utility(1, delta)


def test_make_bid_id() -> None:
    assert make_bid_id("req", 0) == "req:bid:0"
    assert make_bid_id("a:b", 12) == "a:b:bid:12"
    with pytest.raises(ValueError, match="request_id must be a non-empty string"):
        make_bid_id("", 0)
    with pytest.raises(ValueError, match="level must be >= 0"):
        make_bid_id("r", -1)


# --- errors --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "error_class", [CompressionBidError, BidExpiredError, BidCapacityError, BidExecutionError]
)
def test_errors_carry_message_and_bid(error_class: type[CompressionBidError]) -> None:
    error = error_class("m", bid_id="b")
    assert isinstance(error, CompressionBidError)
    assert (error.message, error.bid_id, str(error)) == ("m", "b", "m")
    assert repr(error) == f"{error_class.__name__}(message='m', bid_id='b')"
    assert error_class("m").bid_id is None
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), repr(copy)) == (error_class, repr(error))


def test_capacity_error_says_how_much() -> None:
    error = BidCapacityError("m", requested_tokens=9, available_tokens=4)
    assert (error.requested_tokens, error.available_tokens) == (9, 4)
    assert (BidCapacityError("m").requested_tokens, BidCapacityError("m").available_tokens) == (0, 0)


def test_execution_error_keeps_its_cause() -> None:
    cause = OSError("disk")
    error = BidExecutionError("m", cause=cause)
    assert error.cause is cause
    assert error.__cause__ is cause
    assert BidExecutionError("m").cause is None


# --- provider ------------------------------------------------------------------------------------
class Provider:
    def get_bids(
        self, request_id: str, *, min_tokens: int = 0, max_delta: float = 1.0
    ) -> Sequence[CompressionBid]:
        return []

    def accept_bid(self, bid_id: str) -> BidAcceptance:
        return BidAcceptance((bid_id,), 1, 0.0, "done")


def test_provider_protocol_is_checked_at_runtime() -> None:
    assert isinstance(Provider(), CompressionBidProvider)
    assert not isinstance(object(), CompressionBidProvider)
