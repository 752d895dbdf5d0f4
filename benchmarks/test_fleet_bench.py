"""A day of traffic over three replicas: `pytest benchmarks/test_fleet_bench.py -s [--bench-trace FILE]`.

The trace is repeated for 24 hours and streamed; CPU seconds and peak memory are printed.
"""

from __future__ import annotations

import resource
import time
from typing import Any

import pytest

from bidkv.policy import resolve
from bidkv.profiles import load_profile
from bidkv.simulator import EngineConfig
from bidkv.simulator.fleet import simulate_fleet
from bidkv.workloads import leave_out_unfit, repeat_for
from bidkv.workloads.traces import read_trace

pytest.importorskip("numba")

ENGINE = EngineConfig(num_gpu_blocks=600, max_num_seqs=32)
PROFILE = load_profile("h100-llama3.1-8b")
DAY_S = 86_400.0


@pytest.mark.parametrize("router", ["round-robin", "least-loaded"])
@pytest.mark.parametrize("policy", ["preempt-evict", "fair"])
def test_a_day_of_traffic(benchmark: Any, bench_trace: str, policy: str, router: str) -> None:
    figures: dict[str, float] = {}

    def day() -> int:
        fitting, _ = leave_out_unfit(
            repeat_for(read_trace(bench_trace), DAY_S, seed=0), ENGINE.usable_blocks, ENGINE.block_size
        )
        left = 0

        def count(record: object) -> None:
            nonlocal left
            left += 1

        started = time.process_time()
        result = simulate_fleet(
            fitting, resolve(policy), ENGINE, PROFILE, replicas=3, router=router, on_record=count
        )
        figures["cpu_s"] = round(time.process_time() - started, 1)
        figures["simulated_hours"] = round(result.merged.simulated_s / 3600, 1)
        figures["preemptions"] = result.merged.totals.preemptions
        return left

    simulate_fleet([], resolve(policy), ENGINE, PROFILE, replicas=1)
    requests = benchmark.pedantic(day, rounds=1)
    assert requests > 100_000
    figures["peak_memory_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    benchmark.extra_info.update(figures, requests=requests)
    print(f"\n{policy} {router}: {benchmark.extra_info}")
