"""The compiled engine leaps; the reference steps. Every figure of every request must be the same."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
from tests.simulator.random_runs import (
    LONGEST_OUTPUTS,
    LONGEST_PROMPTS,
    random_engine,
    random_requests,
    random_source,
)

from bidkv.policy import available, resolve
from bidkv.profiles import StepTimeProfile, load_profile
from bidkv.protocol.policy import EngineView, Policy
from bidkv.protocol.requests import RequestView, WorkloadRequest
from bidkv.results import RunResult
from bidkv.simulator import EngineConfig, SglangConfig, SimulationError, simulate
from bidkv.simulator.run import Backend

pytest.importorskip("numba")

BATCHES = 25
WORKLOADS_PER_BATCH = 20
COMBINED_BATCHES = 12
COMBINED_RUNS = 15
LEAST_SHARE_WITH_PREEMPTIONS = 0.5
LEAST_SHARE_COMBINED = 0.3


@pytest.fixture(scope="module")
def profile() -> StepTimeProfile:
    return load_profile("h100-llama3.1-8b")


def random_workload(rng: random.Random) -> tuple[EngineConfig, list[WorkloadRequest]]:
    """A small engine and requests that mostly press on its memory."""
    longest_prompt = rng.choice((40, 200, 900))
    longest_output = rng.choice((5, 50, 200))
    max_num_seqs = rng.choice((2, 4, 8, 32, 64))
    alone = -(-(longest_prompt + longest_output + 1) // 16)
    config = EngineConfig(
        num_gpu_blocks=1 + alone + rng.randint(0, alone * min(max_num_seqs, 8) // 8 + 1),
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=rng.choice((32, 128, 512, 2048)),
        watermark=rng.choice((0.0, 0.0, 0.05)),
        long_prefill_token_threshold=rng.choice((0, 0, 48)),
        reserve_full_isl=rng.random() < 0.8,
    )
    rate_rps = rng.choice((8.0, 40.0, 200.0, 1e4))
    arrival_s = 0.0
    requests = []
    for index in range(rng.randint(20, 80)):
        arrival_s += rng.expovariate(rate_rps) if rng.random() < 0.9 else 0.0
        requests.append(
            WorkloadRequest(
                f"r{index}",
                arrival_s,
                rng.randint(1, longest_prompt),
                rng.randint(1, longest_output),
                max_tokens=rng.choice((None, longest_output)),
            )
        )
    return config, requests


def assert_equal(stepped: RunResult, leaped: RunResult) -> None:
    assert stepped.records == leaped.records
    assert stepped.totals == leaped.totals
    assert stepped.timeline == leaped.timeline
    assert stepped.simulated_s == leaped.simulated_s
    assert stepped.notes == leaped.notes


@pytest.mark.parametrize("batch", range(BATCHES))
def test_leaping_equals_stepping(batch: int, profile: StepTimeProfile) -> None:
    rng = random.Random(batch)
    names = [name for name in available() if not resolve(name).clairvoyant]
    preempting = 0
    for index in range(WORKLOADS_PER_BATCH):
        config, requests = random_workload(rng)
        name = names[(batch * WORKLOADS_PER_BATCH + index) % len(names)]
        stepped = simulate(requests, resolve(name), config, profile, backend="python", timeline_points=40)
        leaped = simulate(requests, resolve(name), config, profile, backend="compiled", timeline_points=40)
        assert_equal(stepped, leaped)
        preempting += stepped.totals.preemptions > 0
    assert preempting >= LEAST_SHARE_WITH_PREEMPTIONS * WORKLOADS_PER_BATCH


def run_both(
    make: Callable[[], Any], name: str, config: EngineConfig, profile: StepTimeProfile, **options: Any
) -> tuple[RunResult, RunResult] | None:
    """Both engines' results; None where both end in the same error."""
    results: list[RunResult] = []
    errors: list[str] = []
    for backend in ("python", "compiled"):
        try:
            results.append(simulate(make(), resolve(name), config, profile, backend=backend, **options))
        except SimulationError as error:
            errors.append(str(error))
    if errors:
        assert errors == errors[:1] * 2
        return None
    return results[0], results[1]


@pytest.mark.parametrize("batch", range(COMBINED_BATCHES))
def test_all_features_together_equal_the_reference(batch: int, profile: StepTimeProfile) -> None:
    """Prefix caching, asynchronous scheduling, priorities and sessions in closed loop, in any combination."""
    rng = random.Random(5000 + batch)
    names = [name for name in available() if not resolve(name).clairvoyant]
    of_sessions = [name for name in names if resolve(name).needs_sessions]
    preempting = 0
    for index in range(COMBINED_RUNS):
        lengths = rng.choice(LONGEST_PROMPTS), rng.choice(LONGEST_OUTPUTS)
        config = random_engine(rng, *lengths)
        make: Callable[[], Any]
        if rng.random() < 0.5:
            requests = random_requests(rng, *lengths, config.prefix_chunk_tokens)
            make = partial(list, requests)
        else:
            make = random_source(rng, *lengths)
        name = names[(batch * COMBINED_RUNS + index) % len(names)]
        cut = {"duration_s": rng.choice((0.5, 2.0))} if rng.random() < 0.2 else {}
        both = run_both(
            make,
            rng.choice((name, "preempt-evict", *of_sessions)),
            config,
            profile,
            timeline_points=40,
            **cut,
        )
        if both is not None:
            assert_equal(*both)
            preempting += both[0].totals.preemptions > 0
    assert preempting >= LEAST_SHARE_COMBINED * COMBINED_RUNS


def test_segments_of_content_are_packed_while_requests_live(profile: StepTimeProfile) -> None:
    """Thousands of chunks pass through the arrays of segments, far more than these hold at first."""
    requests = [
        WorkloadRequest(f"r{i}", 0.05 * i, 16 * 60, 5 + i % 40, hash_ids=tuple(range(i, i + 50)))
        for i in range(600)
    ]
    config = EngineConfig(
        num_gpu_blocks=200, max_num_seqs=8, enable_prefix_caching=True, prefix_chunk_tokens=16
    )
    both = run_both(partial(list, requests), "preempt-evict", config, profile)
    assert both is not None
    assert_equal(*both)


def test_tables_grow_while_many_wait(profile: StepTimeProfile) -> None:
    requests = [WorkloadRequest(f"r{i}", 0.0, 10 + i % 7, 20) for i in range(3000)]
    config = EngineConfig(num_gpu_blocks=40, max_num_seqs=16)
    results = [
        simulate(requests, resolve("lcf"), config, profile, backend=backend)
        for backend in ("python", "compiled")
    ]
    assert_equal(*results)
    assert len(results[0].completed) == 3000


class _Failing(Policy):
    """Chooses well a few times, then raises."""

    name = "failing"

    def __init__(self) -> None:
        self.answers = 3

    def select_victim(self, candidates: object, need_blocks: int, engine: EngineView) -> RequestView:
        self.answers -= 1
        if self.answers < 0:
            raise RuntimeError("planted")
        return engine.running[0]

    def on_finish(self, request: RequestView, engine: EngineView, *, completed: bool) -> None:
        assert completed


def test_a_failing_policy_is_left_alone_alike(profile: StepTimeProfile) -> None:
    rng = random.Random(5)
    config, requests = random_workload(rng)
    requests = [dataclasses.replace(r, arrival_s=0.0, output_tokens=80, max_tokens=None) for r in requests]
    config = dataclasses.replace(config, num_gpu_blocks=80, max_num_seqs=16)
    backends: tuple[Backend, ...] = ("python", "compiled")
    stepped, leaped = (simulate(requests, _Failing(), config, profile, backend=b) for b in backends)
    assert_equal(stepped, leaped)
    assert stepped.notes["control"]["failures"] == leaped.notes["control"]["failures"] == 1


def test_what_is_not_covered_is_said(profile: StepTimeProfile) -> None:
    with pytest.raises(ValueError, match="vLLM engines alone"):
        simulate([], resolve("lcf"), SglangConfig(max_total_tokens=400), profile, backend="compiled")


@pytest.mark.parametrize("backend", ["python", "compiled"])
def test_disorder_is_an_error_that_names_the_request(backend: Backend, profile: StepTimeProfile) -> None:
    requests = [WorkloadRequest("a", 1.0, 5, 5), WorkloadRequest("b", 0.5, 5, 5)]
    with pytest.raises(SimulationError, match=r"'b' arrives at 0\.5"):
        simulate(requests, resolve("lcf"), EngineConfig(num_gpu_blocks=40), profile, backend=backend)


class _Watching(Policy):
    """Notes at each choice the most preemptions of one request, by its own count and by the engine's."""

    name = "watching"

    def __init__(self) -> None:
        self.most = 0
        self.seen: list[tuple[int, int]] = []

    def select_victim(self, candidates: Sequence[RequestView], need_blocks: int, engine: Any) -> RequestView:
        self.seen.append((engine.most_preemptions, self.most))
        return candidates[-1]

    def on_preempt(self, request: RequestView, lost_tokens: int, engine: EngineView) -> None:
        self.most = max(self.most, request.num_preemptions)


def test_the_compiled_engine_knows_the_most_preemptions_of_one_request(profile: StepTimeProfile) -> None:
    policy = _Watching()
    requests = [WorkloadRequest(f"r{i}", 0.01 * i, 30, 100) for i in range(60)]
    simulate(requests, policy, EngineConfig(num_gpu_blocks=30, max_num_seqs=8), profile, backend="compiled")
    assert policy.most > 1
    assert all(known == counted for known, counted in policy.seen)
    assert policy.seen[-1][0] == policy.most


class _CountedId(str):
    """A request's id that counts how often it is compared."""

    __slots__ = ()
    compared = 0

    def __eq__(self, other: object) -> bool:
        _CountedId.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_requests_that_arrive_together_under_priorities_are_not_searched_one_by_one(
    profile: StepTimeProfile,
) -> None:
    number = 3000
    requests = [
        WorkloadRequest(_CountedId(f"r{index:04}"), 0.0, 10, 1 + index * 7 % 20, priority=index % 3)
        for index in range(number)
    ]
    engine = EngineConfig(num_gpu_blocks=2000, max_num_seqs=64, scheduling_policy="priority")
    _CountedId.compared = 0
    result = simulate(requests, resolve("preempt-evict"), engine, profile, backend="compiled")
    assert len(result.completed) == number
    assert _CountedId.compared < 100 * number
