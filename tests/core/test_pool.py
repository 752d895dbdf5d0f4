from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bidkv.pool import BidPoolManager
from bidkv.protocol import (
    BidAcceptance,
    BidExecutionError,
    BidExpiredError,
    BidPool,
    CompressionBid,
    CompressionBidError,
)


def bid(bid_id: str, tokens: int = 10, request: str = "r") -> CompressionBid:
    return CompressionBid(bid_id, request, "a", tokens, 0.1, 1.0, 0.5)


def active_pool() -> BidPoolManager:
    return BidPoolManager(enabled=True)


class Provider:
    """Carries out what `action` says and remembers what it was asked."""

    def __init__(self, action: Callable[[], None] = lambda: None) -> None:
        self.asked: list[str] = []
        self._action = action

    def get_bids(
        self, request_id: str, *, min_tokens: int = 0, max_delta: float = 1.0
    ) -> Sequence[CompressionBid]:
        return ()

    def accept_bid(self, bid_id: str) -> BidAcceptance:
        self.asked.append(bid_id)
        self._action()
        return BidAcceptance((bid_id,), 7, 0.1, "executed")


# --- switches ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("enabled", "kill_switch", "active"),
    [(False, False, False), (True, False, True), (True, True, False), (False, True, False)],
)
def test_is_active(enabled: bool, kill_switch: bool, active: bool) -> None:
    assert BidPoolManager(enabled=enabled, kill_switch=kill_switch).is_active is active


def test_inactive_by_default_and_then_empty() -> None:
    pool = BidPoolManager()
    pool.submit_bids("r", [bid("a")])
    assert pool.get_pool_snapshot() == BidPool(0, ())
    assert (pool.active_request_count, pool.total_bid_count) == (0, 0)


def test_enable_clears_the_kill_switch() -> None:
    pool = BidPoolManager(kill_switch=True)
    pool.enable()
    assert pool.is_active
    assert pool.get_stats()["kill_switch"] is False


@pytest.mark.parametrize("switch", [BidPoolManager.disable, BidPoolManager.activate_kill_switch])
def test_switching_off_drops_every_bid(switch: Callable[[BidPoolManager], None]) -> None:
    pool = active_pool()
    pool.submit_bids("r", [bid("a")])
    switch(pool)
    assert not pool.is_active
    pool.enable()
    assert pool.get_bid("a") is None
    assert pool.active_request_count == 0
    assert pool.get_pool_snapshot().bids == ()


# --- changes -------------------------------------------------------------------------------------
def test_submitting_again_replaces() -> None:
    pool = active_pool()
    pool.submit_bids("r", [bid("a"), bid("b")])
    pool.submit_bids("r", [bid("b", 99), bid("c")])
    assert pool.get_bids_for_request("r") == [bid("b", 99), bid("c")]
    assert pool.get_bid("a") is None
    assert pool.get_bid("b") == bid("b", 99)


def test_an_empty_list_counts_as_an_active_request() -> None:
    pool = active_pool()
    pool.submit_bids("r", [])
    assert (pool.active_request_count, pool.total_bid_count) == (1, 0)


def test_bids_for_request_is_a_copy() -> None:
    pool = active_pool()
    pool.submit_bids("r", [bid("a")])
    pool.get_bids_for_request("r").clear()
    assert pool.get_bids_for_request("r") == [bid("a")]
    assert pool.get_bids_for_request("nobody") == []


def test_remove_by_request() -> None:
    pool = active_pool()
    pool.submit_bids("r", [bid("a"), bid("b")])
    assert pool.remove_by_request("r") == 2
    assert pool.remove_by_request("r") == 0
    assert pool.active_request_count == 0
    assert pool.get_bid("a") is None


def test_invalidate() -> None:
    pool = active_pool()
    pool.submit_bids("r", [bid("a")])
    assert pool.invalidate("a") is True
    assert pool.invalidate("a") is False
    assert pool.get_bid("a") is None
    assert (pool.active_request_count, pool.total_bid_count) == (1, 0)


def test_invalidate_takes_a_request_id_where_no_bid_has_it() -> None:
    pool = active_pool()
    pool.submit_bids("r", [bid("a"), bid("b")])
    pool.submit_bids("s", [bid("r", request="s")])
    assert pool.invalidate("r") is True  # the bid of that name, not the request
    assert (pool.active_request_count, pool.total_bid_count) == (2, 2)
    assert pool.invalidate("r") is True
    assert (pool.active_request_count, pool.total_bid_count) == (1, 0)
    assert pool.invalidate("r") is False


def test_invalidate_all() -> None:
    pool = active_pool()
    pool.submit_bids("r", [bid("a"), bid("b")])
    pool.submit_bids("s", [])
    assert pool.invalidate_all() == 2
    assert (pool.active_request_count, pool.total_bid_count, pool.is_active) == (0, 0, True)


@pytest.mark.parametrize(("leaves", "stays"), [("r", "s"), ("s", "r")])
def test_one_bid_id_of_two_requests(leaves: str, stays: str) -> None:
    pool = active_pool()
    offers = {"r": bid("same", 1, "r"), "s": bid("same", 2, "s")}
    for request, offer in offers.items():
        pool.submit_bids(request, [offer])
    assert pool.get_bid("same") == offers["s"]
    assert pool.total_bid_count == 2
    assert pool.remove_by_request(leaves) == 1
    assert pool.get_bid("same") == offers[stays]
    assert pool.invalidate("same")
    assert (pool.total_bid_count, pool.get_bid("same")) == (0, None)


def test_invalidating_a_shared_id_drops_both() -> None:
    pool = active_pool()
    pool.submit_bids("r", [bid("same", 1, "r"), bid("own", 1, "r")])
    pool.submit_bids("s", [bid("same", 2, "s")])
    pool.invalidate("same")
    assert pool.get_pool_snapshot().bids == (bid("own", 1, "r"),)


# --- views ---------------------------------------------------------------------------------------
def test_snapshot_is_ordered_by_tokens_and_stable() -> None:
    pool = BidPoolManager(enabled=True, clock_ns=lambda: 42)
    pool.submit_bids("r", [bid("a", 5), bid("b", 9)])
    pool.submit_bids("s", [bid("c", 5), bid("d", 7)])
    snapshot = pool.get_pool_snapshot()
    assert [b.bid_id for b in snapshot.bids] == ["b", "d", "a", "c"]
    assert snapshot.snapshot_time_ns == 42


def test_snapshot_time_is_monotonic() -> None:
    pool = active_pool()
    times = [pool.get_pool_snapshot().snapshot_time_ns for _ in range(100)]
    assert times[0] > 0
    assert times == sorted(times)


def test_snapshot_does_not_change_afterwards() -> None:
    pool = active_pool()
    pool.submit_bids("r", [bid("a")])
    snapshot = pool.get_pool_snapshot()
    pool.invalidate_all()
    assert snapshot.bids == (bid("a"),)


def test_stats() -> None:
    pool = active_pool()
    pool.submit_bids("r", [bid("a"), bid("b")])
    assert pool.get_stats() == {
        "enabled": True,
        "kill_switch": False,
        "is_active": True,
        "active_requests": 1,
        "total_bids": 2,
    }
    pool.activate_kill_switch()
    assert pool.get_stats() == {
        "enabled": True,
        "kill_switch": True,
        "is_active": False,
        "active_requests": 0,
        "total_bids": 0,
    }


# --- accepting -----------------------------------------------------------------------------------
def test_accepting_executes_the_bid_and_retires_its_request() -> None:
    pool, provider = active_pool(), Provider()
    pool.submit_bids("r", [bid("a"), bid("b")])
    pool.submit_bids("s", [bid("c", request="s")])
    assert pool.accept_bid("a", provider) == BidAcceptance(("a",), 7, 0.1, "executed")
    assert provider.asked == ["a"]
    assert pool.get_bids_for_request("r") == []
    assert pool.get_bid("c") is not None


@pytest.mark.parametrize(
    "expire",
    [
        lambda pool: pool.invalidate("a"),
        lambda pool: pool.invalidate_all(),
        lambda pool: pool.remove_by_request("r"),
        lambda pool: pool.submit_bids("r", [bid("newer")]),
        lambda pool: pool.accept_bid("a", Provider()),
        lambda pool: pool.accept_bid("sibling", Provider()),
        lambda pool: pool.disable(),
        lambda pool: pool.activate_kill_switch(),
    ],
)
def test_accepting_an_expired_bid(expire: Callable[[BidPoolManager], object]) -> None:
    pool, provider = active_pool(), Provider()
    pool.submit_bids("r", [bid("a"), bid("sibling")])
    expire(pool)
    with pytest.raises(BidExpiredError, match="bid 'a' is no longer in the pool") as caught:
        pool.accept_bid("a", provider)
    assert caught.value.bid_id == "a"
    assert provider.asked == []


def test_a_failing_provider_is_an_execution_error_with_its_cause() -> None:
    cause = OSError("copy engine hung")

    def fail() -> None:
        raise cause

    pool = active_pool()
    pool.submit_bids("r", [bid("a")])
    with pytest.raises(BidExecutionError, match="copy engine hung") as caught:
        pool.accept_bid("a", Provider(fail))
    assert caught.value.cause is caught.value.__cause__ is cause
    assert caught.value.bid_id == "a"
    assert pool.get_bid("a") is None


def test_a_provider_s_own_bid_error_passes_through() -> None:
    own = BidExpiredError("finished meanwhile", bid_id="a")

    def fail() -> None:
        raise own

    pool = active_pool()
    pool.submit_bids("r", [bid("a")])
    with pytest.raises(CompressionBidError) as caught:
        pool.accept_bid("a", Provider(fail))
    assert caught.value is own


def test_a_provider_may_use_the_pool() -> None:
    pool = active_pool()
    pool.submit_bids("r", [bid("a")])
    pool.accept_bid("a", Provider(lambda: pool.submit_bids("r", [bid("next")])))
    assert pool.get_bids_for_request("r") == [bid("next")]


# --- threads and sequences -----------------------------------------------------------------------
def test_threads_do_not_corrupt_the_pool() -> None:
    pool = active_pool()
    provider = Provider()

    def work(worker: int) -> int:
        won = 0
        for turn in range(150):
            request = f"w{worker}"
            pool.submit_bids(request, [bid(f"{request}:{turn}", request=request), bid("shared", turn + 1)])
            pool.get_pool_snapshot()
            try:
                pool.accept_bid("shared", provider)
                won += 1
            except BidExpiredError:
                pool.invalidate(f"{request}:{turn}")
        pool.remove_by_request(request)
        return won

    with ThreadPoolExecutor(4) as threads:
        won = sum(threads.map(work, range(4)))
    assert (pool.active_request_count, pool.total_bid_count) == (0, 0)
    assert pool.get_bid("shared") is None
    assert len(provider.asked) == won


REQUESTS = st.sampled_from(["r", "s", "t"])
BID_IDS = st.sampled_from(["a", "b", "c", "d"])


class PoolMachine(RuleBasedStateMachine):
    """The pool against the plainest model of it: a list of (request, bid) in order of submission."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = active_pool()
        self.live: dict[str, list[CompressionBid]] = {}
        self.numbers = count(1)

    @rule(request=REQUESTS, ids=st.lists(BID_IDS, unique=True))
    def submit(self, request: str, ids: list[str]) -> None:
        bids = [bid(bid_id, next(self.numbers), request) for bid_id in ids]
        self.pool.submit_bids(request, bids)
        if self.pool.is_active:
            self.live[request] = bids

    @rule(request=REQUESTS)
    def remove(self, request: str) -> None:
        assert self.pool.remove_by_request(request) == len(self.live.pop(request, []))

    @rule(bid_id=BID_IDS)
    def invalidate(self, bid_id: str) -> None:
        known = any(b.bid_id == bid_id for bids in self.live.values() for b in bids)
        assert self.pool.invalidate(bid_id) is known
        self.live = {r: [b for b in bids if b.bid_id != bid_id] for r, bids in self.live.items()}

    @rule(bid_id=BID_IDS)
    def accept(self, bid_id: str) -> None:
        offer = self.pool.get_bid(bid_id)
        if offer is None:
            with pytest.raises(BidExpiredError):
                self.pool.accept_bid(bid_id, Provider())
        else:
            self.pool.accept_bid(bid_id, Provider())
            del self.live[offer.request_id]

    @rule(switch=st.sampled_from(["enable", "disable", "activate_kill_switch"]))
    def switch(self, switch: str) -> None:
        getattr(self.pool, switch)()
        if switch != "enable":
            self.live = {}

    @invariant()
    def pool_equals_model(self) -> None:
        everything = [b for bids in self.live.values() for b in bids]
        assert self.pool.active_request_count == len(self.live)
        assert self.pool.total_bid_count == len(everything)
        assert sorted(b.tokens_freed for b in self.pool.get_pool_snapshot().bids) == sorted(
            b.tokens_freed for b in everything
        )
        for request, bids in self.live.items():
            assert self.pool.get_bids_for_request(request) == bids
        for bid_id in "abcd":
            newest = max(
                (b for b in everything if b.bid_id == bid_id), key=lambda b: b.tokens_freed, default=None
            )
            assert self.pool.get_bid(bid_id) == newest


PoolMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestPoolMachine = PoolMachine.TestCase
