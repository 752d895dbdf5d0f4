"""The prefix-aware router: it finds what a cache holds, and keeps a hot prefix from overloading a replica."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from tests.support import steady_profile

from bidkv.policy import resolve
from bidkv.profiles import load_profile
from bidkv.protocol.requests import WorkloadRequest
from bidkv.simulator import EngineConfig
from bidkv.simulator.fleet import (
    ArrivingRequest,
    FleetResult,
    PrefixAware,
    ReplicaView,
    Router,
    simulate_fleet,
)
from bidkv.workloads import generate

ENGINE = EngineConfig(num_gpu_blocks=400, max_num_seqs=8, enable_prefix_caching=True, prefix_chunk_tokens=64)


def run(requests: list[WorkloadRequest], router: str | Router, engine: EngineConfig = ENGINE) -> FleetResult:
    return simulate_fleet(
        requests, resolve("preempt-evict"), engine, steady_profile(0.1), replicas=3, router=router
    )


class Fixed:
    """Sends where it is told and notes what every replica has cached of the request."""

    name = "fixed"

    def __init__(self, *where: int) -> None:
        self._where = list(where)
        self.cached: list[list[int]] = []

    def choose(self, request: ArrivingRequest, replicas: Sequence[ReplicaView]) -> ReplicaView:
        self.cached.append([replica.cached_tokens(request) for replica in replicas])
        return replicas[self._where.pop(0)]


def test_a_replica_tells_what_it_has_cached() -> None:
    requests = [
        WorkloadRequest("a", 0.0, 200, 5, hash_ids=(1, 2, 3)),
        WorkloadRequest("same", 10.0, 200, 5, hash_ids=(1, 2, 3)),
        WorkloadRequest("half", 20.0, 200, 5, hash_ids=(1, 9)),
        WorkloadRequest("other order", 30.0, 200, 5, hash_ids=(2, 1)),
        WorkloadRequest("short", 40.0, 64, 5, hash_ids=(1,)),
    ]
    router = Fixed(1, 2, 2, 2, 2)
    run(requests, router)
    assert router.cached == [
        [0, 0, 0],
        [0, 192, 0],  # three chunks of 64 tokens
        [0, 64, 64],
        [0, 0, 0],
        [0, 48, 48],  # the last token is always computed, and blocks hold 16
    ]


def test_without_a_cache_nothing_is_cached() -> None:
    request = WorkloadRequest("a", 0.0, 200, 5, hash_ids=(1, 2, 3))
    router = Fixed(0, 0)
    run([request, WorkloadRequest("b", 9.0, 200, 5, hash_ids=(1, 2, 3))], router, EngineConfig(400))
    assert router.cached == [[0, 0, 0], [0, 0, 0]]


def test_a_prefix_is_followed_while_the_load_is_in_balance() -> None:
    requests = [
        WorkloadRequest(f"r{index}", index * 0.2, 200, 5, hash_ids=(index % 3, 7, 8)) for index in range(60)
    ]
    result = run(requests, "prefix-aware")
    groups = [{int(r.request_id[1:]) % 3 for r in part.records} for part in result.replicas]
    # The first of each group finds nothing and goes to the least loaded replica; the others follow it.
    assert groups == [{0}, {1}, {2}]
    assert result.merged.totals.scheduled_tokens == 60 * (200 + 5 - 1) - 57 * 192


@pytest.mark.parametrize(("balance_abs", "spread"), [(4, 3), (1000, 1)])
def test_a_hot_prefix_overloads_nobody(balance_abs: int, spread: int) -> None:
    requests = [
        WorkloadRequest(f"r{index}", index * 0.05, 200, 40, hash_ids=(1, 2, 3)) for index in range(90)
    ]
    result = run(requests, PrefixAware(balance_abs=balance_abs))
    served = [len(part.records) for part in result.replicas]
    assert sum(count > 0 for count in served) == spread
    if spread > 1:
        assert max(served) < 2 * min(served)


def test_conversations_compute_less_where_their_history_is() -> None:
    requests = list(generate("multi_turn", n=300, rate_rps=6.0, seed=1, mean_turns=10.0, user_median=300.0))
    engine = EngineConfig(num_gpu_blocks=8000, max_num_seqs=64, enable_prefix_caching=True)
    prefilled = {}
    for router in ("prefix-aware", "round-robin"):
        profile = load_profile("h100-llama3.1-8b")
        result = simulate_fleet(
            requests, resolve("preempt-evict"), engine, profile, replicas=3, router=router
        ).merged
        assert len(result.completed) == 300
        prefilled[router] = result.totals.scheduled_tokens - sum(r.output_tokens for r in requests)
    assert prefilled["prefix-aware"] < 0.8 * prefilled["round-robin"]


@pytest.mark.parametrize(
    "option",
    [{"cache_threshold": 1.5}, {"balance_abs": -1}, {"balance_rel": 0.5}, {"balance_rel": float("nan")}],
)
def test_options_out_of_range_are_named(option: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        PrefixAware(**option)  # type: ignore[arg-type]
