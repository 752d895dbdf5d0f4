"""Speed of the simulator: `pytest benchmarks/test_simulator_bench.py [--bench-trace FILE]`.

Requests per second of CPU time over a whole trace at 600 blocks and 32 sequences and at 8,192 and 256, the
latter also with prefix caching, synchronous and asynchronous; requests that can never fit are left out first.
And turns per second of CPU time of `agents` sessions in closed loop. The compiled backend is warmed up first.
"""

from __future__ import annotations

import importlib.util
import resource
import time
from typing import Any

import pytest
from benchmarks.requests_of import agent_sessions

from bidkv.policy import resolve
from bidkv.profiles import load_profile
from bidkv.simulator import EngineConfig, simulate
from bidkv.simulator.run import Backend
from bidkv.workloads import leave_out_unfit
from bidkv.workloads.traces import read_trace

ENGINES = [
    pytest.param(EngineConfig(num_gpu_blocks=600, max_num_seqs=32), id="600-32"),
    pytest.param(EngineConfig(num_gpu_blocks=8192, max_num_seqs=256), id="8192-256"),
]
CACHING = [
    pytest.param(EngineConfig(num_gpu_blocks=8192, max_num_seqs=256, enable_prefix_caching=True), id="sync"),
    pytest.param(
        EngineConfig(
            num_gpu_blocks=8192, max_num_seqs=256, enable_prefix_caching=True, async_scheduling=True
        ),
        id="async",
    ),
]
PROFILE = load_profile("h100-llama3.1-8b")
BACKENDS = [
    "python",
    pytest.param(
        "compiled",
        marks=pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed"),
    ),
]


@pytest.mark.parametrize("name", ["preempt-evict", "preempt-evict-sjf", "lcf", "fair", "fast", "on-time"])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_whole_trace(
    benchmark: Any, bench_trace: str, backend: Backend, engine: EngineConfig, name: str
) -> None:
    _time_trace(benchmark, bench_trace, backend, engine, name)


@pytest.mark.parametrize("name", ["preempt-evict", "fair"])
@pytest.mark.parametrize("engine", CACHING)
@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_a_whole_trace_with_prefix_caching(
    benchmark: Any, bench_trace: str, backend: Backend, engine: EngineConfig, name: str
) -> None:
    _time_trace(benchmark, bench_trace, backend, engine, name)


@pytest.mark.parametrize("name", ["preempt-evict", "fair", "sessions"])
@pytest.mark.parametrize("engine", CACHING)
@pytest.mark.parametrize("concurrent", [12, 80])
@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_sessions_in_closed_loop(
    benchmark: Any, backend: Backend, concurrent: int, engine: EngineConfig, name: str
) -> None:
    simulate(agent_sessions(2, 2), resolve(name), engine, PROFILE, backend=backend)
    cpu_s: list[float] = []

    def run() -> int:
        source = agent_sessions(150, concurrent)
        started = time.process_time()
        result = simulate(source, resolve(name), engine, PROFILE, backend=backend)
        cpu_s.append(time.process_time() - started)
        return len(result.completed)

    turns = benchmark.pedantic(run, rounds=3)
    assert turns > 150
    benchmark.extra_info["turns_per_cpu_s"] = round(turns / min(cpu_s))
    print(f"\n{backend} {name} {concurrent} at once: {benchmark.extra_info}")


def _time_trace(benchmark: Any, bench_trace: str, backend: Backend, engine: EngineConfig, name: str) -> None:
    fitting, _ = leave_out_unfit(read_trace(bench_trace), engine.usable_blocks, engine.block_size)
    requests = list(fitting)
    simulate(requests[:50], resolve(name), engine, PROFILE, backend=backend)
    cpu_s: list[float] = []

    def run() -> int:
        started = time.process_time()
        result = simulate(requests, resolve(name), engine, PROFILE, backend=backend)
        cpu_s.append(time.process_time() - started)
        return len(result.completed)

    assert benchmark.pedantic(run, rounds=3) == len(requests)
    benchmark.extra_info["requests"] = len(requests)
    benchmark.extra_info["requests_per_cpu_s"] = round(len(requests) / min(cpu_s))
    benchmark.extra_info["peak_memory_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    size = f"{engine.num_gpu_blocks}/{engine.max_num_seqs}"
    print(f"\n{backend} {name} {size}: {benchmark.extra_info}")
