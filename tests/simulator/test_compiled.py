"""The compiled engine leaps; the reference steps. Every figure of every request must be the same."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import Any

import pytest
from tests.support import shared_totals

from bidkv.policy import available, resolve
from bidkv.profiles import StepTimeProfile, load_profile
from bidkv.protocol.policy import EngineView, Policy
from bidkv.protocol.requests import RequestView, WorkloadRequest
from bidkv.results import RunResult
from bidkv.simulator import EngineConfig, SimulationError, simulate
from bidkv.simulator.run import Backend

pytest.importorskip("numba")

BATCHES = 25
WORKLOADS_PER_BATCH = 20
LEAST_SHARE_WITH_PREEMPTIONS = 0.5


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
    assert shared_totals(stepped) == shared_totals(leaped)
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
    config = EngineConfig(num_gpu_blocks=40, scheduling_policy="priority")
    with pytest.raises(ValueError, match="fcfs"):
        simulate([], resolve("lcf"), config, profile, backend="compiled")


@pytest.mark.parametrize("backend", ["python", "compiled"])
def test_disorder_is_an_error_that_names_the_request(backend: Backend, profile: StepTimeProfile) -> None:
    requests = [WorkloadRequest("a", 1.0, 5, 5), WorkloadRequest("b", 0.5, 5, 5)]
    with pytest.raises(SimulationError, match=r"'b' arrives at 0\.5"):
        simulate(requests, resolve("lcf"), EngineConfig(num_gpu_blocks=40), profile, backend=backend)


class _Watching(Policy):
    """Notes at each choice how often somebody was preempted at most, by its own count and by the engine's."""

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
