"""Several replicas on one clock: each fares as alone, and a router sees all of them as of the arrival."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from bidkv.policy import resolve
from bidkv.profiles import load_profile
from bidkv.protocol.requests import WorkloadRequest
from bidkv.results import Outcome, RequestRecord, RunResult, TimelinePoint
from bidkv.simulator import EngineConfig, SglangConfig, SimulationError, simulate
from bidkv.simulator.fleet import (
    ArrivingRequest,
    FleetResult,
    ReplicaView,
    Router,
    available_routers,
    make_router,
    simulate_fleet,
)
from bidkv.simulator.run import Backend

PROFILE = load_profile("h100-llama3.1-8b")
ENGINE = EngineConfig(num_gpu_blocks=60, max_num_seqs=8, max_num_batched_tokens=128)
POLICIES = ("preempt-evict", "lcf", "fair", "fast", "preempt-evict-sjf")


def workload(seed: int, count: int = 120, rate_rps: float = 60.0) -> list[WorkloadRequest]:
    """Requests that press on the memory of three replicas; no two arrive at the same time."""
    rng = random.Random(seed)
    now_s, requests = 0.0, []
    for index in range(count):
        now_s += rng.expovariate(rate_rps) if rng.random() < 0.95 else 5.0
        requests.append(WorkloadRequest(f"r{index}", now_s, rng.randint(1, 400), rng.randint(1, 120)))
    return requests


class Watching:
    """Sends as another router does, and notes what it could have seen of every replica."""

    name = "watching"

    def __init__(self, inner: Router) -> None:
        self._inner = inner
        self.seen: list[list[tuple[int, int, int]]] = []
        self.sent: list[int] = []

    def choose(self, request: ArrivingRequest, replicas: Sequence[ReplicaView]) -> ReplicaView:
        self.seen.append(
            [(r.outstanding_requests, r.outstanding_prompt_tokens, r.used_blocks) for r in replicas]
        )
        chosen = self._inner.choose(request, replicas)
        self.sent.append(chosen.index)
        return chosen


def fleet(
    requests: list[WorkloadRequest],
    router: str | Router,
    *,
    policy: str = "lcf",
    engine: EngineConfig | SglangConfig = ENGINE,
    replicas: int = 3,
    backend: Backend = "python",
) -> FleetResult:
    return simulate_fleet(
        requests,
        resolve(policy),
        engine,
        PROFILE,
        replicas=replicas,
        router=router,
        backend=backend,
        timeline_points=100_000,
    )


def assert_alike(one: RunResult, other: RunResult) -> None:
    assert one.records == other.records
    assert one.totals == other.totals
    assert one.timeline == other.timeline
    assert one.simulated_s == other.simulated_s
    assert one.notes["control"] == other.notes["control"]


@pytest.fixture(params=["python", "compiled"])
def backend(request: pytest.FixtureRequest) -> Backend:
    if request.param == "compiled":
        pytest.importorskip("numba")
    chosen: Backend = request.param
    return chosen


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("router", available_routers())
def test_a_replica_fares_as_alone(seed: int, router: str, backend: Backend) -> None:
    """Stopping at every arrival to be looked at changes nothing, nor does running ahead unwatched."""
    requests, policy = workload(seed), POLICIES[seed]
    watching = Watching(make_router(router))
    watched = fleet(requests, watching, policy=policy, backend=backend)
    unwatched = fleet(requests, router, policy=policy, backend=backend)
    shares = defaultdict(list)
    for request, index in zip(requests, watching.sent, strict=True):
        shares[index].append(request)
    preemptions = 0
    for index in range(3):
        alone = simulate(
            shares[index], resolve(policy), ENGINE, PROFILE, backend="python", timeline_points=100_000
        )
        assert_alike(watched.replicas[index], alone)
        assert_alike(unwatched.replicas[index], alone)
        preemptions += alone.totals.preemptions
    assert preemptions > 0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("router", available_routers())
def test_what_a_router_sees_is_the_moment_of_the_arrival(seed: int, router: str, backend: Backend) -> None:
    """Compared with what is known afterwards: requests sent to it that ended later, and memory by steps."""
    requests = workload(seed)
    watching = Watching(make_router(router))
    result = fleet(requests, watching, backend=backend)
    ends = {record.request_id: record.finish_s for record in result.merged.records}
    busy = 0
    for position, now in enumerate(requests):
        for index, seen in enumerate(watching.seen[position]):
            there = [
                r
                for r, where in zip(requests[:position], watching.sent[:position], strict=True)
                if where == index and (ends[r.request_id] or 0.0) > now.arrival_s
            ]
            used = _used_during(result.replicas[index].timeline, now.arrival_s) if there else 0
            assert seen == (len(there), sum(r.prompt_tokens for r in there), used)
            busy += used > 0
    assert busy > len(requests)


def _used_during(timeline: Sequence[TimelinePoint], now_s: float) -> int:
    return next(point.used_blocks for point in timeline if point.time_s > now_s)


def test_least_loaded_sends_to_the_fewest_outstanding_prompt_tokens() -> None:
    requests = workload(7)
    watching = Watching(make_router("least-loaded"))
    fleet(requests, watching)
    for seen, index in zip(watching.seen, watching.sent, strict=True):
        tokens = [tokens for _, tokens, _ in seen]
        assert index == tokens.index(min(tokens))
    assert set(watching.sent) == {0, 1, 2}


def test_backends_route_alike() -> None:
    pytest.importorskip("numba")
    for router in available_routers():
        stepped, compiled = (fleet(workload(11), router, backend=b) for b in ("python", "compiled"))
        assert_alike(stepped.merged, compiled.merged)


def test_one_replica_is_a_simulation() -> None:
    requests = workload(3)
    alone = simulate(requests, resolve("fair"), ENGINE, PROFILE, backend="python", timeline_points=50)
    result = simulate_fleet(
        requests, resolve("fair"), ENGINE, PROFILE, replicas=1, backend="python", timeline_points=50
    )
    assert_alike(result.merged, alone)


def test_the_merged_result_is_the_sum() -> None:
    requests = [*workload(5), WorkloadRequest("long", 1e4, 5000, 3)]
    result = fleet(requests, "least-loaded")
    merged, parts = result.merged, result.replicas
    assert sorted(r.request_id for r in merged.records) == sorted(r.request_id for r in requests)
    assert [r.finish_s for r in merged.completed] == sorted(
        r.finish_s for p in parts for r in p.completed if r.finish_s is not None
    )
    for counter in ("steps", "preemptions", "scheduled_tokens", "recomputed_tokens", "usable_blocks"):
        assert getattr(merged.totals, counter) == sum(getattr(p.totals, counter) for p in parts)
    assert merged.totals.busy_s == merged.span_s
    assert merged.notes["control"]["arrivals"] == len(requests) - 1
    assert [r.outcome for r in merged.records if r.request_id == "long"] == [Outcome.REJECTED]
    assert merged.timeline[-1].preemptions == merged.totals.preemptions
    assert 0.0 < merged.summary()["kv_utilization_mean"] < 1.0


def test_sglang_replicas() -> None:
    engine = SglangConfig(max_total_tokens=60 * 16, max_running_requests=8)
    requests = workload(2)
    result = fleet(requests, "round-robin", engine=engine, policy="preempt-evict")
    for index, part in enumerate(result.replicas):
        alone = simulate(
            requests[index::3], resolve("preempt-evict"), engine, PROFILE, timeline_points=100_000
        )
        assert_alike(part, alone)


def test_a_stream_is_never_held(backend: Backend) -> None:
    """Requests are taken as they are needed and records handed out as they come, whoever looks."""
    for router in available_routers():
        inside = most = 0

        def stream() -> Iterator[WorkloadRequest]:
            nonlocal inside, most
            for index in range(6000):
                inside += 1
                most = max(most, inside)
                yield WorkloadRequest(f"r{index}", index * 0.02, 40, 4)

        def through(record: RequestRecord) -> None:
            nonlocal inside
            inside -= 1

        result = simulate_fleet(
            stream(),
            resolve("fair"),
            ENGINE,
            PROFILE,
            replicas=2,
            router=router,
            backend=backend,
            on_record=through,
        )
        assert inside == 0
        assert most <= 1100
        assert not result.merged.records
        assert result.merged.totals.busy_s > 100.0


class _Elsewhere:
    name = "elsewhere"

    def choose(self, request: ArrivingRequest, replicas: Sequence[ReplicaView]) -> ReplicaView:
        return object()  # type: ignore[return-value]


def test_errors_name_what_was_expected() -> None:
    with pytest.raises(ValueError, match="from 1 to 10,000"):
        fleet([], "round-robin", replicas=0)
    with pytest.raises(ValueError, match="round-robin, least-loaded, prefix-aware"):
        fleet([], "nearest")
    with pytest.raises(ValueError, match=r"'elsewhere' chose .* one of the replicas"):
        fleet(workload(0), _Elsewhere())
    early = replace(workload(0)[0], request_id="early", arrival_s=0.0)
    with pytest.raises(SimulationError, match="'early' arrives at"):
        fleet([*workload(0), early], "round-robin")
