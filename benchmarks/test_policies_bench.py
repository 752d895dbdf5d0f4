"""What a policy costs: seconds of a whole simulated run under pressure, all its decisions included."""

from __future__ import annotations

import math
from typing import Any

import pytest

from bidkv.policy import available, resolve
from bidkv.profiles import load_profile
from bidkv.protocol.requests import WorkloadRequest
from bidkv.simulator import simulate
from bidkv.tournament import BASELINE, SIZES
from bidkv.workloads.families import FAMILIES

REQUESTS = 2000
PROFILE = load_profile("h100-llama3.1-8b")
ENGINE = SIZES["M"].make_engine({})


@pytest.fixture(scope="module")
def overload() -> list[WorkloadRequest]:
    """ShareGPT lengths at 1.1 times what the engine sustains: memory is full and the queue grows."""
    family = FAMILIES["sharegpt"]
    queued = simulate(family(REQUESTS, math.inf, 1), resolve(BASELINE), ENGINE, PROFILE)
    return family(REQUESTS, 1.1 * REQUESTS / queued.span_s, 1)


@pytest.mark.parametrize("name", available())
def test_a_run_under_pressure(benchmark: Any, overload: list[WorkloadRequest], name: str) -> None:
    def run() -> Any:
        return simulate(overload, resolve(name), ENGINE, PROFILE, timeline_points=2)

    result = benchmark.pedantic(run, rounds=3, warmup_rounds=1)
    assert len(result.completed) == REQUESTS
    benchmark.extra_info["microseconds_per_request"] = benchmark.stats.stats.min * 1e6 / REQUESTS
    benchmark.extra_info["preemptions"] = result.totals.preemptions
