"""Real vLLM's scheduler and the compiled simulator over the same requests, in one run.

    python -m benchmarks.speed_against_vllm [--trace FILE] [--requests N] [--sessions N] [--vllm-python FILE]

Needs numba here and vLLM in the other environment (`make test-vllm` makes it). At two engine sizes, and for
sessions of the generator `agents` in closed loop with prefix caching, it prints what each took and how many
requests (turns) that is a CPU second. Both must have done the same: steps, tokens,
preemptions and the simulated time are compared, and the run fails when they differ.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.requests_of import agent_sessions, requests_of

from bidkv.policy import resolve
from bidkv.profiles import load_profile
from bidkv.protocol.requests import WorkloadRequest
from bidkv.results import RunResult
from bidkv.simulator import EngineConfig, SessionSource, simulate

PROFILE = "h100-llama3.1-8b"
SIZES = (
    EngineConfig(num_gpu_blocks=600, max_num_seqs=32),
    EngineConfig(num_gpu_blocks=8192, max_num_seqs=256),
)
CACHING = EngineConfig(num_gpu_blocks=8192, max_num_seqs=256, enable_prefix_caching=True)
CONCURRENT_SESSIONS = 80
ROUNDS = 9


@dataclass(frozen=True)
class Pace:
    """One engine size: CPU seconds of both, the simulator's as the median of its rounds."""

    engine: EngineConfig
    requests: int
    steps: int
    preemptions: int
    real_calls_cpu_s: float
    real_cpu_s: float
    real_wall_s: float
    simulated_cpu_s: float
    simulated_wall_s: float

    def __str__(self) -> str:
        real, simulated = self.requests / self.real_cpu_s, self.requests / self.simulated_cpu_s
        return (
            f"{self.engine.num_gpu_blocks} blocks, {self.engine.max_num_seqs} sequences: "
            f"{self.requests} requests, {self.steps} steps, {self.preemptions} preemptions\n"
            f"  real scheduler, driven    {self.real_cpu_s:9.3f} s CPU, {self.real_wall_s:9.3f} s wall, "
            f"{real:9,.0f} requests per CPU second\n"
            f"  simulator                 {self.simulated_cpu_s:9.4f} s CPU, "
            f"{self.simulated_wall_s:9.4f} s wall, {simulated:9,.0f} requests per CPU second\n"
            f"  times faster              {self.real_cpu_s / self.simulated_cpu_s:9,.0f} "
            f"({self.real_calls_cpu_s / self.simulated_cpu_s:,.0f} than the scheduler's own calls alone)"
        )


def measure(trace: str, limit: int, engine: EngineConfig, vllm_python: str) -> Pace:
    """Run both; the simulator half of its rounds before the real scheduler and half after it.

    Raises:
        RuntimeError: they did not do the same.
    """
    size = (str(engine.num_gpu_blocks), str(engine.max_num_seqs))
    real = ("benchmarks.vllm.real_run", trace, str(limit), *size, PROFILE)
    return _compare(lambda: requests_of(trace, limit, engine), engine, real, vllm_python)


def measure_sessions(sessions: int, vllm_python: str) -> Pace:
    """Run both over the same sessions in closed loop; see :func:`measure`."""
    size = (str(CACHING.num_gpu_blocks), str(CACHING.max_num_seqs))
    real = ("benchmarks.vllm.real_sessions", str(sessions), str(CONCURRENT_SESSIONS), *size, PROFILE)
    return _compare(lambda: agent_sessions(sessions, CONCURRENT_SESSIONS), CACHING, real, vllm_python)


def _compare(
    make: Callable[[], list[WorkloadRequest] | SessionSource],
    engine: EngineConfig,
    real_arguments: tuple[str, ...],
    vllm_python: str,
) -> Pace:
    profile = load_profile(PROFILE)
    cpu_s: list[float] = []
    wall_s: list[float] = []

    def run() -> RunResult:
        requests = make()
        started, started_wall = time.process_time(), time.perf_counter()
        result = simulate(requests, resolve("preempt-evict"), engine, profile, backend="compiled")
        cpu_s.append(time.process_time() - started)
        wall_s.append(time.perf_counter() - started_wall)
        return result

    simulated = run()  # compiles
    cpu_s.clear()
    wall_s.clear()
    for _ in range(ROUNDS // 2):
        run()
    real = _real(real_arguments, vllm_python)
    for _ in range(ROUNDS - ROUNDS // 2):
        run()
    totals = simulated.totals
    did = (len(simulated.records), totals.steps, totals.scheduled_tokens, totals.preemptions)
    expected = tuple(real[key] for key in ("requests", "steps", "scheduled_tokens", "preemptions"))
    if did != expected or simulated.simulated_s != real["simulated_s"]:
        raise RuntimeError(f"the simulator did {did}, the real scheduler {expected}")
    return Pace(
        engine,
        len(simulated.records),
        totals.steps,
        totals.preemptions,
        real["calls_cpu_s"],
        real["cpu_s"],
        real["wall_s"],
        statistics.median(cpu_s),
        statistics.median(wall_s),
    )


def _real(arguments: tuple[str, ...], python: str) -> dict[str, float]:
    done = subprocess.run(
        [python, "-m", *arguments],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main(argv: Sequence[str] | None = None) -> int:
    """Print the figures of both engine sizes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trace", default="azure-conv", metavar="FILE", help="default: the slice that ships")
    parser.add_argument("--requests", type=int, default=2000, metavar="N", help="the first N; 0: all")
    parser.add_argument("--sessions", type=int, default=150, metavar="N", help="0: none")
    parser.add_argument("--vllm-python", default=".venv-vllm/bin/python", metavar="FILE")
    options = parser.parse_args(argv)
    if not Path(options.vllm_python).exists():
        parser.error(f"--vllm-python: no {options.vllm_python}: `make test-vllm` sets it up")
    for engine in SIZES:
        print(measure(options.trace, options.requests, engine, options.vllm_python), flush=True)
    if options.sessions:
        print(measure_sessions(options.sessions, options.vllm_python))
    return 0


if __name__ == "__main__":
    sys.exit(main())
