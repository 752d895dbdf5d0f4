"""Compression bids: what a request offers to give up, and what a decision accepted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

FEATURE_GATE_ID: Final = "compress.scheduling_primitive.v1"
"""The name under which an engine's feature gates know bidding."""

UTILITY_EPSILON: Final = 1e-3
"""Added to a quality loss before dividing by it: a lossless bid has a finite utility."""


def _require_text(name: str, value: object) -> None:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} must be a non-empty string, got {value!r}")


def _is_positive(value: float) -> bool:
    return math.isfinite(value) and value > 0


def _is_nonnegative(value: float) -> bool:
    return math.isfinite(value) and value >= 0


@dataclass(frozen=True)
class CompressionBid:
    """One way to free KV memory at a price in quality.

    Attributes:
        bid_id: unique; see :func:`make_bid_id`.
        request_id: whose KV cache is compressed.
        algorithm_id: the compressor that would do it.
        tokens_freed: KV tokens the compression frees, at least 1.
        quality_delta: expected loss of quality, at least 0; no upper bound (an eviction may exceed 1).
        compress_latency_ms: expected time of the compression, milliseconds.
        confidence: how far the estimate is trusted, in [0, 1].
        metadata: further facts for logs; no part of the hash.

    Raises:
        ValueError: a value is out of range or not finite.
    """

    bid_id: str
    request_id: str
    algorithm_id: str
    tokens_freed: int
    quality_delta: float
    compress_latency_ms: float
    confidence: float
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        _require_text("bid_id", self.bid_id)
        _require_text("request_id", self.request_id)
        _require_text("algorithm_id", self.algorithm_id)
        if not _is_positive(self.tokens_freed):
            raise ValueError(f"tokens_freed must be > 0, got {self.tokens_freed}")
        if not _is_nonnegative(self.quality_delta):
            raise ValueError(f"quality_delta must be >= 0.0, got {self.quality_delta}")
        if not _is_nonnegative(self.compress_latency_ms):
            raise ValueError(f"compress_latency_ms must be >= 0.0, got {self.compress_latency_ms}")
        if not 0.0 <= self.confidence <= 1.0:
            raise ValueError(f"confidence must be in [0.0, 1.0], got {self.confidence}")
        # A copy: the bid must not change when its maker reuses the mapping.
        object.__setattr__(self, "metadata", dict(self.metadata))

    @property
    def utility(self) -> float:
        """Tokens freed per unit of quality lost: tokens_freed / (quality_delta + 1e-3)."""
        return self.tokens_freed / (self.quality_delta + UTILITY_EPSILON)

    @property
    def normalized_utility(self) -> float:
        """The same figure under the name that rankings across algorithms use."""
        return self.utility


def _by_utility(bids: tuple[CompressionBid, ...]) -> tuple[CompressionBid, ...]:
    return tuple(sorted(bids, key=lambda bid: bid.utility, reverse=True))


@dataclass(frozen=True)
class BidPool:
    """The bids that were live at one moment.

    Attributes:
        snapshot_time_ns: monotonic nanoseconds, at least 0.
        bids: the bids in pool order.

    Raises:
        ValueError: `snapshot_time_ns` is negative.
    """

    snapshot_time_ns: int
    bids: tuple[CompressionBid, ...] = ()

    def __post_init__(self) -> None:
        if not self.snapshot_time_ns >= 0:
            raise ValueError(f"snapshot_time_ns must be >= 0, got {self.snapshot_time_ns}")
        object.__setattr__(self, "bids", tuple(self.bids))

    def bids_for_request(self, request_id: str) -> tuple[CompressionBid, ...]:
        """Return the bids of one request, highest utility first; equal ones keep pool order."""
        return _by_utility(tuple(bid for bid in self.bids if bid.request_id == request_id))

    def top_k_by_utility(self, k: int) -> tuple[CompressionBid, ...]:
        """Return at most `k` bids, highest utility first; equal ones keep pool order.

        Raises:
            ValueError: `k` is below 1.
        """
        if not k >= 1:
            raise ValueError(f"k must be >= 1, got {k}")
        return _by_utility(self.bids)[:k]

    @property
    def total_tokens_available(self) -> int:
        """Tokens freed by all bids together, alternatives of one request included."""
        return sum(bid.tokens_freed for bid in self.bids)


@dataclass(frozen=True)
class BidAcceptance:
    """Which bids a decision accepted, what they free and cost together, and why.

    Raises:
        ValueError: a total is negative or not finite, or the reason is empty.
    """

    accepted_bid_ids: tuple[str, ...]
    total_tokens_freed: int
    total_quality_delta: float
    decision_reason: str

    def __post_init__(self) -> None:
        if not _is_nonnegative(self.total_tokens_freed):
            raise ValueError(f"total_tokens_freed must be >= 0, got {self.total_tokens_freed}")
        if not _is_nonnegative(self.total_quality_delta):
            raise ValueError(f"total_quality_delta must be >= 0.0, got {self.total_quality_delta}")
        _require_text("decision_reason", self.decision_reason)
        object.__setattr__(self, "accepted_bid_ids", tuple(self.accepted_bid_ids))

    @property
    def accepted_count(self) -> int:
        """How many bids were accepted."""
        return len(self.accepted_bid_ids)

    @property
    def is_empty(self) -> bool:
        """Whether no bid was accepted."""
        return not self.accepted_bid_ids


def compute_utility(tokens_freed: int, quality_delta: float) -> float:
    """Return tokens_freed / (quality_delta + 1e-3).

    Args:
        tokens_freed: KV tokens, at least 1.
        quality_delta: loss of quality as a share of the whole, in [0, 1].

    Raises:
        ValueError: an argument is out of range or not finite.
    """
    if not _is_positive(tokens_freed):
        raise ValueError(f"tokens_freed must be > 0, got {tokens_freed}")
    if not 0.0 <= quality_delta <= 1.0:
        raise ValueError(f"quality_delta must be in [0.0, 1.0], got {quality_delta}")
    return tokens_freed / (quality_delta + UTILITY_EPSILON)


def make_bid_id(request_id: str, level: int) -> str:
    """Return the id of the bid of `request_id` at the compression level with index `level`.

    Raises:
        ValueError: `request_id` is empty, or `level` negative.

    >>> make_bid_id("r7", 2)
    'r7:bid:2'
    """
    _require_text("request_id", request_id)
    if not level >= 0:
        raise ValueError(f"level must be >= 0, got {level}")
    return f"{request_id}:bid:{level}"
