"""The live bids of all requests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from bidkv.protocol import (
    BidAcceptance,
    BidExecutionError,
    BidExpiredError,
    BidPool,
    CompressionBid,
    CompressionBidError,
    CompressionBidProvider,
)


class BidPoolManager:
    """Keeps the current bids of every request; safe to use from several threads.

    Bids are accepted only while the pool is active (enabled and not killed). An inactive pool is
    empty: switching it off drops every bid, so that nothing stale is accepted after switching on.

    Two requests may use the same bid id. Lookup by id then finds the bid of the request that took
    the id last; when that one leaves, the other is found again.

    Args:
        enabled: whether bidding is on.
        kill_switch: stops bidding whatever `enabled` says.
        clock_ns: monotonic nanoseconds; stamps snapshots.
    """

    __slots__ = ("_by_request", "_clock_ns", "_enabled", "_kill_switch", "_lock", "_owners")

    def __init__(
        self,
        *,
        enabled: bool = False,
        kill_switch: bool = False,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._enabled = enabled
        self._kill_switch = kill_switch
        self._clock_ns = clock_ns
        self._lock = threading.RLock()
        self._by_request: dict[str, dict[str, CompressionBid]] = {}
        # bid id -> the requests that use it, oldest first (a dict serves as an ordered set).
        self._owners: dict[str, dict[str, None]] = {}

    # --- switches --------------------------------------------------------------------------------
    @property
    def is_active(self) -> bool:
        """Enabled, and not stopped by the kill switch."""
        with self._lock:
            return self._enabled and not self._kill_switch

    def enable(self) -> None:
        """Switch on; clears the kill switch."""
        with self._lock:
            self._enabled = True
            self._kill_switch = False

    def disable(self) -> None:
        """Switch off and drop every bid."""
        with self._lock:
            self._enabled = False
            self._clear()

    def activate_kill_switch(self) -> None:
        """Stop at once and drop every bid; only :meth:`enable` lifts it."""
        with self._lock:
            self._kill_switch = True
            self._clear()

    # --- changes ---------------------------------------------------------------------------------
    def submit_bids(self, request_id: str, bids: Iterable[CompressionBid]) -> None:
        """Replace the bids of `request_id`; nothing happens while inactive.

        An empty list leaves the request active without bids. Of two bids with one id the last counts.
        """
        submitted = {bid.bid_id: bid for bid in bids}
        with self._lock:
            if not self.is_active:
                return
            for bid_id in self._by_request.get(request_id, ()):
                self._disown(bid_id, request_id)
            self._by_request[request_id] = submitted
            for bid_id in submitted:
                self._owners.setdefault(bid_id, {})[request_id] = None

    def remove_by_request(self, request_id: str) -> int:
        """Forget `request_id` and return how many bids went with it."""
        with self._lock:
            removed = self._by_request.pop(request_id, {})
            for bid_id in removed:
                self._disown(bid_id, request_id)
            return len(removed)

    def invalidate(self, name: str) -> bool:
        """Drop the bids that `name` stands for and return whether there were any.

        Args:
            name: a bid id: every bid with this id goes, and its request stays active. Where no bid has the
                id, a request id: all of the request's bids go, and the request with them.
        """
        with self._lock:
            owners = self._owners.pop(name, {})
            for request_id in owners:
                del self._by_request[request_id][name]
            return bool(owners) or self.remove_by_request(name) > 0

    def invalidate_all(self) -> int:
        """Forget every request and return how many bids went."""
        with self._lock:
            count = self.total_bid_count
            self._clear()
            return count

    def accept_bid(self, bid_id: str, provider: CompressionBidProvider) -> BidAcceptance:
        """Take a bid out of the pool and have `provider` carry it out.

        All bids of its request leave the pool first: they describe the request as it was before.
        This holds when the provider fails too; the request has to bid anew. The provider is called
        outside the lock, and of two threads that accept one bid only one reaches it.

        Returns:
            What the provider says was really freed and lost.

        Raises:
            BidExpiredError: the bid is not (or no longer) in the pool.
            BidExecutionError: the provider failed; its own bid errors pass through unchanged.
        """
        with self._lock:
            owners = self._owners.get(bid_id)
            if not owners:
                raise BidExpiredError(f"bid {bid_id!r} is no longer in the pool", bid_id=bid_id)
            self.remove_by_request(next(reversed(owners)))
        try:
            return provider.accept_bid(bid_id)
        except CompressionBidError:
            raise
        except Exception as error:  # a provider is foreign code: whatever it raises means "not executed"
            raise BidExecutionError(
                f"bid {bid_id!r} could not be executed: {error}", bid_id=bid_id, cause=error
            ) from error

    # --- views -----------------------------------------------------------------------------------
    def get_pool_snapshot(self) -> BidPool:
        """Return the live bids, most tokens first (stable); an empty pool while inactive."""
        with self._lock:
            if not self.is_active:
                return BidPool(0, ())
            bids = [bid for own in self._by_request.values() for bid in own.values()]
            snapshot_time_ns = self._clock_ns()
        bids.sort(key=lambda bid: bid.tokens_freed, reverse=True)
        return BidPool(snapshot_time_ns, tuple(bids))

    def get_bid(self, bid_id: str) -> CompressionBid | None:
        """Return the live bid with this id, or None."""
        with self._lock:
            owners = self._owners.get(bid_id)
            return self._by_request[next(reversed(owners))][bid_id] if owners else None

    def get_bids_for_request(self, request_id: str) -> list[CompressionBid]:
        """Return a copy of the request's bids in the order they were submitted."""
        with self._lock:
            return list(self._by_request.get(request_id, {}).values())

    @property
    def active_request_count(self) -> int:
        """Requests that submitted (an empty list counts) and were not removed."""
        with self._lock:
            return len(self._by_request)

    @property
    def total_bid_count(self) -> int:
        """Live bids of all requests."""
        with self._lock:
            return sum(map(len, self._by_request.values()))

    def get_stats(self) -> dict[str, Any]:
        """Return switches and counts, taken at one moment."""
        with self._lock:
            return {
                "enabled": self._enabled,
                "kill_switch": self._kill_switch,
                "is_active": self.is_active,
                "active_requests": self.active_request_count,
                "total_bids": self.total_bid_count,
            }

    # --- with the lock held ----------------------------------------------------------------------
    def _clear(self) -> None:
        self._by_request.clear()
        self._owners.clear()

    def _disown(self, bid_id: str, request_id: str) -> None:
        owners = self._owners[bid_id]
        del owners[request_id]
        if not owners:
            del self._owners[bid_id]
