"""At which throughput a workload saturates an engine: the yardstick for rates nobody named."""

from __future__ import annotations

from bidkv.evaluation.saturation import queued_throughput_rps
from bidkv.experiments.simulated_driver import SimConfig
from bidkv.profiles import StepTimeProfile
from bidkv.workloads import leave_out_unfit
from bidkv.workloads.resolver import requests_of

FRACTIONS = (0.8, 1.0, 1.3)
"""Of saturation: below it, at it, and overloaded."""

_REQUESTS = 400
_AT_ONCE_RPS = 1e6


def saturation_rps(workload: str, seed: int, engine: SimConfig, profile: StepTimeProfile) -> float:
    """Return the throughput in requests a second when all requests are there from the start.

    The engine's own order schedules; the simulator needs no server and gives the same answer every time.

    Raises:
        ValueError: no such workload, or none of its requests fits.
        TraceError: a file that is no trace.
    """
    made = requests_of(workload, _REQUESTS, _AT_ONCE_RPS, seed)
    requests = list(leave_out_unfit(made, engine.usable_blocks, engine.block_size)[0])
    if not requests:
        raise ValueError(f"no request of {workload!r} fits into {engine.usable_blocks} blocks")
    return queued_throughput_rps(requests, engine, profile)
