"""The queueing controller's floor as a gate: asked for by name, kept at every admission beside others."""

from __future__ import annotations

import random

import pytest

from bidkv.policy import resolve
from bidkv.policy.own.queueing_floor import QueueingFloor
from bidkv.profiles import load_profile
from bidkv.protocol.policy import EngineView
from bidkv.protocol.requests import RequestView, WorkloadRequest
from bidkv.simulator import EngineConfig, simulate

PROFILE = load_profile("h100-llama3.1-8b")
ENGINE = EngineConfig(num_gpu_blocks=601, max_num_seqs=32)


class Watched(QueueingFloor):
    """Notes the floor and what was free after each admission beside others."""

    def __init__(self) -> None:
        super().__init__()
        self.floor = 0
        self.seen: list[tuple[int, int]] = []

    def reserve_blocks(self, engine: EngineView) -> int:
        self.floor = super().reserve_blocks(engine)
        return self.floor

    def on_admit(self, request: RequestView, engine: EngineView) -> None:
        if len(engine.running) > 1:
            self.seen.append((engine.free_blocks, self.floor))
        super().on_admit(request, engine)


def busy(count: int = 400, rate_rps: float = 2.0) -> list[WorkloadRequest]:
    rng, now_s, requests = random.Random(3), 0.0, []
    for index in range(count):
        now_s += rng.expovariate(rate_rps)
        requests.append(WorkloadRequest(f"r{index}", now_s, rng.randint(10, 800), rng.randint(10, 400)))
    return requests


def test_every_admission_leaves_the_floor_free() -> None:
    policy = Watched()
    result = simulate(busy(), policy, ENGINE, PROFILE, backend="python")
    assert len(result.completed) == 400
    assert len(policy.seen) > 50
    assert max(floor for _, floor in policy.seen) > 60
    assert all(free >= floor for free, floor in policy.seen)


def test_a_busy_server_stays_half_empty_as_the_theory_says() -> None:
    requests = busy(rate_rps=8.0)
    plain = simulate(requests, resolve("preempt-evict"), ENGINE, PROFILE).summary()
    gated = simulate(requests, resolve("queueing-floor"), ENGINE, PROFILE).summary()
    assert plain["kv_utilization_mean"] > 0.6
    assert gated["kv_utilization_mean"] < 0.5
    assert gated["preemptions"] < plain["preemptions"]


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="safety_margin"):
        resolve("queueing-floor:margin=0.5")
    with pytest.raises(ValueError, match="window_seconds"):
        resolve("queueing-floor:window_s=0")
