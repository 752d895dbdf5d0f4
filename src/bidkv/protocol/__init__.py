"""The vocabulary: bids, requests, the policy protocol, errors. No algorithm lives here."""

from bidkv.protocol.bid import (
    FEATURE_GATE_ID,
    UTILITY_EPSILON,
    BidAcceptance,
    BidPool,
    CompressionBid,
    compute_utility,
    make_bid_id,
)
from bidkv.protocol.errors import BidCapacityError, BidExecutionError, BidExpiredError, CompressionBidError
from bidkv.protocol.policy import EngineView, Policy
from bidkv.protocol.provider import CompressionBidProvider
from bidkv.protocol.requests import RequestView, WorkloadRequest
from bidkv.protocol.session_views import SessionCache, SessionTable, SessionView
from bidkv.protocol.sessions import Session, SessionArrivals, Turn

__all__ = [
    "FEATURE_GATE_ID",
    "UTILITY_EPSILON",
    "BidAcceptance",
    "BidCapacityError",
    "BidExecutionError",
    "BidExpiredError",
    "BidPool",
    "CompressionBid",
    "CompressionBidError",
    "CompressionBidProvider",
    "EngineView",
    "Policy",
    "RequestView",
    "Session",
    "SessionArrivals",
    "SessionCache",
    "SessionTable",
    "SessionView",
    "Turn",
    "WorkloadRequest",
    "compute_utility",
    "make_bid_id",
]
