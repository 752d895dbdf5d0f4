"""The side that makes bids and carries them out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from bidkv.protocol.bid import BidAcceptance, CompressionBid


@runtime_checkable
class CompressionBidProvider(Protocol):
    """Makes bids for a request and executes the ones that are accepted."""

    def get_bids(
        self, request_id: str, *, min_tokens: int = 0, max_delta: float = 1.0
    ) -> Sequence[CompressionBid]:
        """Return the bids of `request_id` that free at least `min_tokens` and cost at most `max_delta`."""
        ...

    def accept_bid(self, bid_id: str) -> BidAcceptance:
        """Carry the bid out and say what was really freed and lost.

        Raises:
            BidExpiredError: the bid no longer describes the request.
            BidExecutionError: the compression failed.
        """
        ...
