"""The live bids of all requests."""

from bidkv.pool.manager import BidPoolManager

__all__ = ["BidPoolManager"]
